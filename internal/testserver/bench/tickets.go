package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	cryptoName   = "bare crypto"
	unhashedName = "bare crypto without the hashes"
	block        = 500
)

var sink [64]struct {
	text string
	hash [sha256.Size]byte
	_    [128]byte // a cache line to itself
}

// bareCrypto is what no exchange of tickets can do without whose store must not know them: 32
// random bytes, their spelling, and a hash on either side.
func bareCrypto(worker int) {
	s := &sink[worker]
	s.text = random()
	id, again := sha256.Sum256([]byte(s.text)), sha256.Sum256([]byte(s.text))
	id[0] ^= again[0]
	s.hash = id
}

// oneHash is what a mint alone cannot do without.
func oneHash() {
	sink[0].text = random()
	sink[0].hash = sha256.Sum256([]byte(sink[0].text))
}

// exchanges mints and takes n tickets in each of so many goroutines.
func exchanges(k *keeper, grants []tickets.Grant, goroutines int) func(n int) {
	next := make([]int, goroutines)
	return inParallel(goroutines, func(worker int) {
		next[worker]++
		k.exchange(&grants[(next[worker]*goroutines+worker)%len(grants)])
	})
}

func inParallel(goroutines int, f func(worker int)) func(n int) {
	if goroutines == 1 {
		return repeat(func() { f(0) })
	}
	return func(n int) {
		var wg sync.WaitGroup
		for worker := range goroutines {
			wg.Go(func() {
				for range n {
					f(worker)
				}
			})
		}
		wg.Wait()
	}
}

// keeperWith fills a keeper with unused tickets, as a server at work has them.
func keeperWith(name string, outstanding int, ttl time.Duration, grants []tickets.Grant) *keeper {
	k := keepers[name](1<<21, ttl)
	for i := range outstanding {
		k.put(&grants[i%len(grants)])
	}
	return k
}

// inTrios takes turns of the bare crypto, ticketgate and one other at a time: what many caches
// leave to be collected would fall on all of them. It prints all, and returns the median of what
// ticketgate took over the crypto, and of what it took over each other.
func inTrios(r *report, row string, goroutines int) (overCrypto float64, over map[string]float64) {
	grants := grantsOf(1 << 10)
	over = map[string]float64{}
	var mine []float64
	for _, name := range slices.Concat([]string{unhashedName, mapName}, rivals, hashedRivals) {
		other := thing{
			name: name,
			do:   inParallel(goroutines, func(worker int) { sink[worker].text = random() }),
		}
		if name != unhashedName {
			k := keeperWith(name, r.many(1000), 30*time.Second, grants)
			defer k.close()
			other.do = exchanges(k, grants, goroutines)
		}
		k := keeperWith(ours, r.many(1000), shortLife, grants)
		own := exchanges(k, grants, goroutines)
		settle(r, own)
		runtime.GC()
		t := r.inTurns(
			2*time.Second,
			r.many(block),
			thing{name: cryptoName, do: inParallel(goroutines, bareCrypto)},
			thing{name: ours, do: own},
			other,
		)
		t.print(r, row+", beside "+name)
		over[name] = t.ratio(ours, name)
		mine = append(mine, t.ratio(ours, cryptoName))
	}
	return median(mine), over
}

// settle exchanges until a store of ours has the size of this load. Each of its generations begins
// with the size of the one before; with shortLife they begin after 0 s, 1.7 s, 6 s and 10.3 s.
func settle(r *report, work func(n int)) {
	for end := time.Now().Add(r.long(6500 * time.Millisecond)); time.Now().Before(end); {
		work(100)
		repeat(func() { bareCrypto(0) })(400) // about as much else as in the turns to come
	}
}

const shortLife = 8 * time.Second

func exchangeRow(r *report) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const row = "mint + consume, one core"
	overCrypto, over := inTrios(r, row, 1)
	grants := grantsOf(1 << 10)
	k := keeperWith(ours, 1000, shortLife, grants)
	settle(r, exchanges(k, grants, 1))
	n := 0
	calls := r.many(100_000)
	count, bytes := allocations(calls, func() { n++; k.exchange(&grants[n%len(grants)]) })
	r.bench("mint + consume, allocations", ours, calls, count, "allocs/op", bytes, "B/op")
	r.atMost(row+", against the bare crypto", overCrypto, 2.2, "%.2f")
	best := slices.MaxFunc(
		hashedRivals,
		func(a, b string) int { return cmp.Compare(over[a], over[b]) },
	)
	r.atMost("the same against the best rival that hashes too ("+best+")", over[best], 1.1, "%.2f")
	r.goal("its allocations", "≤ 2", fmt.Sprintf("%.0f, %.0f B", count, bytes), count <= 2)
}

