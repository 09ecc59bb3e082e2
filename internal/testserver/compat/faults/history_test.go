package faults

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestMain(m *testing.M) {
	if os.Getenv(racerEnv) != "" {
		os.Exit(racer())
	}
	// A client of go-redis that could not dial sleeps for a second before it finds that it was
	// closed.
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	)
}

// call is what a node asked a store: to put or to take one ticket.
type call struct {
	ticket string // the key's ID
	take   bool
}

type answer int

const (
	yes     answer = iota
	no             // for certain
	unknown        // the store failed: it may have done it, or do it yet
)

// onceModel is all that may happen to a ticket: it is accepted at most once, after somebody has
// begun to put it. To refuse it is always allowed, because a store may lose it; and what was not
// answered may have had its effect at any time from then on, or none.
var onceModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byTicket := make(map[string][]porcupine.Operation)
		for _, op := range history {
			ticket := op.Input.(call).ticket
			byTicket[ticket] = append(byTicket[ticket], op)
		}
		parts := make([][]porcupine.Operation, 0, len(byTicket))
		for _, ops := range byTicket {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return false }, // whether the ticket is good
	Step: func(state, input, output any) (bool, any) {
		good, c, a := state.(bool), input.(call), output.(answer)
		switch {
		case a == no:
			return true, good
		case !c.take:
			return true, true
		case a == unknown: // had it taken the ticket, fewer histories would be legal
			return true, good
		}
		return good, false
	},
	DescribeOperation: func(input, output any) string {
		c, a := input.(call), output.(answer)
		verb := "put"
		if c.take {
			verb = "take"
		}
		return fmt.Sprintf("%s %.8s: %s", verb, c.ticket, [...]string{"yes", "no", "unknown"}[a])
	},
}

// history records the calls of all nodes and their answers, during one fault.
type history struct {
	began time.Time
	mu    sync.Mutex
	nodes int
	ops   []porcupine.Operation
	known []tickets.Ticket // the last few hundred, good or not
	counts
}

type counts struct{ takes, accepted, refused, failed int }

func newHistory() *history { return &history{began: time.Now()} }

// node returns store as one node sees it, recorded.
func (h *history) node(store tickets.Store) tickets.Store {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes++
	return &node{store, h, h.nodes}
}

type node struct {
	store tickets.Store
	h     *history
	id    int
}

func (n *node) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	began := n.h.now()
	err := n.store.Put(ctx, key, g)
	a := yes
	if err != nil {
		a = unknown // a Put is never refused here: every ticket is fresh
	}
	n.h.add(n.id, call{key.String(), false}, a, began)
	return err
}

