package wire

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the requests of one API. Safe for concurrent use.
type Metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	running   prometheus.Gauge
	uploads   prometheus.Gauge
	downloads prometheus.Gauge
}

// NewMetrics makes the metrics of the API with that name ("master", "volume").
// Two APIs of one process share the metrics' names and differ by the label api.
func NewMetrics(api string) *Metrics {
	labels := prometheus.Labels{"api": api}
	return &Metrics{
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
}

// Collectors is what the process registers.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.running, m.uploads, m.downloads}
}

// Begin notes that a request has begun.
func (m *Metrics) Begin() { m.running.Inc() }

// End notes that a request has been answered. Methods that HTTP does not know
// are counted together, so that clients cannot make up labels.
func (m *Metrics) End(method string, status int, took time.Duration) {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS":
	default:
		method = "other"
	}
	m.running.Dec()
	m.requests.WithLabelValues(method, statusText(status)).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

// Uploading notes n more (or fewer) bytes of uploads in memory.
func (m *Metrics) Uploading(n int64) { m.uploads.Add(float64(n)) }

// Downloading notes n more (or fewer) bytes of files being sent.
func (m *Metrics) Downloading(n int64) { m.downloads.Add(float64(n)) }

func statusText(status int) string {
	switch status { // the usual ones, without making a string for each request
	case 200:
		return "200"
	case 201:
		return "201"
	case 206:
		return "206"
	case 404:
		return "404"
	}
	return strconv.Itoa(status)
}