// scalingRow is exchanges a second of 1, 2, 4 and 8 goroutines on all cores.
func scalingRow(r *report) {
	names := []string{ours, ttlName, lruName, otterIs}
	grants := grantsOf(1 << 10)
	for _, goroutines := range []int{1, 2, 4, 8} {
		things := []thing{{name: cryptoName, do: inParallel(goroutines, bareCrypto)}}
		for _, name := range names {
			k := keeperWith(name, r.many(1000), 30*time.Second, grants)
			defer k.close()
			things = append(things, thing{name: name, do: exchanges(k, grants, goroutines)})
		}
		t := r.inTurns(2*time.Second, r.many(block), things...)
		for i, one := range t.things {
			rate := float64(goroutines) / t.median(one.name) * 1e3
			r.line(
				fmt.Sprintf("%d goroutines", goroutines),
				one.name,
				fmt.Sprintf("%.2f M/s", rate),
				fmt.Sprintf("%.2f", t.ratio(one.name, cryptoName)),
			)
			r.bench(
				fmt.Sprintf("scaling, %d goroutines", goroutines),
				one.name,
				t.calls[i]*len(t.took[i]),
				t.median(one.name)/float64(goroutines),
				"ns/op",
				rate*1e6,
				"exchanges/s",
			)
		}
	}
}

//go:embed origin.py
var originSource string

// originRow is mints beside the Python original's, with 100,000 tickets outstanding in both.
func originRow(r *report) {
	n := r.many(100_000)
	grants := grantsOf(1 << 10)
	next := 0
	minting := func(name string) thing {
		k := keeperWith(name, n, time.Hour, grants)
		return thing{name: name, do: repeat(func() { next++; k.mint(&grants[next%len(grants)]) })}
	}
	things := []thing{minting(ours), minting(goScan)}
	python, err := exec.LookPath("python3")
	if err == nil {
		cmd := exec.Command(python, "-c", originSource, fmt.Sprint(n))
		in, out := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		defer func() { _, _ = in.Close(), cmd.Wait() }()
		answers := bufio.NewReader(out)
		things = append(things, thing{name: "the Python original's", do: func(n int) {
			_, _ = io.WriteString(in, fmt.Sprintln(n))
			if answer, err := answers.ReadString('\n'); err != nil ||
				strings.TrimSpace(answer) != "done" {
				panic(fmt.Sprintf("%q, %v", answer, err))
			}
		}})
	}
	// One scan takes as long as thousands of mints, so few are enough; of ours a single one is
	// less than a look at the clock.
	things[0].do = repeatTimes(1000, things[0].do)
	t := r.inTurns(6*time.Second, 4, things...)
	for i := range t.took[0] {
		t.took[0][i] /= 1000
	}
	t.print(r, fmt.Sprintf("mint beside %d outstanding", n))
	if err != nil {
		r.goal("mint over the Python original", "≥ 3,000 ×", "not measured: no python3", false)
		return
	}
	over := t.ratio(things[2].name, ours)
	r.goal(
		"mint over the Python original at 100,000 outstanding",
		"≥ 3,000 ×",
		fmt.Sprintf("%.0f ×", over),
		over >= 3000,
	)
}

func repeatTimes(times int, f func(n int)) func(n int) { return func(n int) { f(n * times) } }

// outstandingRow is what an exchange costs beside five million outstanding tickets.
func outstandingRow(r *report) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	grants := grantsOf(1 << 13)
	few, many := keeperWith(
		ours,
		1000,
		time.Hour,
		grants,
	), keeperWith(
		ours,
		r.many(5_000_000),
		time.Hour,
		grants,
	)
	t := r.inTurns(
		5*time.Second,
		r.many(block),
		thing{
			name: "beside 1,000",
			do:   exchanges(few, grants, 1),
		},
		thing{name: "beside 5,000,000", do: exchanges(many, grants, 1)},
	)
	t.print(r, "mint + consume beside others")
	r.atMost(
		"per-op cost at 5,000,000 outstanding against 1,000",
		t.ratio("beside 5,000,000", "beside 1,000"),
		1.6,
		"%.2f",
	)
}

// steadyRow mints without end tickets that nobody uses, with a lifetime that leaves a million of
// them.
func steadyRow(r *report) {
	grants := grantsOf(1 << 13)
	n := 0
	mint := func(k *keeper) func() { return func() { n++; k.mint(&grants[n%len(grants)]) } }
	calls := r.many(block)
	turn := func(k *keeper) *turns {
		return r.inTurns(
			2*time.Second,
			calls,
			thing{name: cryptoName, do: repeat(func() { bareCrypto(0) })},
			thing{
				name: "bare crypto of a mint",
				do:   repeat(oneHash),
			},
			thing{name: ours, do: repeat(mint(k))},
		)
	}
	started := time.Now()
	trial := turn(newTicketgate(0, time.Hour))
	ttl := max(
		time.Duration(float64(time.Since(started))/float64(n)*float64(r.many(1_100_000))),
		time.Millisecond,
	)
	k := newTicketgate(0, ttl)
	// Until as many expire as are minted.
	for end := time.Now().Add(r.long(ttl + 9*time.Second)); time.Now().Before(end); {
		turn(k)
	}
	began := time.Now()
	n = 0
	t := r.inTurns(
		6*time.Second,
		calls,
		trial.things[0],
		trial.things[1],
		thing{name: ours, do: repeat(mint(k))},
	)
	outstanding := float64(n) * float64(ttl) / float64(time.Since(began))
	t.print(r, fmt.Sprintf("mint with %.2f M held, none used", outstanding/1e6))
	r.atMost(
		"steady state: a million held, minting and expiring for good, against the bare crypto",
		t.ratio(ours, cryptoName),
		1.9,
		"%.2f",
	)
}
