package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// forgottenAfter is how long after its end a keeper may still hold a ticket. ticketgate remembers
// an expired ticket for 5 s, and drops whole generations.
func forgottenAfter(name string, ttl time.Duration) time.Duration {
	if name == ours {
		return ttl + 5500*time.Millisecond
	}
	return 1500 * time.Millisecond
}

// slowest is what the slowest of many calls took, by two clocks.
type slowest struct {
	cpu, wall float64 // ns
	slow      int     // above 1 ms of the wall's time
}

func (s *slowest) call(f func()) {
	began, used := time.Now(), threadCPU()
	f()
	cpu := float64(threadCPU() - used)
	wall := float64(time.Since(began))
	s.cpu, s.wall = max(s.cpu, cpu), max(s.wall, wall)
	if wall > 1e6 {
		s.slow++
	}
}

// mintWhileExpiring is the slowest mint of a keeper in which a million tickets expire. In turns
// with the mints is the crypto alone: how long the machine itself keeps a goroutine waiting.
func mintWhileExpiring(r *report, name string) (mint, floor slowest) {
	const ttl = 3 * time.Second
	grants := grantsOf(1 << 13)
	k := keeperWith(name, r.many(1_000_000), r.long(ttl), grants)
	defer k.close()
	runtime.GC()
	end := time.Now().Add(r.long(ttl + forgottenAfter(name, ttl)))
	for n := 0; n == 0 || time.Now().Before(end); n++ {
		mint.call(func() { k.mint(&grants[n%len(grants)]) })
		floor.call(func() { bareCrypto(0) })
		if n%64 == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	return mint, floor
}

// slowestRow reports two clocks. The CPU time of the thread does not count what other programs do,
// but neither does it count waiting for a lock, which is how a mint waits for a goroutine that
// removes expired tickets. The wall's time counts both, and is the goal.
func slowestRow(r *report) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const row = "slowest mint while a million expire"
	try := func(name string) (wall float64) {
		mint, floor := mintWhileExpiring(r, name)
		r.line(row+", CPU of the thread", name, nanoseconds(mint.cpu),
			fmt.Sprintf("%.2f (bare crypto: %s)", mint.cpu/floor.cpu, nanoseconds(floor.cpu)))
		r.line(row+", wall", name, nanoseconds(mint.wall),
			fmt.Sprintf("%.2f (bare crypto: %s; above 1 ms: %d and %d)",
				mint.wall/floor.wall, nanoseconds(floor.wall), mint.slow, floor.slow))
		r.bench(row, name, 1, mint.cpu, "worst-cpu-ns", floor.cpu, "bare-crypto-worst-cpu-ns",
			mint.wall, "worst-ns", floor.wall, "bare-crypto-worst-ns")
		return mint.wall
	}
	walls := []float64{try(ours), try(ours), try(ours)}
	best, least := "", 0.0
	// Not goScan: with a scan at each mint it takes all day.
	for _, name := range []string{ttlName, otterIs, scsName, lruName} {
		if wall := try(name); best == "" || wall < least {
			best, least = name, wall
		}
	}
	share := median(walls) / least
	r.goal(row+" (median of 3), against the best rival ("+best+")", "≤ 1/20",
		fmt.Sprintf("1/%.1f", 1/share), share <= 1.0/20)
}

