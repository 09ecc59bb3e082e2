package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
)

// node is an issuer over a shared store, and what its listeners received.
type node struct {
	*tickets.Issuer
	mu       sync.Mutex
	received []tickets.Revocation
	gaps     []error
}

func newNode(t *testing.T, store tickets.Store, opts *tickets.IssuerOptions) *node {
	t.Helper()
	n := &node{Issuer: mustIssuer(t, store, opts)}
	t.Cleanup(func() { assert.NoError(t, n.Close()) })
	n.OnRevoke(func(r tickets.Revocation) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.received = append(n.received, r)
	})
	n.OnGap(func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, err)
	})
	return n
}

// take returns what the listeners received since the last call.
func (n *node) take() (received []tickets.Revocation, gaps []error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	received, gaps, n.received, n.gaps = n.received, n.gaps, nil, nil
	return received, gaps
}

// settle waits until the nodes have received from each other: less than a heartbeat.
func settle() {
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

func TestCluster_RevocationReachesEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		began := time.Now()
		g := tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "u1", StartedAt: began}
		out := mustMint(t, a.Issuer, g)

		require.NoError(
			t,
			a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", Reason: "logout"}),
		)
		received, _ := a.take()
		require.Equal(t, []tickets.Revocation{{
			SessionID: "s1", SessionHash: tickets.HashSession("s1"), Reason: "logout",
			At: began.Round(0),
		}}, received)
		settle()
		require.Less(t, time.Since(began), 100*time.Millisecond, "it does not wait for a heartbeat")
		require.ErrorIs(t, b.Revoked(g), tickets.ErrRevoked)
		_, err := b.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		_, err = b.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		received, _ = b.take()
		require.Equal(
			t,
			[]tickets.Revocation{
				{SessionHash: tickets.HashSession("s1"), Reason: "logout", At: began.Round(0)},
			},
			received,
		)

		require.NoError(
			t,
			b.Revoke(t.Context(), tickets.Revocation{Provider: "oidc", UserID: "u1"}),
		)
		settle()
		received, _ = a.take()
		require.Len(t, received, 1, "once, and its own do not come back")
		require.True(
			t,
			received[0].Covers(
				tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began},
			),
		)
		require.False(
			t,
			received[0].Covers(
				tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u2", StartedAt: began},
			),
		)
		require.ErrorIs(
			t,
			a.Revoked(
				tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began},
			),
			tickets.ErrRevoked,
		)
		require.NoError(
			t,
			a.Revoked(
				tickets.Grant{
					SessionID: "s3",
					Provider:  "oidc",
					UserID:    "u1",
					StartedAt: began.Add(3 * time.Second),
				},
			),
		)

		for _, r := range server.Log() {
			require.Empty(t, r.SessionID+r.Provider+r.UserID)
		}
		time.Sleep(time.Minute)
		received, gaps := b.take()
		require.Len(t, received, 1, "its own")
		require.Empty(t, gaps)
		require.NoError(t, a.Health())
	})
}

// A node that starts later, or was cut off, misses nothing.
func TestCluster_NodeCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a := newNode(t, server.Node(), nil)
		g := tickets.Grant{SessionID: "s1"}
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))

		cut := errors.New("connection refused")
		server.Fail(cut)
		b := newNode(t, server.Node(), nil)
		settle()
		require.ErrorIs(t, b.Health(), tickets.ErrStale)
		require.ErrorIs(t, b.Health(), cut)
		server.Fail(nil)
		out := mustMint(t, b.Issuer, tickets.Grant{SessionID: "s2"})
		_, err := b.Consume(t.Context(), out)
		require.ErrorIs(
			t,
			err,
			tickets.ErrStale,
			"Mint works before it has caught up, Consume does not",
		)
		require.NotErrorIs(t, err, tickets.ErrInvalid)
		time.Sleep(time.Second)
		require.NoError(t, b.Health())
		_, err = b.Consume(t.Context(), out)
		require.NoError(t, err, "the ticket was not touched")
		require.ErrorIs(t, b.Revoked(g), tickets.ErrRevoked)
		received, gaps := b.take()
		require.Empty(t, received, "nobody was admitted under it")
		require.Empty(t, gaps)

		// Revoked while the log is down: in force here, and published when it is back.
		server.Fail(cut)
		err = a.Revoke(t.Context(), tickets.Revocation{SessionID: "s3", Reason: "stolen"})
		require.ErrorIs(t, err, cut)
		require.ErrorContains(t, err, "other nodes")
		require.NotContains(t, err.Error(), "s3")
		require.ErrorIs(t, a.Revoked(tickets.Grant{SessionID: "s3"}), tickets.ErrRevoked)
		received, _ = a.take()
		require.Len(t, received, 2, "its listeners are called")
		time.Sleep(time.Hour / 2)
		require.NoError(t, b.Revoked(tickets.Grant{SessionID: "s3"}))
		require.ErrorIs(t, b.Health(), cut)
		require.NotErrorIs(t, b.Health(), tickets.ErrStale, "without MaxStaleness it admits people")
		server.Fail(nil)
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s3"}), tickets.ErrRevoked)
		received, _ = b.take()
		require.Len(t, received, 1)
		require.Equal(t, "stolen", received[0].Reason)
	})
}

