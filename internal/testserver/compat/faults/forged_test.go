package faults

import (
	"context"
	"math"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// A history that was forged must be found illegal, or the checks above are worth nothing.
func TestForgedHistory(t *testing.T) {
	put, take := call{"1", false}, call{"1", true}
	other := call{"2", true}
	type op struct {
		call
		answer
		from, to int64
	}
	const never = math.MaxInt64
	for name, row := range map[string]struct {
		legal bool
		ops   []op
	}{
		"once": {
			true, []op{{put, yes, 0, 1}, {take, yes, 2, 3}, {take, no, 4, 5}},
		},
		"refused first": {
			true, []op{{put, yes, 0, 1}, {take, no, 2, 3}, {take, yes, 4, 5}},
		},
		"lost": {
			true, []op{{put, yes, 0, 1}, {take, no, 2, 3}, {take, no, 4, 5}},
		},
		"before the answer to put": {true, []op{{put, yes, 0, 9}, {take, yes, 2, 3}}},
		"of a put that was not answered": {
			true, []op{{put, unknown, 0, never}, {take, yes, 2, 3}},
		},
		"beside a take that was not answered": {
			true, []op{{put, yes, 0, 1}, {take, unknown, 2, never}, {take, yes, 4, 5}},
		},
		"twice": {
			false, []op{{put, yes, 0, 1}, {take, yes, 2, 3}, {take, yes, 4, 5}},
		},
		"twice at once": {
			false, []op{{put, yes, 0, 1}, {take, yes, 2, 5}, {take, yes, 3, 4}},
		},
		"twice of a put that was not answered": {false, []op{
			{put, unknown, 0, never}, {take, yes, 2, 3}, {take, yes, 4, 5}}},
		"twice beside a failure": {false, []op{
			{put, yes, 0, 1}, {take, yes, 2, 3}, {take, unknown, 2, never}, {take, yes, 4, 5}}},
		"never put":      {false, []op{{take, yes, 2, 3}}},
		"put afterwards": {false, []op{{take, yes, 2, 3}, {put, yes, 4, 5}}},
		"another's":      {false, []op{{put, yes, 0, 1}, {other, yes, 2, 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			var h history
			for i, o := range row.ops {
				h.ops = append(
					h.ops,
					porcupine.Operation{
						ClientId: i,
						Input:    o.call,
						Output:   o.answer,
						Call:     o.from,
						Return:   o.to,
					},
				)
			}
			legal, wrong := h.legal()
			require.Equal(t, row.legal, legal, wrong)
		})
	}
}

// The load finds a store that accepts one ticket in a hundred twice.
func TestLoadFindsDoubleAccept(t *testing.T) {
	h := newHistory()
	h.load(
		10_000,
		h.node(&forgetful{Store: tickets.NewMemoryStore(nil)}),
		h.node(tickets.NewMemoryStore(nil)),
	)
	legal, wrong := h.legal()
	require.False(t, legal)
	require.GreaterOrEqual(t, strings.Count(wrong, "yes"), 3, wrong) // of the put, and of two takes

	h = newHistory()
	h.load(10_000, h.node(tickets.NewMemoryStore(nil)))
	h.end(t)
}

// forgetful answers every hundredth time as it should not.
type forgetful struct {
	tickets.Store
	mu    sync.Mutex
	taken map[string]tickets.Grant
}

func (f *forgetful) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	g, err := f.Store.Take(ctx, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken == nil {
		f.taken = make(map[string]tickets.Grant)
	}
	if err == nil {
		f.taken[key.String()] = g
	} else if old, ok := f.taken[key.String()]; ok && mathrand.N(100) == 0 {
		return old, nil
	}
	return g, err
}
