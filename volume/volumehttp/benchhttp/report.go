package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// ratios is what we want to know, and our aims.
var ratios = []struct {
	name     string
	num, den string // names of series
	aim      float64
	at       int // the concurrency for which the aim holds; 0 for all
}{
	{"GET weedd / bare", "GET weedd", "GET bare", 0.85, 0},
	{"GET floor / bare", "GET floor", "GET bare", 0, 0},
	{"GET weedd / old", "GET weedd", "GET old", 0, 0},
	{"POST os / bare", "POST os", "POST bare", 0.70, 0},
	{"POST os / old", "POST os", "POST os old", 0, 0},
	{"POST group / bare", "POST group", "POST bare", 0.60, 64},
	{"POST floor / bare", "POST floor", "POST bare", 0, 0},
	{"POST group / old", "POST group", "POST group old", 0, 0},
	{"POST group / os", "POST group", "POST os", 0.80, 64},
	{"POST 001 / 000, two nodes", "POST 001", "POST 000", 0.50, 0},
}

// report is the outcome.
type report struct {
	Size    int       `json:"size"` // bytes of a file
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"` // of each drive
	Rates   []rateRow `json:"rates"`
	Half    []halfRow `json:"half"`
	Ratios  []rateCmp `json:"ratios"`
}

// rateRow is what one series did, over all rounds.
type rateRow struct {
	Series      string  `json:"series"`
	Concurrency int     `json:"concurrency"`
	PerSecond   float64 `json:"per_second"` // median of the rounds
	CPU         float64 `json:"cpu_us"`     // of the server, for one answer; median of the rounds
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
}

// tail is our aim for p99 / p50 at half load.
const tail = 3

// halfRow is how one series answered at half of the rate that it had reached.
type halfRow struct {
	rateRow
	Tail    float64 `json:"p99_by_p50"` // median of the rounds
	Reached bool    `json:"reached"`
}

// rateCmp is the median of the rounds' ratios.
type rateCmp struct {
	Name        string  `json:"name"`
	Concurrency int     `json:"concurrency"`
	Ratio       float64 `json:"ratio"`
	Low         float64 `json:"low"` // of any round
	High        float64 `json:"high"`
	Aim         float64 `json:"aim,omitempty"`
	Reached     bool    `json:"reached"`
}

func (rep *report) add(conc int, all []series, runs map[string][]result) {
	for _, s := range all {
		rep.Rates = append(rep.Rates, rowOf(s.name, conc, runs[s.name]))
	}
	for _, q := range ratios {
		if runs[q.num] == nil || runs[q.den] == nil {
			continue
		}
		var values []float64
		for i := range runs[q.num] {
			values = append(values, runs[q.num][i].rate/runs[q.den][i].rate)
		}
		c := rateCmp{Name: q.name, Concurrency: conc, Ratio: median(values), Low: slices.Min(values), High: slices.Max(values)}
		if q.at == 0 || q.at == conc {
			c.Aim = q.aim
		}
		c.Reached = c.Ratio >= c.Aim
		rep.Ratios = append(rep.Ratios, c)
	}
}

func (rep *report) addHalf(conc int, all []series, runs map[string][]result) {
	for _, s := range all {
		var tails []float64
		for _, r := range runs[s.name] {
			tails = append(tails, float64(r.latency.ValueAtQuantile(99))/float64(r.latency.ValueAtQuantile(50)))
		}
		h := halfRow{rateRow: rowOf(s.name, conc, runs[s.name]), Tail: median(tails)}
		h.Reached = h.Tail <= tail
		rep.Half = append(rep.Half, h)
	}
}

func rowOf(name string, conc int, runs []result) rateRow {
	var rates, cpu []float64
	latency := hdr.New(1, 60_000_000, 3)
	for _, r := range runs {
		rates = append(rates, r.rate)
		cpu = append(cpu, float64(r.cpu.Nanoseconds())/1000)
		latency.Merge(r.latency)
	}
	return rateRow{name, conc, median(rates), median(cpu), float64(latency.ValueAtQuantile(50)) / 1000, float64(latency.ValueAtQuantile(99)) / 1000}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (rep *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d bytes\tconnections\tper second\tp50 ms\tp99 ms\tserver's processor time, µs\t\n", rep.Size)
	for _, r := range rep.Rates {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t\n", r.Series, r.Concurrency, r.PerSecond, r.P50, r.P99, r.CPU)
	}
	fmt.Fprintf(w, "\t\t\t\t\t\n")
	fmt.Fprintf(w, "ratio, median of %d\tconnections\tratio\trange\taim\t\n", rep.Rounds)
	for _, r := range rep.Ratios {
		aim := ""
		switch {
		case r.Aim == 0:
		case r.Reached:
			aim = fmt.Sprintf("%.2f reached", r.Aim)
		default:
			aim = fmt.Sprintf("%.2f missed", r.Aim)
		}
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.2f-%.2f\t%s\t\n", r.Name, r.Concurrency, r.Ratio, r.Low, r.High, aim)
	}
	fmt.Fprintf(w, "\t\t\t\t\t\t\n")
	fmt.Fprintf(w, "half load\tconnections\tper second\tp50 ms\tp99 ms\tp99 / p50\t\n")
	for _, r := range rep.Half {
		how := "reached"
		if !r.Reached {
			how = "missed"
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.1f, %d %s\t\n", r.Series, r.Concurrency, r.PerSecond, r.P50, r.P99, r.Tail, tail, how)
	}
	return w.Flush()
}
