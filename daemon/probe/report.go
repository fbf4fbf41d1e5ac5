package probe

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a fault cost. Times are in milliseconds.
type Report struct {
	Fault   string   `json:"fault"`
	Files   int      `json:"files"`    // written in all
	WholeMS float64  `json:"whole_ms"` // from the end of healing until every volume had all its copies
	Steady  Phase    `json:"steady"`   // before the fault
	During  Phase    `json:"during"`   // from the fault until the cluster was whole
	Wrong   []string `json:"wrong"`    // what must never be: lost, wrong or repeated; empty when all is well

	injected, healed, whole time.Duration // since the beginning of the run
}

// Phase is a part of the run.
type Phase struct {
	Seconds  float64  `json:"seconds"`
	Requests []Counts `json:"requests"` // by kind
	Failed   int      `json:"failed"`   // of all kinds
	WriteGap float64  `json:"write_gap_ms"`
	ReadGap  float64  `json:"read_gap_ms"` // longest time without a success
	Latency  Latency  `json:"latency_ms"`  // of all kinds, failed ones too
	Slowest  []string `json:"slowest"`     // requests, the slowest first
	Examples []string `json:"error_examples,omitempty"`
}

// Counts are the requests of one kind.
type Counts struct {
	Kind    string  `json:"kind"`
	Done    int     `json:"done"`
	Failed  int     `json:"failed"`
	Latency Latency `json:"latency_ms"`
}

// Latency is from the moment a request was due until its answer was complete.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// Good reports whether no request failed and nothing was wrong.
func (r *Report) Good() bool { return r.Steady.Failed+r.During.Failed+len(r.Wrong) == 0 }

const (
	mostExamples = 5
	mostSlowest  = 8
)

func (r *Report) wrong(format string, args ...any) {
	r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
}

// sum counts the requests of the run. One that was under way when the fault came
// is of the time during the fault.
func (r *Report) sum(ops []op) {
	r.WholeMS = ms(r.whole - r.healed)
	steady := func(o op) bool { return o.end <= r.injected }
	r.Steady = phase(slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return !steady(o) }), 0, r.injected)
	r.During = phase(slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return steady(o) || o.begin >= r.whole }), r.injected, r.whole)
}

func phase(ops []op, from, to time.Duration) Phase {
	p := Phase{Seconds: (to - from).Seconds()}
	all := hdrhistogram.New(1, time.Hour.Microseconds(), 3)
	for _, k := range kinds {
		c, h := Counts{Kind: string(k)}, hdrhistogram.New(1, time.Hour.Microseconds(), 3)
		for _, o := range ops {
			if o.kind != k {
				continue
			}
			took := max(1, (o.end - o.begin).Microseconds())
			_ = h.RecordValue(took) // in range
			c.Done++
			if o.err != nil {
				c.Done--
				c.Failed++
				p.example(o)
			}
		}
		all.Merge(h)
		c.Latency = latency(h)
		p.Failed += c.Failed
		p.Requests = append(p.Requests, c)
	}
	p.Latency = latency(all)
	p.Slowest = slowest(ops)
	p.WriteGap = ms(gap(ops, from, to, func(k kind) bool { return k == submit || k == assign || k == overwrite }))
	p.ReadGap = ms(gap(ops, from, to, func(k kind) bool { return k == get }))
	return p
}

func (p *Phase) example(o op) {
	if len(p.Examples) < mostExamples {
		p.Examples = append(p.Examples, fmt.Sprintf("%s: %v", o, o.err))
	}
}

func slowest(ops []op) (text []string) {
	ops = slices.SortedFunc(slices.Values(ops), func(a, b op) int { return cmp.Compare(b.end-b.begin, a.end-a.begin) })
	for _, o := range ops[:min(len(ops), mostSlowest)] {
		text = append(text, o.String())
	}
	return text
}

func (o op) String() string {
	return fmt.Sprintf("%s of %s at %s, %s after the start, took %s", o.kind, o.id, o.at, o.begin.Round(time.Millisecond), (o.end - o.begin).Round(time.Millisecond))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func latency(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{P50: at(50), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}

// gap is the longest time within a phase in which no request of these kinds ended
// well.
func gap(ops []op, from, to time.Duration, count func(kind) bool) (longest time.Duration) {
	ends := []time.Duration{from, to}
	for _, o := range ops {
		if count(o.kind) && o.err == nil && o.end > from && o.end < to {
			ends = append(ends, o.end)
		}
	}
	slices.Sort(ends)
	for i := 1; i < len(ends); i++ {
		longest = max(longest, ends[i]-ends[i-1])
	}
	return longest
}

// Print writes reports as one table for people, and below it what went wrong.
func Print(out io.Writer, reports ...*Report) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "FAULT\tREQUESTS\tFAILED\tWRITE GAP\tREAD GAP\tP50\tP99\tP99.9\tMAX MS\tSTEADY P99\tWHOLE AFTER\tWRONG\t")
	for _, r := range reports {
		d := r.During
		requests := d.Failed
		for _, c := range d.Requests {
			requests += c.Done
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f s\t%d\t\n", cmp.Or(r.Fault, "none"), requests, d.Failed,
			d.WriteGap, d.ReadGap, d.Latency.P50, d.Latency.P99, d.Latency.P999, d.Latency.Max, r.Steady.Latency.P99, r.WholeMS/1000, len(r.Wrong))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		for _, c := range append(slices.Clone(r.Steady.Requests), r.During.Requests...) {
			if c.Failed > 0 {
				fmt.Fprintf(out, "%s: %d of %d failed: %s\n", cmp.Or(r.Fault, "none"), c.Failed, c.Done+c.Failed, c.Kind)
			}
		}
		for _, e := range slices.Concat(r.Steady.Examples, r.During.Examples) {
			fmt.Fprintln(out, "  "+e)
		}
		for _, w := range r.Wrong {
			fmt.Fprintln(out, "WRONG: "+w)
		}
	}
	return nil
}