// heldRow fills each keeper with tickets of sessions of their own, and measures what they take of
// the heap, how long a garbage collection takes beside them, what it costs to forget them all, and
// what is left of them then.
func heldRow(r *report) {
	n := r.many(1_000_000)
	all := map[string]heldTrial{}
	// golang-lru is the last: it cannot be closed, and an empty one is still there to be collected.
	names := []string{ours, goScan, ttlName, otterIs, scsName, lruName}
	for _, name := range names {
		t := tryHeld(r, name, n)
		all[name] = t
		r.line("live heap per outstanding ticket", name,
			fmt.Sprintf("%.0f B", t.each), fmt.Sprintf("%.2f", t.each/all[ours].each))
		r.line("live heap per ticket when all have expired", name,
			fmt.Sprintf("%.1f B", t.left), "")
		r.line("garbage collection beside a million outstanding", name,
			nanoseconds(t.collection), fmt.Sprintf("%.2f", t.collection/all[ours].collection))
		r.line("CPU to forget a ticket", name, fmt.Sprintf("%.1f ns", t.forgetting), "")
		r.bench("a million held", name, n, t.each, "B/outstanding", t.left, "B/expired",
			t.collection, "ns/gc", t.forgetting, "cpu-ns/forgotten")
	}
	mine := all[ours]
	least := slices.MinFunc(names[1:], func(a, b string) int {
		return cmp.Compare(all[a].each, all[b].each)
	})
	r.atMost("CPU to forget a ticket that was never used", mine.forgetting, 20, "%.1f ns")
	r.goal("live heap per outstanding ticket", "≤ 260 B, below every rival's",
		fmt.Sprintf("%.0f B; %s %.0f B", mine.each, least, all[least].each),
		mine.each <= 260 && mine.each < all[least].each)
	r.atMost("live heap per ticket after all have expired and one more call",
		mine.left, 1, "%.1f B")
	share := mine.collection / all[otterIs].collection
	r.goal("a forced GC with a million outstanding, against otter's", "≤ 1/10",
		fmt.Sprintf("1/%.1f", 1/share), share <= 0.1)
}

// heldTrial is what heldRow measures of one keeper: bytes and nanoseconds.
type heldTrial struct{ each, left, collection, forgetting float64 }

func tryHeld(r *report, name string, n int) (t heldTrial) {
	k, base := hold(name, n, time.Hour)
	t.each = (live() - base) / float64(n)
	t.collection = 1e18
	for range 5 {
		began := time.Now()
		runtime.GC()
		t.collection = min(t.collection, float64(time.Since(began)))
	}
	k.close()

	half, ttl := n/2+1, max(r.long(6*time.Second), time.Second)
	began := time.Now()
	k, base = hold(name, half, ttl)
	for time.Since(began) > ttl { // the machine is busy, and some have expired already
		k.close()
		ttl *= 2
		began = time.Now()
		k, base = hold(name, half, ttl)
	}
	wait := ttl
	if r.scale == 1 {
		wait += forgottenAfter(name, ttl)
	}
	t.forgetting = forget(k, wait)
	t.left = max(0, (live()-base)/float64(half))
	empty := keepers[name](half, ttl)
	idle := forget(empty, 0)
	for range 4 {
		idle = min(idle, forget(empty, 0))
	}
	t.forgetting = (t.forgetting - idle) / float64(half)
	k.close()
	empty.close()
	return t
}

// hold returns a keeper with n tickets, and the live heap before it.
func hold(name string, n int, ttl time.Duration) (k *keeper, base float64) {
	base = live()
	k = keepers[name](n+n/4, ttl)
	for i := range n {
		g := grantOf(i)
		k.put(&g)
	}
	return k, base
}

// grantOf has strings of its own, as what was read from a request has.
func grantOf(i int) tickets.Grant {
	return tickets.Grant{
		SessionID: fmt.Sprintf("%032d", i),
		Provider:  "oidc",
		UserID:    fmt.Sprintf("%016d", i),
	}
}

// forget waits until all tickets are over, makes one more call, and returns the CPU time of the
// whole process meanwhile, with the garbage collection that gives the memory back.
func forget(k *keeper, wait time.Duration) float64 {
	began := processCPU()
	time.Sleep(wait)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // a second collector would count its waiting
	g := grantOf(0)
	k.mint(&g)
	runtime.GC()
	return float64(processCPU() - began)
}

func live() float64 {
	var m runtime.MemStats
	runtime.GC()
	debug.FreeOSMemory()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
