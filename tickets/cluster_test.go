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

// node is an issuer over a shared store, and what its listeners are told.
type node struct {
	*tickets.Issuer
	mu    sync.Mutex
	heard []tickets.Revocation
	gaps  []error
}

func newNode(t *testing.T, store tickets.Store, opts *tickets.IssuerOptions) *node {
	t.Helper()
	n := &node{Issuer: mustIssuer(t, store, opts)}
	t.Cleanup(func() { assert.NoError(t, n.Close()) })
	n.OnRevoke(func(r tickets.Revocation) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.heard = append(n.heard, r)
	})
	n.OnGap(func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, err)
	})
	return n
}

// told returns what the listeners were told since it was last asked.
func (n *node) told() (heard []tickets.Revocation, gaps []error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	heard, gaps, n.heard, n.gaps = n.heard, n.gaps, nil, nil
	return heard, gaps
}

// settle gives the nodes the time to hear each other, which is less than a heartbeat.
func settle() {
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

func TestRevocationReachesEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		began := time.Now()
		g := tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "u1", StartedAt: began}
		out := mustMint(t, a.Issuer, g)

		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", Reason: "logout"}))
		heard, _ := a.told()
		require.Equal(t, []tickets.Revocation{{
			SessionID: "s1", SessionHash: tickets.HashSession("s1"), Reason: "logout", At: began.Round(0),
		}}, heard)
		settle()
		require.Less(t, time.Since(began), 100*time.Millisecond, "it does not wait for a heartbeat")
		require.ErrorIs(t, b.Revoked(g), tickets.ErrRevoked)
		_, err := b.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		_, err = b.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		heard, _ = b.told()
		require.Equal(t, []tickets.Revocation{{SessionHash: tickets.HashSession("s1"), Reason: "logout", At: began.Round(0)}}, heard)

		require.NoError(t, b.Revoke(t.Context(), tickets.Revocation{Provider: "oidc", UserID: "u1"}))
		settle()
		heard, _ = a.told()
		require.Len(t, heard, 1, "once, and its own do not come back")
		require.True(t, heard[0].Covers(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began}))
		require.False(t, heard[0].Covers(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u2", StartedAt: began}))
		require.ErrorIs(t, a.Revoked(tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1", StartedAt: began}), tickets.ErrRevoked)
		require.NoError(t, a.Revoked(tickets.Grant{SessionID: "s3", Provider: "oidc", UserID: "u1", StartedAt: began.Add(3 * time.Second)}))

		for _, r := range server.Log() {
			require.Empty(t, r.SessionID+r.Provider+r.UserID)
		}
		time.Sleep(time.Minute)
		heard, gaps := b.told()
		require.Len(t, heard, 1, "its own")
		require.Empty(t, gaps)
		require.NoError(t, a.Health())
	})
}

// Whoever starts later, or was cut off, has missed nothing.
func TestNodeCatchesUp(t *testing.T) {
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
		heard, gaps := b.told()
		require.Empty(t, heard, "nobody was let in under it")
		require.Empty(t, gaps)

		// Revoked while nobody could be told: in force here, and told when the log is back.
		server.Fail(cut)
		err = a.Revoke(t.Context(), tickets.Revocation{SessionID: "s3", Reason: "stolen"})
		require.ErrorIs(t, err, cut)
		require.ErrorContains(t, err, "other nodes")
		require.NotContains(t, err.Error(), "s3")
		require.ErrorIs(t, a.Revoked(tickets.Grant{SessionID: "s3"}), tickets.ErrRevoked)
		heard, _ = a.told()
		require.Len(t, heard, 2, "its listeners were told")
		time.Sleep(time.Hour / 2)
		require.NoError(t, b.Revoked(tickets.Grant{SessionID: "s3"}))
		require.ErrorIs(t, b.Health(), cut)
		require.NotErrorIs(t, b.Health(), tickets.ErrStale, "it lets people in: nothing says that it must not")
		server.Fail(nil)
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s3"}), tickets.ErrRevoked)
		heard, _ = b.told()
		require.Len(t, heard, 1)
		require.Equal(t, "stolen", heard[0].Reason)
	})
}

