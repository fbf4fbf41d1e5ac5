package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"weedd/volume"
)

// metrics counts what happens, and looks at the rest when it is asked.
type metrics struct {
	server   *Server
	corrupt  prometheus.Counter
	scrubbed prometheus.Counter
	damaged  prometheus.Counter
	repaired prometheus.Counter
	forwards prometheus.Counter
	epochs   prometheus.Counter

	compactions, compactionsFailed prometheus.Counter

	copies *prometheus.Desc
	bytes  *prometheus.Desc
	disk   *prometheus.Desc
	fenced *prometheus.Desc
	aside  *prometheus.Desc
	bad    *prometheus.Desc
}

func newMetrics(s *Server) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "weedd_volume_" + name, Help: help})
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("weedd_volume_"+name, help, labels, nil)
	}
	return &metrics{
		server:            s,
		corrupt:           counter("corrupt_reads_total", "Reads that met bytes whose checksum was wrong."),
		forwards:          counter("forwards_total", "Writes and deletes passed on to the primary on another node."),
		scrubbed:          counter("scrubbed_bytes_total", "Bytes of .dat files looked through."),
		damaged:           counter("damage_total", "Records and index rows found bad by scrubbing, or after a bad read."),
		repaired:          counter("repaired_total", "Of those, the ones that were repaired."),
		epochs:            counter("epoch_changes_total", "New epochs made durable by copies of this node."),
		compactions:       counter("compactions_total", "Volumes compacted while a copy of this node led them."),
		compactionsFailed: counter("compactions_failed_total", "Compactions that came to nothing while a copy of this node led."),
		copies:            desc("copies", "Copies on this node, by what they do.", "role"),
		bytes:             desc("bytes", "Bytes of all .dat files served."),
		disk:              desc("disk_bytes", "Size and free bytes of the file systems of the directories.", "dir", "kind"),
		fenced:            desc("disk_fenced", "1 for a directory that takes nothing new, for want of room or because its disk is in trouble.", "dir"),
		aside:             desc("aside", "Volumes on disk that are not served, or only read."),
		bad:               desc("damaged_records", "Records known to be bad that could not be repaired."),
	}
}

// compacted counts what became of a compaction.
func (m *metrics) compacted(err error) {
	if err != nil {
		m.compactionsFailed.Inc()
		return
	}
	m.compactions.Inc()
}

// Collectors is what the process registers with Prometheus.
func (s *Server) Collectors() []prometheus.Collector { return []prometheus.Collector{s.metrics} }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.corrupt.Desc(), m.scrubbed.Desc(), m.damaged.Desc(), m.repaired.Desc(), m.forwards.Desc(), m.epochs.Desc(), m.compactions.Desc(), m.compactionsFailed.Desc(), m.copies, m.bytes, m.disk, m.fenced, m.aside, m.bad} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	out <- m.corrupt
	out <- m.scrubbed
	out <- m.damaged
	out <- m.repaired
	out <- m.forwards
	out <- m.epochs
	out <- m.compactions
	out <- m.compactionsFailed
	roles, size := map[string]int{"leading": 0, "following": 0, "failed": 0, "lost": 0}, int64(0)
	bad := 0
	for _, c := range m.server.reports() {
		size += c.Size
		bad += c.Damaged
		switch {
		case c.State == volume.CopyLost:
			roles["lost"]++
		case c.State == volume.CopyFailed:
			roles["failed"]++
		case c.Leads:
			roles["leading"]++
		default:
			roles["following"]++
		}
	}
	for role, n := range roles {
		gauge(m.copies, float64(n), role)
	}
	gauge(m.bytes, float64(size))
	gauge(m.bad, float64(bad))
	for _, d := range m.server.opts.Store.Disks() {
		gauge(m.disk, float64(d.AllB), d.Dir, "all")
		gauge(m.disk, float64(d.FreeB), d.Dir, "free")
		fenced := 0.0
		if d.Fenced != "" {
			fenced = 1
		}
		gauge(m.fenced, fenced, d.Dir)
	}
	gauge(m.aside, float64(len(m.server.aside())))
}
