package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// sharedRules are what nodes with a shared store rely on; logRules are for a RevocationLog. Each
// opens as many nodes as it needs.
var (
	sharedRules = []sharedRule{
		{"a ticket of one node is good at another", elsewhere},
		{"a ticket has one winner over all nodes", oneNodeWins},
		{"the store's clock judges, not a node's", skewedClocks},
	}
	logRules = []sharedRule{
		{"the beginning of the log does not wait", beginsAtOnce},
		{"a revocation comes back as it was, without names", revocationRoundTrip},
		{"every node receives everything", everyNodeReceives},
		{"nothing is passed over", nothingPassedOver},
		{"every node receives in the same order", sameOrder},
		{"a node that was away receives what it missed", catchesUp},
		{"a new node receives the last moments", newNodeReceives},
		{"a log has a heartbeat", hasHeartbeat},
		{"a revocation ends the wait", wakes},
		{"a cursor of another log is refused", foreignCursor},
		{"Next ends with its context", nextEnds},
		{"a revocation of a name is kept as its hash", namesAreHashed},
	}
)

type sharedRule struct {
	name  string
	check func(newNode func() (tickets.Store, error)) error
}

// CheckShared checks what nodes that share a store rely on, and returns one error for every broken
// rule, as [Check] does for one store alone. It calls newNode many times: each call returns another
// node's handle of the same store, as another process would open it. The store may have other
// contents, and other users at the same time.
//
// If the handles are a tickets.RevocationLog, its rules are checked too. It takes some ten seconds,
// and closes nothing.
func CheckShared(newNode func() (tickets.Store, error)) error {
	first, err := newNode()
	if err != nil {
		return fmt.Errorf("there is no store: %w", err)
	}
	rules := sharedRules
	if _, ok := first.(tickets.RevocationLog); ok {
		rules = append(rules[:len(rules):len(rules)], logRules...)
	}
	errs := make([]error, len(rules))
	for n, r := range rules {
		if err := r.check(newNode); err != nil {
			errs[n] = fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return errors.Join(errs...)
}

// RunShared checks as [CheckShared] does, and reports every broken rule as an error of t.
func RunShared(t *testing.T, newNode func() (tickets.Store, error)) {
	t.Helper()
	report(t, CheckShared(newNode))
}

// nodes opens n of them.
func nodes(newNode func() (tickets.Store, error), n int) ([]tickets.Store, error) {
	all := make([]tickets.Store, n)
	for k := range all {
		var err error
		if all[k], err = newNode(); err != nil {
			return nil, fmt.Errorf("open node %d: %w", k+1, err)
		}
	}
	return all, nil
}

func elsewhere(newNode func() (tickets.Store, error)) error {
	ns, err := nodes(newNode, 3)
	if err != nil {
		return err
	}
	key, want, err := put(ns[0], long)
	if err != nil {
		return err
	}
	got, err := ns[1].Take(ctx, key)
	if err != nil {
		return fmt.Errorf("take at another node: %w", err)
	}
	if err := same(want, got); err != nil {
		return err
	}
	for k, n := range ns {
		if _, err := n.Take(ctx, key); !errors.Is(err, tickets.ErrUsed) {
			return wrong(fmt.Sprintf("take of a used ticket at node %d", k+1), err, tickets.ErrUsed)
		}
	}
	if ns[2].Put(ctx, key, want) == nil {
		return errors.New("put at another node under the key of a used ticket succeeded, " +
			"want an error")
	}
	return nil
}

func oneNodeWins(newNode func() (tickets.Store, error)) error {
	ns, err := nodes(newNode, 8)
	if err != nil {
		return err
	}
	for round := range 50 {
		key, _, err := put(ns[round%len(ns)], long)
		if err != nil {
			return err
		}
		var winners atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for k := range 16 {
			wg.Go(func() {
				<-start
				if _, err := ns[k%len(ns)].Take(ctx, key); err == nil {
					winners.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := winners.Load(); n != 1 {
			return fmt.Errorf("round %d: of 16 on %d nodes that took one ticket at once %d won",
				round, len(ns), n)
		}
	}
	return nil
}

// skewedClocks puts tickets as nodes do whose clocks are wrong by five minutes.
func skewedClocks(newNode func() (tickets.Store, error)) error {
	ns, err := nodes(newNode, 2)
	if err != nil {
		return err
	}
	type skewed struct {
		by             time.Duration
		valid, expired tickets.Key
	}
	rows := []*skewed{{by: -5 * time.Minute}, {by: 5 * time.Minute}}
	start := time.Now()
	for _, row := range rows {
		for _, key := range []struct {
			*tickets.Key
			life time.Duration
		}{{&row.valid, long}, {&row.expired, life}} {
			g := grant(key.life)
			g.MintedAt, g.ExpiresAt = g.MintedAt.Add(row.by), g.ExpiresAt.Add(row.by)
			*key.Key = newKey()
			if err := ns[0].Put(ctx, *key.Key, g); err != nil {
				return fmt.Errorf("put by a clock that is %v off: %w", row.by, err)
			}
		}
	}
	sleepPast(time.Now().Add(life))
	for _, row := range rows {
		// On a machine that was busy until the end, a refusal means nothing.
		if _, err := ns[1].Take(ctx, row.valid); err != nil && time.Since(start) < long {
			return fmt.Errorf("take of a valid ticket that was put by a clock %v off: %w",
				row.by, err)
		}
		if _, err := ns[1].Take(ctx, row.expired); !errors.Is(err, tickets.ErrExpired) {
			what := fmt.Sprintf("take of a ticket of %v that was put by a clock %v off",
				life, row.by)
			return wrong(what, err, tickets.ErrExpired)
		}
	}
	return nil
}
