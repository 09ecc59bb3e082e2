package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
)

// faulty is a node whose calls can be slow or fail, each in its own way.
type faulty struct {
	*sharedstore.Node
	appended atomic.Int64
	slow     time.Duration // of Append
	late     time.Duration // of what Next returns
	refuses  error         // of Append
	gaps     bool          // at every cursor
	keeps    time.Duration
}

func (f *faulty) Append(ctx context.Context, r tickets.Revocation) error {
	time.Sleep(f.slow)
	if f.refuses != nil {
		return f.refuses
	}
	f.appended.Add(1)
	return f.Node.Append(ctx, r)
}

func (f *faulty) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	if f.gaps && after != "" {
		return nil, "", tickets.ErrGap
	}
	rs, next, err := f.Node.Next(ctx, after)
	time.Sleep(f.late)
	return rs, next, err
}

func (f *faulty) KeepsRevocations() time.Duration { return max(f.keeps, time.Hour) }

// A log with a gap at every read is not filled without end, and listeners are not called without
// end.
func TestCluster_GapsInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Node: new(sharedstore.Server).Node(), gaps: true}
		i := newNode(t, store, nil)
		for k := range 50 {
			require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint(k)}))
		}
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, store.appended.Load(), int64(2*50))
		_, gaps := i.take()
		require.LessOrEqual(t, len(gaps), 40)
	})
}

// A revocation is forgotten, however often it is received and published again.
func TestCluster_RevocationIsForgotten(t *testing.T) {
	ann := tickets.Grant{SessionID: "new", UserID: "ann"} // its beginning is unknown
	t.Run("through gaps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := new(sharedstore.Server)
			a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
			settle()
			require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{UserID: "ann"}))
			for range 24 {
				time.Sleep(50 * time.Minute)
				server.Flush()
			}
			time.Sleep(2 * time.Second)
			require.NoError(t, a.Revoked(ann))
			require.NoError(t, b.Revoked(ann))
		})
	})
	t.Run("while Append fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := new(sharedstore.Server)
			a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
			settle()
			server.Fail(errors.New("down"))
			require.Error(t, a.Revoke(t.Context(), tickets.Revocation{UserID: "ann"}))
			time.Sleep(48 * time.Hour)
			server.Fail(nil)
			time.Sleep(5 * time.Second)
			require.NoError(t, a.Revoked(ann))
			require.NoError(t, b.Revoked(ann))
		})
	})
}

// A node that receives a revocation late, by less than 5 s, may have minted meanwhile: it covers
// these tickets too.
func TestCluster_RevocationCoversLateMints(t *testing.T) {
	for _, late := range []time.Duration{800 * time.Millisecond, 4900 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			server := new(sharedstore.Server)
			opts := &tickets.IssuerOptions{RememberRevocations: tickets.DefaultTTL}
			a := newNode(t, server.Node(), opts)
			b := newNode(t, &faulty{Node: server.Node(), late: late}, opts)
			time.Sleep(2*time.Second + late)
			require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
			time.Sleep(late - 50*time.Millisecond)
			out := mustMint(t, b.Issuer, tickets.Grant{SessionID: "s1"})
			time.Sleep(tickets.DefaultTTL - 50*time.Millisecond)
			_, err := a.Consume(t.Context(), out)
			require.ErrorIs(t, err, tickets.ErrRevoked)
		})
	}
}

func TestRevoke_LongestRememberRevocations(t *testing.T) {
	i := mustIssuer(t, nil, &tickets.IssuerOptions{RememberRevocations: math.MaxInt64})
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
	require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
}

// No net/http recovers a panic in the goroutine that receives.
func TestCluster_ListenerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		b.OnRevoke(func(tickets.Revocation) { panic("a listener") })
		b.OnGap(func(error) { panic("another") })
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
		settle()
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		server.Flush()
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s2"}))
		time.Sleep(2 * time.Second)
		require.ErrorIs(
			t,
			b.Revoked(tickets.Grant{SessionID: "s2"}),
			tickets.ErrRevoked,
			"it still receives",
		)
		require.NoError(t, b.Health())
	})
}

// In Revoke the panic is the caller's, and the other nodes receive the revocation all the same.
func TestRevoke_ListenerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		a.OnRevoke(func(tickets.Revocation) { panic("a listener") })
		require.PanicsWithValue(t, "a listener", func() {
			_ = a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"})
		})
		settle()
		for _, n := range []*node{a, b} {
			require.ErrorIs(t, n.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		}
	})
}

func TestNewIssuer_RefusesBadStores(t *testing.T) {
	var failed *sharedstore.Node // as a constructor returns it beside its error
	_, err := tickets.NewIssuer(failed, nil)
	require.ErrorContains(t, err, "store is a nil *sharedstore.Node")
	_, err = tickets.NewIssuer(
		&faulty{Node: new(sharedstore.Server).Node(), keeps: time.Hour},
		&tickets.IssuerOptions{RememberRevocations: 2 * time.Hour},
	)
	require.ErrorContains(t, err, "keeps revocations for 1h0m0s")
	for year, ok := range map[int]bool{-1: false, 0: true, 9999: true} {
		i := mustIssuer(t, nil, nil)
		err := i.Revoke(
			t.Context(),
			tickets.Revocation{SessionID: "s1", At: time.Date(year, 5, 1, 0, 0, 0, 0, time.UTC)},
		)
		assert.Equal(t, ok, err == nil, "%d: %v", year, err)
	}
}