func (n *node) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	began := n.h.now()
	g, err := n.store.Take(ctx, key)
	a := yes
	switch {
	case errors.Is(err, tickets.ErrInvalid):
		a = no
	case err != nil:
		a = unknown
	case g.UserID != key.String(): // as newTicket gave it
		return g, errors.New("the store returned another ticket's grant")
	}
	n.h.add(n.id, call{key.String(), true}, a, began)
	return g, err
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(node int, c call, a answer, began int64) {
	ended := h.now()
	if a == unknown {
		ended = math.MaxInt64 // it may have its effect later
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(
		h.ops,
		porcupine.Operation{ClientId: node, Input: c, Output: a, Call: began, Return: ended},
	)
	if c.take {
		h.takes++
		switch a {
		case yes:
			h.accepted++
		case no:
			h.refused++
		case unknown:
			h.failed++
		}
	}
}

// legal reports whether no ticket was accepted twice, or names one that was.
func (h *history) legal() (bool, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if porcupine.CheckOperations(onceModel, h.ops) {
		return true, ""
	}
	var wrong strings.Builder
	for _, ops := range onceModel.Partition(h.ops) {
		if !porcupine.CheckOperations(onceModel, ops) {
			for _, op := range ops {
				fmt.Fprintf(&wrong, "node %d, %v to %v: %s\n", op.ClientId, time.Duration(op.Call),
					time.Duration(op.Return), onceModel.DescribeOperation(op.Input, op.Output))
			}
			break
		}
	}
	return false, wrong.String()
}

// end checks the history, and that there is something in it, and returns what it counted.
func (h *history) end(t *testing.T) counts {
	t.Helper()
	ok, wrong := h.legal()
	require.True(t, ok, "a ticket was accepted twice, or was never put:\n%s", wrong)
	assert.NotZero(t, h.accepted, "nothing was accepted: nothing was checked")
	assert.NotZero(t, h.refused, "nothing was refused: nobody came twice")
	return h.counts
}

func (c *counts) add(d counts) {
	c.takes += d.takes
	c.accepted += d.accepted
	c.refused += d.refused
	c.failed += d.failed
}

func (c counts) String() string {
	return fmt.Sprintf(
		"%d consumes: %d accepted, %d refused, %d failed",
		c.takes,
		c.accepted,
		c.refused,
		c.failed,
	)
}

const (
	workers   = 8
	lifetime  = 30 * time.Second
	knownSize = 300
)

// load has nodes take tickets about n times: fresh ones at two nodes at once, some only later, and
// old ones again.
func (h *history) load(n int, nodes ...tickets.Store) {
	h.mu.Lock()
	end := h.takes + n
	h.mu.Unlock()
	any := func() tickets.Store { return nodes[mathrand.N(len(nodes))] }
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				old, more := h.old(end)
				if !more {
					return
				}
				fresh, g := newTicket()
				any().Put(context.Background(), fresh.Key(), g)
				h.remember(fresh)
				if mathrand.N(4) == 0 {
					fresh = "" // for later
				}
				race(fresh, any(), any())
				race(old, any())
			}
		})
	}
	wg.Wait()
}

// stock puts n tickets and takes none.
func (h *history) stock(n int, store tickets.Store) {
	for range n {
		t, g := newTicket()
		store.Put(context.Background(), t.Key(), g)
		h.remember(t)
	}
}

// replay takes every known ticket at every node, as an attacker with recorded traffic does.
func (h *history) replay(nodes ...tickets.Store) {
	h.mu.Lock()
	known := slices.Clone(h.known)
	h.mu.Unlock()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(known); i += workers {
				race(known[i], nodes...)
			}
		})
	}
	wg.Wait()
}

// race has nodes take a ticket at once.
func race(t tickets.Ticket, nodes ...tickets.Store) {
	if t == "" {
		return
	}
	var wg sync.WaitGroup
	for _, n := range nodes[1:] {
		wg.Go(func() { n.Take(context.Background(), t.Key()) })
	}
	nodes[0].Take(context.Background(), t.Key())
	wg.Wait()
}

// old returns one of the known tickets, and whether there is still something to do.
func (h *history) old(end int) (tickets.Ticket, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.takes >= end {
		return "", false
	}
	if len(h.known) == 0 {
		return "", true
	}
	return h.known[mathrand.N(len(h.known))], true
}

func (h *history) remember(t tickets.Ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.known) < knownSize {
		h.known = append(h.known, t)
	} else {
		h.known[mathrand.N(knownSize)] = t
	}
}

// newTicket returns one with a grant that says which it is.
func newTicket() (tickets.Ticket, tickets.Grant) {
	var secret [32]byte
	rand.Read(secret[:])
	t := tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:]))
	now := time.Now()
	return t, tickets.Grant{
		SessionID: "s1",
		Provider:  "oidc",
		UserID:    t.Key().String(),
		MintedAt:  now,
		ExpiresAt: now.Add(lifetime),
	}
}

// cycles returns how many faults a store's test is to make.
func cycles(t *testing.T, byDefault int) int {
	t.Helper()
	text := os.Getenv("FAULT_CYCLES")
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "FAULT_CYCLES")
	return n
}
