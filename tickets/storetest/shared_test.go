package storetest_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

func opener(s *sharedstore.Server) func() (tickets.Store, error) {
	return func() (tickets.Store, error) { return s.Node(), nil }
}

func TestSharedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storetest.RunShared(t, opener(new(sharedstore.Server)))
	})
}

// A MemoryStore has no log, so the rules of logs are not checked.
func TestSharedWithoutLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := tickets.NewMemoryStore(nil)
		err := storetest.CheckShared(func() (tickets.Store, error) { return store, nil })
		assert.Equal(
			t,
			[]string{"the store's clock judges, not a node's"},
			rulesOf(err),
			"it has the clock of its process",
		)
	})
	down := errors.New("connection refused")
	require.ErrorIs(
		t,
		storetest.CheckShared(func() (tickets.Store, error) { return nil, down }),
		down,
	)
}

func rulesOf(err error) []string {
	if err == nil {
		return nil
	}
	var names []string
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		name, _, _ := strings.Cut(err.Error(), ": ")
		names = append(names, name)
	}
	return names
}

// Each fault breaks the rules that are about it.
func TestBrokenSharedStores(t *testing.T) {
	for fault, want := range map[string][]string{
		"believes the node's clock": {"the store's clock judges, not a node's"},
		"keeps tickets to the node": {
			"a ticket of one node is good at another", "the store's clock judges, not a node's",
		},
		"every node has a winner": {
			"a ticket of one node is good at another", "a ticket has one winner over all nodes",
			"the store's clock judges, not a node's",
		},
		"looks, then takes": {"a ticket has one winner over all nodes"},
		"drops every fifth": {
			"every node receives everything", "nothing is passed over",
			"every node receives in the same order",
			"a node that was away receives what it missed", "a revocation ends the wait",
		},
		"moves the time": {"a revocation comes back as it was, without names"},
		"forgets persons": {
			"a revocation comes back as it was, without names",
			"a revocation of a name is kept as its hash",
		},
		"keeps the session's id":  {"a revocation comes back as it was, without names"},
		"keeps no hash of a name": {"a revocation of a name is kept as its hash"},
		"wakes nobody":            {"a revocation ends the wait"},
		"has no heartbeat":        {"a log has a heartbeat"},
		"waits at the beginning":  {"the beginning of the log does not wait"},
		"begins at the end": {
			"every node receives in the same order", "a new node receives the last moments",
		},
		"gives the first only": {
			"a revocation comes back as it was, without names", "every node receives everything",
			"nothing is passed over", "every node receives in the same order",
			"a node that was away receives what it missed",
			"a new node receives the last moments",
		},
		"another order from the beginning": {"every node receives in the same order"},
		"takes any cursor":                 {"a cursor of another log is refused"},
		"does not end with its context":    {"Next ends with its context"},
	} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := storetest.CheckShared(opener(&sharedstore.Server{Fault: fault}))
				t.Log(err)
				got := rulesOf(err)
				assert.Equal(t, want, got)
			})
		})
	}
}