// What could not be told is told once, the latest of each, whatever fails on the way; and a log that fails
// is told of at once.
func TestToldAgainOnce(t *testing.T) {
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
		told := server.Log()
		require.Len(t, told, n+1)
		sessions := make(map[[32]byte]bool)
		for _, r := range told {
			if r.UserHash == tickets.HashUser("", "u1") {
				require.True(t, r.At.Equal(began.Add(-time.Minute)), "%v", r.At.Sub(began))
			} else {
				sessions[r.SessionHash] = true
			}
		}
		require.Len(t, sessions, n)
		time.Sleep(time.Hour)
		require.Len(t, server.Log(), n+1, "told again and again")
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

// A store that was emptied: what the nodes remember is told again, to those who start then, too.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, b := newNode(t, server.Node(), nil), newNode(t, server.Node(), nil)
		settle()
		const n = 250 // more than are told at once
		for k := range n {
			require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("s", k), Reason: "logout"}))
		}
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{Provider: "oidc", UserID: "u1", Reason: "disabled"}))
		settle()
		a.told()
		b.told()

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
			heard, gaps := node.told()
			require.Empty(t, heard, "no news")
			require.Equal(t, []error{tickets.ErrGap}, gaps)
			require.NoError(t, node.Health())
		}
		_, gaps := late.told()
		require.Empty(t, gaps)
	})
}

// While the log has lost its place, nobody comes in.
func TestNobodyComesInDuringGap(t *testing.T) {
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
		_, gaps := i.told()
		require.Empty(t, gaps, "it has not heard yet what there is now")
		log.shut(nil)
		time.Sleep(time.Second)
		_, err = i.Consume(t.Context(), out)
		require.NoError(t, err)
		_, gaps = i.told()
		require.Equal(t, []error{tickets.ErrGap}, gaps)
	})
}

// gate is a node whose log alone can fail, from the beginning on: what has a cursor gets ErrGap.
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

func TestMaxStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		log := &hung{Node: server.Node()}
		i := newNode(t, log, &tickets.IssuerOptions{MaxStaleness: 10 * time.Second})
		time.Sleep(time.Minute)
		require.NoError(t, i.Health())
		_, gaps := i.told()
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
		_, gaps = i.told()
		require.Equal(t, []error{tickets.ErrStale}, gaps)
		time.Sleep(time.Second)
		log.hang(false)
		time.Sleep(2 * time.Second)
		require.NoError(t, i.Health())
		_, err = i.Consume(t.Context(), out)
		require.NoError(t, err)
		_, gaps = i.told()
		require.Empty(t, gaps, "what came meanwhile was heard")
	})
}

// hung is a node whose log can stop to answer.
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

// script is a log that answers what it is told to.
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

// A log that does not wait, or has a gap whenever it is asked, is not asked without end.
func TestLogThatDoesNotWait(t *testing.T) {
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
				assert.GreaterOrEqual(t, s.calls, 15, "it goes on asking")
			})
		})
	}
}

// What cannot have been appended by an issuer does no harm; a clock that is ahead revokes nobody who
// signs in later.
func TestStrangeRevocations(t *testing.T) {
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
		heard, _ := i.told()
		require.Len(t, heard, 2)
		require.NoError(t, i.Revoked(tickets.Grant{}))
		require.NoError(t, i.Revoked(tickets.Grant{SessionID: "both", UserID: "both"}))
		require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now}), tickets.ErrRevoked)
		require.NoError(t, i.Revoked(tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now.Add(5 * time.Second)}))
	})
}

func TestClosedNode(t *testing.T) {
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
		_, gaps := a.told()
		require.Empty(t, gaps, "it does not listen")
	})
}

func TestMaxStalenessOptions(t *testing.T) {
	_, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), &tickets.IssuerOptions{MaxStaleness: time.Minute})
	require.ErrorContains(t, err, "no RevocationLog")
	_, err = tickets.NewIssuer(new(sharedstore.Server).Node(), &tickets.IssuerOptions{MaxStaleness: time.Second})
	require.ErrorContains(t, err, "at least 3s")
	least := mustIssuer(t, new(sharedstore.Server).Node(), &tickets.IssuerOptions{MaxStaleness: 3 * time.Second})
	require.NoError(t, least.Close())
	i := mustIssuer(t, nil, nil)
	require.NoError(t, i.Health(), "nobody else is there to be heard")
	require.NoError(t, i.Close())
	require.ErrorIs(t, i.Health(), tickets.ErrClosed)
}

func TestHashUser(t *testing.T) {
	assert.NotEqual(t, tickets.HashUser("ab", "c"), tickets.HashUser("a", "bc"))
	assert.NotEqual(t, tickets.HashUser("", "u"), tickets.HashUser("u", ""))
	// Nodes of different versions must agree: SHA-256 of 00000000 00000004 "oidc" "u1".
	assert.Equal(t, "c3ea4b642fb5ed8fe58fdc14ac2daba6d7b4468f505d781bdbc077c0c77bb33e", fmt.Sprintf("%x", tickets.HashUser("oidc", "u1")))
}
