package wire

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the requests of one API. Safe for concurrent use.
type Metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	methods   map[string]*methodMetrics // "other" for those that HTTP does not know
	running   prometheus.Gauge
	uploads   prometheus.Gauge
	downloads prometheus.Gauge
}

// NewMetrics makes the metrics of the API with that name ("master", "volume").
// Two APIs of one process share the metrics' names and differ by the label api.
func NewMetrics(api string) *Metrics {
	labels := prometheus.Labels{"api": api}
	m := &Metrics{
		methods: map[string]*methodMetrics{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weedd_http_requests_total", ConstLabels: labels,
			Help: "Requests answered, by method and status.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weedd_http_request_seconds", ConstLabels: labels,
			Help:    "Time from the first line of a request to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 13), // 0.1 ms to 6 s
		}, []string{"method"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weedd_http_requests_running", ConstLabels: labels,
			Help: "Requests being answered.",
		}),
		uploads: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weedd_http_upload_bytes_running", ConstLabels: labels,
			Help: "Bytes of memory set aside for uploads being received or stored.",
		}),
		downloads: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weedd_http_download_bytes_running", ConstLabels: labels,
			Help: "Bytes of files held here that are being sent.",
		}),
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", other} {
		m.methods[method] = &methodMetrics{}
	}
	return m
}

// other is the label of methods that HTTP does not know, so that clients cannot make
// up labels.
const other = "other"

// methodMetrics are the metrics of one method, found by their labels once.
type methodMetrics struct {
	once    sync.Once
	seconds prometheus.Observer
	codes   [600]atomic.Pointer[prometheus.Counter] // by status
}

// Collectors is what the process registers.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.running, m.uploads, m.downloads}
}

// Begin notes that a request has begun.
func (m *Metrics) Begin() { m.running.Inc() }

// End notes that a request has been answered.
func (m *Metrics) End(method string, status int, took time.Duration) {
	m.running.Dec()
	of := m.methods[method]
	if of == nil {
		method, of = other, m.methods[other]
	}
	of.once.Do(func() { of.seconds = m.seconds.WithLabelValues(method) })
	of.seconds.Observe(took.Seconds())
	status = min(max(status, 0), len(of.codes)-1)
	requests := of.codes[status].Load()
	if requests == nil {
		counter := m.requests.WithLabelValues(method, strconv.Itoa(status))
		requests = &counter
		of.codes[status].Store(requests)
	}
	(*requests).Inc()
}

// Uploading notes n more (or fewer) bytes of uploads in memory.
func (m *Metrics) Uploading(n int64) { m.uploads.Add(float64(n)) }

// Downloading notes n more (or fewer) bytes of files being sent.
func (m *Metrics) Downloading(n int64) { m.downloads.Add(float64(n)) }
