package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"weedd/daemon/client"
	"weedd/volume"
)

type benchOptions struct {
	masters     []string
	spec        client.Spec
	size        byteSize
	count       int
	reads       int
	concurrency int
	seed        uint64
	keep        bool
	json        bool
}

func newBenchCommand() *cobra.Command {
	opt := benchOptions{size: 1 << 10}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure writes and random reads of a cluster",
		Long: `Bench writes files as clients do (assign an id at a master, put the bytes to the
volume server that it names), then reads them in random order and compares every
byte, then deletes them. For each of the three it prints operations and bytes per
second, the percentiles of the latency of one operation, retries included, and
errors. The bytes are random, and the same for the same --seed.

The exit code is 1 if anything failed.`,
		Example: `  weedd bench
  weedd bench --count 100000 --concurrency 64 --replication 001
  weedd bench --size 4MiB --count 500 --collection bench --json
  weedd bench --master 192.168.100.117:9333,192.168.100.172:9333 --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench(cmd.Context(), opt, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addMasterFlag(cmd, &opt.masters)
	addSpecFlags(cmd, &opt.spec)
	f := cmd.Flags()
	f.Var(&opt.size, "size", "bytes in a file")
	f.IntVarP(&opt.count, "count", "n", 10000, "files to write")
	f.IntVar(&opt.reads, "reads", 0, "files to read (default: as many as are written)")
	f.IntVar(&opt.concurrency, "concurrency", 16, "requests at a time")
	f.Uint64Var(&opt.seed, "seed", 1, "of the random bytes and the order of reads")
	f.BoolVar(&opt.keep, "keep", false, "leave the files in the cluster")
	f.BoolVar(&opt.json, "json", false, "print the result in JSON")
	return cmd
}

// benchPhase is the result of writing, reading or deleting.
type benchPhase struct {
	Name        string         `json:"name"`
	Done        int64          `json:"done"`
	Errors      int64          `json:"errors"`
	Bytes       int64          `json:"bytes"`
	Seconds     float64        `json:"seconds"`
	PerSecond   float64        `json:"per_second"`
	BytesPerSec float64        `json:"bytes_per_second"`
	Latency     benchLatencies `json:"latency_ms"`
	Examples    []string       `json:"error_examples,omitempty"`
}

// benchLatencies are in milliseconds.
type benchLatencies struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// benchReport is what --json prints.
type benchReport struct {
	Size        int64         `json:"size"`
	Count       int           `json:"count"`
	Concurrency int           `json:"concurrency"`
	Collection  string        `json:"collection,omitempty"`
	Replication string        `json:"replication,omitempty"`
	Seed        uint64        `json:"seed"`
	Phases      []*benchPhase `json:"phases"`
}

// benching is one run of bench.
type benching struct {
	opt    benchOptions
	client *client.Client
	stderr io.Writer

	mu    sync.Mutex
	files []benchFile
}

// benchFile is a file that was written: its number, which says what is in it.
type benchFile struct {
	n  int
	id volume.FileID
}

func bench(ctx context.Context, opt benchOptions, stdout, stderr io.Writer) error {
	opt.reads = cmp.Or(opt.reads, opt.count)
	if opt.count < 1 || opt.reads < 1 || opt.concurrency < 1 {
		return errors.New("--count, --reads and --concurrency are at least 1")
	}
	c, err := client.New(client.Options{Masters: opt.masters})
	if err != nil {
		return err
	}
	defer c.Close()
	b := &benching{opt: opt, client: c, stderr: stderr}
	phases := b.run(ctx)
	if err := b.print(stdout, phases); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the end: %w", context.Cause(ctx))
	}
	var failed int64
	for _, p := range phases {
		failed += p.Errors
	}
	if failed > 0 {
		return fmt.Errorf("%s failed", plural(int(failed), "operation"))
	}
	return nil
}

// leastCleanup is how long deleting may take after an interruption.
const leastCleanup = 30 * time.Second

// run writes, reads and deletes. It deletes even when it is interrupted.
func (b *benching) run(ctx context.Context) []*benchPhase {
	phases := []*benchPhase{b.phase(ctx, "write", b.opt.count, b.write)}
	if len(b.files) > 0 && ctx.Err() == nil {
		phases = append(phases, b.phase(ctx, "read", b.opt.reads, b.read))
	}
	if len(b.files) == 0 || b.opt.keep {
		return phases
	}
	if ctx.Err() != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), leastCleanup)
		defer stop()
	}
	return append(phases, b.phase(ctx, "delete", len(b.files), b.delete))
}

// content is the bytes of file number n.
func (b *benching) content(n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], b.opt.seed)
	binary.LittleEndian.PutUint64(seed[8:], uint64(n))
	body := make([]byte, b.opt.size)
	_, _ = rand.NewChaCha8(seed).Read(body) // never fails
	return body
}

// An operation of a phase prepares number n, and returns the part to be timed,
// which says how many bytes it moved.
type benchOp func(ctx context.Context, n int) func() (int64, error)

func (b *benching) write(ctx context.Context, n int) func() (int64, error) {
	body := b.content(n)
	return func() (int64, error) {
		st, err := b.client.Put(ctx, b.opt.spec, client.Source{Type: "application/octet-stream", Open: client.Bytes("", body).Open})
		if err != nil {
			return 0, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.files = append(b.files, benchFile{n, st.ID})
		return st.Size, nil
	}
}

func (b *benching) read(ctx context.Context, n int) func() (int64, error) {
	f := b.files[rand.New(rand.NewPCG(b.opt.seed, uint64(n))).IntN(len(b.files))]
	want := b.content(f.n)
	return func() (int64, error) {
		err := b.client.Get(ctx, f.id, func(o client.Object) error {
			got, err := io.ReadAll(io.LimitReader(o.Body, int64(len(want))+1))
			if err == nil && !bytes.Equal(got, want) {
				return fmt.Errorf("%w: not the bytes that were written", volume.ErrCorrupt)
			}
			return err
		})
		return int64(len(want)), err
	}
}

func (b *benching) delete(ctx context.Context, n int) func() (int64, error) {
	return func() (int64, error) { return 0, b.client.Delete(ctx, b.files[n].id) }
}

const mostExamples = 5

// phase does count operations, several at a time, and measures them.
func (b *benching) phase(ctx context.Context, name string, count int, op benchOp) *benchPhase {
	var (
		p       = &benchPhase{Name: name}
		bar     = newProgress(b.stderr, name, int64(count), false)
		all     = newHistogram()
		next    atomic.Int64
		mu      sync.Mutex // over p and all
		workers sync.WaitGroup
		failing streak
		stop    atomic.Bool
	)
	began := time.Now()
	for range b.opt.concurrency {
		workers.Go(func() {
			own := newHistogram()
			for !stop.Load() && ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= count {
					break
				}
				do := op(ctx, n)
				start := time.Now()
				moved, err := do()
				took := time.Since(start)
				if err != nil && ctx.Err() != nil {
					break
				}
				if !failing.after(err) {
					stop.Store(true)
				}
				mu.Lock()
				p.note(moved, err)
				if err != nil {
					bar.describe(fmt.Sprintf("%s, %d errors", name, p.Errors))
				}
				mu.Unlock()
				if err == nil {
					own.record(took)
				}
				bar.add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(own.Histogram)
		})
	}
	workers.Wait()
	bar.done()
	p.sum(time.Since(began), all)
	return p
}

func (p *benchPhase) note(moved int64, err error) {
	if err == nil {
		p.Done++
		p.Bytes += moved
		return
	}
	p.Errors++
	if len(p.Examples) < mostExamples {
		p.Examples = append(p.Examples, err.Error())
	}
}

func (p *benchPhase) sum(took time.Duration, h histogram) {
	p.Seconds = took.Seconds()
	if p.Seconds > 0 {
		p.PerSecond = float64(p.Done) / p.Seconds
		p.BytesPerSec = float64(p.Bytes) / p.Seconds
	}
	if p.Done == 0 {
		return
	}
	ms := func(us int64) float64 { return float64(us) / 1000 }
	p.Latency = benchLatencies{
		Min: ms(h.Min()), Mean: h.Mean() / 1000, P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)),
		P99: ms(h.ValueAtQuantile(99)), P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
	}
}

// histogram counts latencies in microseconds, up to ten minutes, to three digits.
type histogram struct{ *hdrhistogram.Histogram }

const longestLatency = 10 * time.Minute

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, longestLatency.Microseconds(), 3)}
}

func (h histogram) record(d time.Duration) {
	_ = h.RecordValue(min(d, longestLatency).Microseconds()) // in range, so it cannot fail
}

func (b *benching) print(out io.Writer, phases []*benchPhase) error {
	o := b.opt
	if o.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(benchReport{Size: int64(o.size), Count: o.count, Concurrency: o.concurrency, Collection: o.spec.Collection,
			Replication: o.spec.Replication, Seed: o.seed, Phases: phases})
	}
	fmt.Fprintf(out, "%d files of %s, %d at a time, replication %s, seed %d\n\n", o.count, formatBytes(int64(o.size)), o.concurrency,
		cmp.Or(o.spec.Replication, "by default"), o.seed)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tDONE\tERRORS\tPER SECOND\tBYTES PER SECOND\tMIN\tMEAN\tP50\tP90\tP99\tP99.9\tMAX MS\t")
	for _, p := range phases {
		l := p.Latency
		fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", p.Name, p.Done, p.Errors, p.PerSecond,
			formatBytes(int64(p.BytesPerSec)), l.Min, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range phases {
		for _, e := range p.Examples {
			fmt.Fprintf(out, "%s: %s\n", p.Name, e)
		}
	}
	return nil
}