// Machines have only their wall clocks in common. This is real time: a bubble of synctest has no
// monotonic clock.
func TestCluster_AtHasNoMonotonicReading(t *testing.T) {
	server := new(sharedstore.Server)
	a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
	ready := func() bool { return a.Health() == nil && b.Health() == nil }
	require.Eventually(t, ready, 10*time.Second, time.Millisecond)
	got := make(chan tickets.Revocation, 4)
	for _, n := range []*node{a, b} {
		n.OnRevoke(func(r tickets.Revocation) { got <- r })
	}
	now := time.Now()
	require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", At: now}))
	ahead, err := tickets.Revocation{SessionID: "s2", At: now.Add(time.Hour)}.Hashed()
	require.NoError(t, err)
	require.NoError(t, server.Node().Append(t.Context(), ahead)) // of a clock that is ahead
	for range 4 {
		r := <-got
		require.Equal(t, r.At.Round(0), r.At)
	}
}

// The store was emptied: the nodes publish what they remember, also for a node that starts then.
func TestCluster_Gap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		const n = 250 // more than are published at once
		for k := range n {
			require.NoError(
				t,
				a.Revoke(
					t.Context(),
					tickets.Revocation{SessionID: fmt.Sprint("s", k), Reason: "logout"},
				),
			)
		}
		require.NoError(
			t,
			a.Revoke(
				t.Context(),
				tickets.Revocation{Provider: "oidc", UserID: "u1", Reason: "disabled"},
			),
		)
		settle()
		a.take()
		b.take()

		server.Flush()
		time.Sleep(2 * time.Second)
		late := newNode(t, server.Node(), nil)
		settle()
		for k := range n {
			require.ErrorIs(
				t,
				late.Revoked(tickets.Grant{SessionID: fmt.Sprint("s", k)}),
				tickets.ErrRevoked,
			)
		}
		require.ErrorIs(
			t,
			late.Revoked(tickets.Grant{Provider: "oidc", UserID: "u1"}),
			tickets.ErrRevoked,
		)
		require.Contains(t, []string{"logout", "disabled"}, server.Log()[0].Reason)
		for _, node := range []*node{a, b} {
			received, gaps := node.take()
			require.Empty(t, received, "nothing new")
			require.Equal(t, []error{tickets.ErrGap}, gaps)
			require.NoError(t, node.Health())
		}
		_, gaps := late.take()
		require.Empty(t, gaps)
	})
}

// From a gap until the log is read again, Consume refuses.
func TestConsume_StaleDuringGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		log := &gate{Node: server.Node()}
		i := newNode(t, log, nil)
		settle()
		server.Flush()
		out := mustMint(t, i.Issuer, tickets.Grant{SessionID: "s1"})
		log.shut(errors.New("still loading"))
		time.Sleep(3 * time.Second)
		_, err := i.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrStale)
		require.ErrorContains(t, i.Health(), "still loading")
		_, gaps := i.take()
		require.Empty(t, gaps, "it has not read the log again yet")
		log.shut(nil)
		time.Sleep(time.Second)
		_, err = i.Consume(t.Context(), out)
		require.NoError(t, err)
		_, gaps = i.take()
		require.Equal(t, []error{tickets.ErrGap}, gaps)
	})
}

// gate is a node whose log can fail when it is read from the beginning.
type gate struct {
	*sharedstore.Node
	mu  sync.Mutex
	err error
}

func (g *gate) shut(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *gate) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	g.mu.Lock()
	err := g.err
	g.mu.Unlock()
	if err != nil && after == "" {
		return nil, "", err
	}
	return g.Node.Next(ctx, after)
}
