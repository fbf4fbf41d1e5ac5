package leader

import "github.com/prometheus/client_golang/prometheus"

// metrics shows what the leader counts; a master that does not lead shows nothing.
type metrics struct {
	leader *Leader

	copies, bytes, seconds           *prometheus.Desc
	drainCopies, drainBytes, drained *prometheus.Desc
}

// Collectors is what the process registers with Prometheus.
func (l *Leader) Collectors() []prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("weedd_master_"+name, help, labels, nil)
	}
	return []prometheus.Collector{&metrics{
		leader:      l,
		copies:      desc("repair_copies", "Copies that are missing, catching up, or to be replaced."),
		bytes:       desc("repair_bytes", "Bytes that have yet to be copied to them."),
		seconds:     desc("repair_seconds", "How long that takes as it goes now; -1 while that is not known."),
		drainCopies: desc("drain_copies", "Copies that have yet to leave a node or directory that is being drained.", "node", "dir"),
		drainBytes:  desc("drain_bytes", "Bytes of these copies.", "node", "dir"),
		drained:     desc("drain_done", "1 when nothing is left on a node or directory that is being drained.", "node", "dir"),
	}}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.copies, m.bytes, m.seconds, m.drainCopies, m.drainBytes, m.drained} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.leader.mu.Lock()
	t := m.leader.term
	m.leader.mu.Unlock()
	if t == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	repair, drains := t.progress.shown()
	gauge(m.copies, float64(repair.Copies))
	gauge(m.bytes, float64(repair.Bytes))
	gauge(m.seconds, float64(repair.Seconds))
	for _, d := range drains {
		done := 0.0
		if d.Done {
			done = 1
		}
		gauge(m.drainCopies, float64(d.Work.Copies), string(d.Node), d.Dir)
		gauge(m.drainBytes, float64(d.Work.Bytes), string(d.Node), d.Dir)
		gauge(m.drained, done, string(d.Node), d.Dir)
	}
}
