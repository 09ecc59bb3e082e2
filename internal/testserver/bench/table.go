package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A report is what one row says, a line at a time: goals and lines of the table, and lines in the
// format of Go's benchmarks.
type report struct {
	out   io.Writer
	scale float64
}

func newReport(out io.Writer, scale float64) *report { return &report{out, scale} }

// long is d at the report's scale, and many is n.
func (r *report) long(d time.Duration) time.Duration { return time.Duration(float64(d) * r.scale) }
func (r *report) many(n int) int                     { return max(int(float64(n)*r.scale), 1) }

// goal is a line of the first table.
func (r *report) goal(what, goal, measured string, met bool) {
	verdict := "met"
	if !met {
		verdict = "**missed**"
	}
	fmt.Fprintf(r.out, "goal\t| %s | %s | %s | %s |\n", what, goal, measured, verdict)
}

// atMost is a goal for one figure.
func (r *report) atMost(what string, measured, goal float64, format string) {
	r.goal(what, "≤ "+fmt.Sprintf(format, goal), fmt.Sprintf(format, measured), measured <= goal)
}

func (r *report) atLeast(what string, measured, goal float64, format string) {
	r.goal(what, "≥ "+fmt.Sprintf(format, goal), fmt.Sprintf(format, measured), measured >= goal)
}

// line is a line of the second table.
func (r *report) line(row, name, measured, ratio string) {
	fmt.Fprintf(r.out, "line\t| %s | %s | %s | %s |\n", row, name, measured, ratio)
}

// bench is a sample for benchstat: value and unit in turns.
func (r *report) bench(row, name string, calls int, metrics ...any) {
	fmt.Fprintf(r.out, "Benchmark%s/%s-%d\t%d",
		noSpace(row), noSpace(name), runtime.GOMAXPROCS(0), calls)
	for i := 0; i < len(metrics); i += 2 {
		fmt.Fprintf(r.out, "\t%.5g %s", metrics[i], metrics[i+1])
	}
	fmt.Fprintln(r.out)
}

func noSpace(s string) string {
	s = strings.NewReplacer(" ", "_", ",", "").Replace(s)
	return strings.ToUpper(s[:1]) + s[1:]
}

// A thing is measured beside others. What prepare does is not counted.
type thing struct {
	name    string
	do      func(n int)
	prepare func(n int)
	batch   bool // n is as many as inTurns is told
}

func repeat(f func()) func(int) {
	return func(n int) {
		for range n {
			f()
		}
	}
}

// turns is how long one call of each thing took, turn by turn. What else the machine does falls on
// all things of a turn, so what is compared is compared within a turn.
type turns struct {
	things []thing
	calls  []int       // in a turn, of each thing
	took   [][]float64 // ns, of each thing
}

// No turn is so long that the operating system often takes the core away within it: else, on a busy
// machine, what is slow would look slower than it is.
const turnLength = 500 * time.Microsecond

// inTurns calls each of the things up to so many times, and again, for as long as it is told. Each
// turn begins with another one, so that none always follows the same.
func (r *report) inTurns(long time.Duration, calls int, things ...thing) *turns {
	t := &turns{things, make([]int, len(things)), make([][]float64, len(things))}
	for i, one := range things {
		t.calls[i] = min(calls, 8)
		ns := min(t.once(i), t.once(i), t.once(i))
		if t.calls[i] = calls; !one.batch {
			t.calls[i] = max(1, min(calls, int(float64(turnLength)/ns)))
		}
		t.once(i)
	}
	end := time.Now().Add(r.long(long))
	for n := 0; n < 8 || time.Now().Before(end); n++ {
		for i := range things {
			which := (n + i) % len(things)
			t.took[which] = append(t.took[which], t.once(which))
		}
	}
	return t
}

func (t *turns) once(which int) float64 {
	one, n := t.things[which], t.calls[which]
	if one.prepare != nil {
		one.prepare(n)
	}
	began := time.Now()
	one.do(n)
	return float64(time.Since(began)) / float64(n)
}

func (t *turns) index(name string) int {
	return slices.IndexFunc(t.things, func(one thing) bool { return one.name == name })
}

// median of what a call of the thing took, in ns.
func (t *turns) median(name string) float64 { return median(t.took[t.index(name)]) }

// ratio is the median of what one took over what the other did in the same turn.
func (t *turns) ratio(name, over string) float64 {
	return medianRatio(t.took[t.index(name)], t.took[t.index(over)])
}

// print tells the medians, and the first thing is what the others are compared with. For benchstat
// there are eight samples.
func (t *turns) print(r *report, row string) {
	floor := t.took[0]
	for i, one := range t.things {
		r.line(row, one.name, nanoseconds(median(t.took[i])),
			fmt.Sprintf("%.2f", medianRatio(t.took[i], floor)))
		const samples = 8
		for s := range samples {
			from, to := len(floor)*s/samples, len(floor)*(s+1)/samples
			r.bench(row, one.name, (to-from)*t.calls[i], median(t.took[i][from:to]), "ns/op",
				medianRatio(t.took[i][from:to], floor[from:to]), "x-first")
		}
	}
}

func nanoseconds(ns float64) string {
	switch {
	case ns < 1e4:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 1e7:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	}
	return fmt.Sprintf("%.1f ms", ns/1e6)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func medianRatio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// allocations of one call, whole ones as in testing.AllocsPerRun, with how many bytes they are.
func allocations(n int, f func()) (count, bytes float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(n)),
		float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
