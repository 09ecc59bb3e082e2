package tickets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
)

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
		"an error": func(string) ([]tickets.Revocation, string, error) {
			return nil, "",
				errors.New("no")
		},
		"a gap": func(string) ([]tickets.Revocation, string, error) {
			return nil, "",
				tickets.ErrGap
		},
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

// A log that has never been read has no place to lose: a gap is then a failure like any other.
func TestCluster_GapBeforeTheFirstReadIsNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{MemoryStore: tickets.NewMemoryStore(nil)}
		s.next = func(string) ([]tickets.Revocation, string, error) {
			if s.calls < 4 {
				return nil, "", tickets.ErrGap
			}
			return nil, "1", nil
		}
		i := newNode(t, s, nil)
		settle()
		require.ErrorIs(t, i.Health(), tickets.ErrStale)
		time.Sleep(5 * time.Second)
		require.NoError(t, i.Health())
		_, gaps := i.take()
		require.Empty(t, gaps)
	})
}

// An operator reads in the log when an outage begins, and when it is over: one line each.
func TestCluster_LogsEachOutageOnce(t *testing.T) {
	var out bytes.Buffer
	logger, writer, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(logger)
		log.SetOutput(writer)
		log.SetFlags(flags)
	})
	synctest.Test(t, func(t *testing.T) {
		slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
		server := new(sharedstore.Server)
		i := newNode(t, server.Node(), nil)
		for outage := range 2 {
			for _, down := range []time.Duration{2 * time.Second, 20 * time.Second} {
				settle()
				server.Fail(errors.New("connection refused"))
				time.Sleep(down)
				server.Fail(nil)
				time.Sleep(2 * time.Second)
			}
			require.NoError(t, i.Health())
			lines := out.String()
			assert.Equal(t, outage+1, strings.Count(lines, "log cannot be read"), lines)
			assert.Equal(t, outage+1, strings.Count(lines, "log can be read again"), lines)
		}
	})
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
		require.ErrorIs(
			t,
			i.Revoked(tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now}),
			tickets.ErrRevoked,
		)
		require.NoError(
			t,
			i.Revoked(
				tickets.Grant{SessionID: "s2", UserID: "u1", StartedAt: now.Add(5 * time.Second)},
			),
		)
	})
}

func TestClose_StopsReceiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a := newNode(t, server.Node(), &tickets.IssuerOptions{MaxStaleness: time.Minute})
		b := newNode(t, server.Node(), nil)
		settle()
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Health(), tickets.ErrClosed)
		require.NoError(
			t,
			a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}),
			"sockets may outlive it",
		)
		settle()
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
		time.Sleep(time.Hour)
		_, gaps := a.take()
		require.Empty(t, gaps, "it reads no more")
	})
}

func TestNewIssuer_RefusesBadMaxStaleness(t *testing.T) {
	_, err := tickets.NewIssuer(
		tickets.NewMemoryStore(nil),
		&tickets.IssuerOptions{MaxStaleness: time.Minute},
	)
	require.ErrorContains(t, err, "no RevocationLog")
	_, err = tickets.NewIssuer(
		new(sharedstore.Server).Node(),
		&tickets.IssuerOptions{MaxStaleness: time.Second},
	)
	require.ErrorContains(t, err, "at least 3s")
	least := mustIssuer(
		t,
		new(sharedstore.Server).Node(),
		&tickets.IssuerOptions{MaxStaleness: 3 * time.Second},
	)
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
	assert.Equal(
		t,
		"c3ea4b642fb5ed8fe58fdc14ac2daba6d7b4468f505d781bdbc077c0c77bb33e",
		fmt.Sprintf("%x", tickets.HashUser("oidc", "u1")),
	)
}
