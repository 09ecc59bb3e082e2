package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", Reason: "logout"}))
		received, _ := a.take()
		require.Equal(t, []tickets.Revocation{{
			SessionID: "s1", SessionHash: tickets.HashSession("s1"), Reason: "logout", At: began.Round(0),
		}}, received)
		settle()
		require.Less(t, time.Since(began), 100*time.Millisecond, "it does not wait for a heartbeat")
		require.ErrorIs(t, b.Revoked(g), tickets.ErrRevoked)
		_, err := b.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		_, err = b.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		received, _ = b.take()
		require.Equal(t, []tickets.Revocation{{SessionHash: tickets.HashSession("s1"), Reason: "logout", At: began.Round(0)}}, received)

		require.NoError(t, b.Revoke(t.Context(), tickets.Revocation{Provider: "oidc", UserID: "u1"}))
		settle()
		received, _ = a.take()
		require.Len(t, received, 1, "once, and its own do not come back")
		require.True(t, received[0].Covers(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began}))
		require.False(t, received[0].Covers(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u2", StartedAt: began}))
		require.ErrorIs(t, a.Revoked(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began}), tickets.ErrRevoked)
		require.NoError(t, a.Revoked(tickets.Grant{SessionID: "s3", Provider: "oidc", UserID: "u1", StartedAt: began.Add(3 * time.Second)}))

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
		require.ErrorIs(t, err, tickets.ErrStale, "Mint works before it has caught up, Consume does not")
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

// What could not be published is published once, the latest of each subject, whatever fails
// meanwhile; and Health reports a log that fails at once.
func TestCluster_PublishesAgainOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		log := &stubborn{Node: server.Node()}
		i := newNode(t, log, nil)
		settle()
		began := time.Now()
		cut := errors.New("connection refused")
		server.Fail(cut)
		time.Sleep(100 * time.Millisecond)
		require.ErrorIs(t, i.Health(), cut)
		const n = 7
		for k := range n {
			require.ErrorIs(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("s", k)}), cut)
		}
		for _, at := range []time.Duration{-3 * time.Minute, -time.Minute, -2 * time.Minute} {
			require.ErrorIs(t, i.Revoke(t.Context(), tickets.Revocation{UserID: "u1", At: began.Add(at)}), cut)
		}
		log.fails.Store(true)
		server.Fail(nil)
		time.Sleep(time.Minute)
		published := server.Log()
		require.Len(t, published, n+1)
		sessions := make(map[[32]byte]bool)
		for _, r := range published {
			if r.UserHash == tickets.HashUser("", "u1") {
				require.True(t, r.At.Equal(began.Add(-time.Minute)), "%v", r.At.Sub(began))
			} else {
				sessions[r.SessionHash] = true
			}
		}
		require.Len(t, sessions, n)
		time.Sleep(time.Hour)
		require.Len(t, server.Log(), n+1, "published again and again")
	})
}

// stubborn is a node whose Append fails every other time, from when fails is set.
type stubborn struct {
	*sharedstore.Node
	fails atomic.Bool
	calls atomic.Int64
}

func (s *stubborn) Append(ctx context.Context, r tickets.Revocation) error {
	if s.fails.Load() && s.calls.Add(1)%2 == 0 {
		return errors.New("timed out")
	}
	return s.Node.Append(ctx, r)
}

// The store was emptied: the nodes publish what they remember, also for a node that starts then.
func TestCluster_Gap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		const n = 250 // more than are published at once
		for k := range n {
			require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("s", k), Reason: "logout"}))
		}
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{Provider: "oidc", UserID: "u1", Reason: "disabled"}))
		settle()
		a.take()
		b.take()

		server.Flush()
		time.Sleep(2 * time.Second)
		late := newNode(t, server.Node(), nil)
		settle()
		for k := range n {
			require.ErrorIs(t, late.Revoked(tickets.Grant{SessionID: fmt.Sprint("s", k)}), tickets.ErrRevoked)
		}
		require.ErrorIs(t, late.Revoked(tickets.Grant{Provider: "oidc", UserID: "u1"}), tickets.ErrRevoked)
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

func TestCluster_MaxStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		log := &hung{Node: server.Node()}
		i := newNode(t, log, &tickets.IssuerOptions{MaxStaleness: 10 * time.Second})
		time.Sleep(time.Minute)
		require.NoError(t, i.Health())
		_, gaps := i.take()
		require.Empty(t, gaps)

		log.hang(true)
		time.Sleep(5 * time.Second)
		require.ErrorContains(t, i.Health(), "revocation log was not read for")
		require.NotErrorIs(t, i.Health(), tickets.ErrStale)
		_, err := i.Consume(t.Context(), mustMint(t, i.Issuer, tickets.Grant{SessionID: "s1"}))
		require.NoError(t, err)
		time.Sleep(7 * time.Second)
		require.ErrorIs(t, i.Health(), tickets.ErrStale)
		out := mustMint(t, i.Issuer, tickets.Grant{SessionID: "s1"})
		_, err = i.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrStale)
		_, gaps = i.take()
		require.Equal(t, []error{tickets.ErrStale}, gaps)
		time.Sleep(time.Second)
		log.hang(false)
		time.Sleep(2 * time.Second)
		require.NoError(t, i.Health())
		_, err = i.Consume(t.Context(), out)
		require.NoError(t, err)
		_, gaps = i.take()
		require.Empty(t, gaps, "what was appended meanwhile was received")
	})
}

