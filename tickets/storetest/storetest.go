// Package storetest checks that a tickets.Store keeps its contract. Any implementation can be
// checked from a test of its own:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func() (tickets.Store, error) { return mystore.New(client) })
//	}
package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ticketgate/ticketgate/tickets"
)

// rules are the contract. Each is checked in a store of its own, and ignores what another rule
// checks, so that a fault shows under its own name. A check returns the first fault that it finds.
var rules = []rule{
	{"a grant comes back as it was put", roundTrip},
	{"keys of one ticket are one key", keyIsID},
	{"what was never put is ErrUnknown", unknown},
	{"a ticket is good once", once},
	{"a used ticket is ErrUsed", usedAtOnce},
	{"a ticket has one winner", oneWinner},
	{"a key is put once", putOnce},
	{"tickets do not mix", apart},
	{"a good ticket makes no room for another", noEviction},
}

// timedRules are those that wait. They do so at the same time.
var timedRules = []rule{
	{"a ticket lives until its end, that instant included", livesUntilEnd},
	{"a ticket is refused after its end", refusedAfterEnd},
	{"every ticket has its own end", ownEnd},
	{"an expired ticket is ErrExpired for 5 s", expiredIsRemembered},
	{"a used ticket is ErrUsed for as long as it would have lived", usedIsRemembered},
	{"a used ticket is never good again", usedForGood},
	{"an error comes with no grant", noGrantWithError},
	{"expired tickets fill no store", expiredMakeRoom},
}

type rule struct {
	name  string
	check func(tickets.Store) error
}

// Check puts tickets into stores that newStore makes and takes them out, and returns one error for
// every rule of the contract that is broken, joined; nil if none is. Each begins with the rule's
// name.
//
// It uses nothing but the Store interface. Time passes by time.Sleep: about six seconds in all, or
// none in a testing/synctest bubble. There a store's clock is judged to the nanosecond; in real
// time it may be a quarter of a second off. Check puts a few thousand tickets, none of which lives
// longer than 10 minutes. It calls newStore once for every rule, and closes nothing; the stores may
// share what is behind them.
func Check(newStore func() (tickets.Store, error)) error {
	errs := make([]error, len(rules)+len(timedRules))
	for n, r := range rules {
		errs[n] = r.run(newStore)
	}
	var wg sync.WaitGroup
	for n, r := range timedRules {
		wg.Go(func() { errs[len(rules)+n] = r.run(newStore) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r rule) run(newStore func() (tickets.Store, error)) error {
	store, err := newStore()
	if err != nil {
		return fmt.Errorf("%s: not checked, there is no store: %w", r.name, err)
	}
	if err := r.check(store); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// Run checks as [Check] does, and reports every broken rule as an error of t.
func Run(t *testing.T, newStore func() (tickets.Store, error)) {
	t.Helper()
	report(t, Check(newStore))
}

func report(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			t.Error(err)
		}
	}
}