// hung is a node whose log can stop answering.
type hung struct {
	*sharedstore.Node
	mu   sync.Mutex
	free chan struct{}
}

func (h *hung) hang(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on {
		h.free = make(chan struct{})
	} else {
		close(h.free)
		h.free = nil
	}
}

func (h *hung) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	h.mu.Lock()
	free := h.free
	h.mu.Unlock()
	if free != nil {
		select {
		case <-free:
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	return h.Node.Next(ctx, after)
}

// script is a log whose answers a test writes.
type script struct {
	*tickets.MemoryStore
	mu    sync.Mutex
	calls int
	next  func(after string) ([]tickets.Revocation, string, error)
}

func (s *script) Append(context.Context, tickets.Revocation) error { return nil }

func (s *script) Next(_ context.Context, after string) ([]tickets.Revocation, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return s.next(after)
}

// A log that does not wait, or has a gap at every read, is not read without end.
func TestCluster_LogThatDoesNotWait(t *testing.T) {
	one := []tickets.Revocation{{SessionID: "s1", At: time.Unix(1, 0)}}
	for name, next := range map[string]func(string) ([]tickets.Revocation, string, error){
		"nothing":   func(string) ([]tickets.Revocation, string, error) { return nil, "1", nil },
		"the same":  func(string) ([]tickets.Revocation, string, error) { return one, "1", nil },
		"no cursor": func(string) ([]tickets.Revocation, string, error) { return one, "", nil },
		"an error":  func(string) ([]tickets.Revocation, string, error) { return nil, "", errors.New("no") },
		"a gap":     func(string) ([]tickets.Revocation, string, error) { return nil, "", tickets.ErrGap },
		"a gap after start": func(after string) ([]tickets.Revocation, string, error) {
			if after == "" {
				return nil, "1", nil
			}
			return nil, "", tickets.ErrGap
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{MemoryStore: tickets.NewMemoryStore(nil), next: next}
				newNode(t, s, nil)
				time.Sleep(10 * time.Second)
				s.mu.Lock()
				defer s.mu.Unlock()
				assert.LessOrEqual(t, s.calls, 1100)
				assert.GreaterOrEqual(t, s.calls, 15, "it still reads")
			})
		})
	}
}

// What no issuer appends is ignored. A clock that is ahead revokes no session that begins later.
func TestCluster_IgnoresMalformedRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := &script{MemoryStore: tickets.NewMemoryStore(nil)}
		s.next = func(string) ([]tickets.Revocation, string, error) {
			if s.calls != 2 {
				return nil, "1", nil
			}
			return []tickets.Revocation{
				{},
				{Reason: "nobody"},
				{SessionID: "both", UserID: "both"},
				{UserID: "u1", At: now.Add(time.Hour)},
				{SessionID: "s1", At: now.Add(-time.Hour)},
			}, "2", nil
		}
		i := newNode(t, s, nil)
		time.Sleep(time.Second)
		received, _ := i.take()
		require.Len(t, received, 2)
		require.NoError(t, i.Revoked(tickets.Grant{}))
		require.NoError(t, i.Revoked(tickets.Grant{SessionID: "both", UserID: "both"}))
		require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now}), tickets.ErrRevoked)
		require.NoError(t, i.Revoked(tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now.Add(5 * time.Second)}))
	})
}

func TestClose_StopsReceiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), &tickets.IssuerOptions{MaxStaleness: time.Minute}), newNode(t, server.Node(), nil)
		settle()
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Health(), tickets.ErrClosed)
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}), "sockets may outlive it")
		settle()
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		time.Sleep(time.Hour)
		_, gaps := a.take()
		require.Empty(t, gaps, "it reads no more")
	})
}

func TestNewIssuer_RefusesBadMaxStaleness(t *testing.T) {
	_, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), &tickets.IssuerOptions{MaxStaleness: time.Minute})
	require.ErrorContains(t, err, "no RevocationLog")
	_, err = tickets.NewIssuer(new(sharedstore.Server).Node(), &tickets.IssuerOptions{MaxStaleness: time.Second})
	require.ErrorContains(t, err, "at least 3s")
	least := mustIssuer(t, new(sharedstore.Server).Node(), &tickets.IssuerOptions{MaxStaleness: 3 * time.Second})
	require.NoError(t, least.Close())
	i := mustIssuer(t, nil, nil)
	require.NoError(t, i.Health(), "there are no other nodes")
	require.NoError(t, i.Close())
	require.ErrorIs(t, i.Health(), tickets.ErrClosed)
}

func TestHashUser(t *testing.T) {
	assert.NotEqual(t, tickets.HashUser("ab", "c"), tickets.HashUser("a", "bc"))
	assert.NotEqual(t, tickets.HashUser("", "u"), tickets.HashUser("u", ""))
	// Nodes of different versions must agree: SHA-256 of 00000000 00000004 "oidc" "u1".
	assert.Equal(t, "c3ea4b642fb5ed8fe58fdc14ac2daba6d7b4468f505d781bdbc077c0c77bb33e", fmt.Sprintf("%x", tickets.HashUser("oidc", "u1")))
}
