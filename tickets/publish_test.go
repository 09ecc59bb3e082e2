package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
)

// What could not be published is published once, the latest of each subject, whatever fails
// meanwhile; and Health reports a failing log at once.
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
			require.ErrorIs(
				t,
				i.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("s", k)}),
				cut,
			)
		}
		for _, at := range []time.Duration{-3 * time.Minute, -time.Minute, -2 * time.Minute} {
			require.ErrorIs(
				t,
				i.Revoke(t.Context(), tickets.Revocation{UserID: "u1", At: began.Add(at)}),
				cut,
			)
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

// A node receives while it publishes again, however slow Append is.
func TestCluster_ReceivesWhilePublishingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		slow := newNode(
			t,
			&faulty{Node: server.Node(), slow: 40 * time.Millisecond},
			&tickets.IssuerOptions{MaxStaleness: 3 * time.Second},
		)
		other := newNode(t, server.Node(), nil)
		settle()
		for k := range 200 {
			require.NoError(
				t,
				other.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("old ", k)}),
			)
		}
		settle()
		server.Flush()
		settle()
		slow.take()
		began := time.Now()
		require.NoError(t, other.Revoke(t.Context(), tickets.Revocation{SessionID: "urgent"}))
		for slow.Revoked(tickets.Grant{SessionID: "urgent"}) == nil {
			time.Sleep(time.Millisecond)
		}
		require.Less(t, time.Since(began), time.Second)
		time.Sleep(time.Minute)
		_, gaps := slow.take()
		require.NotContains(t, gaps, tickets.ErrStale)
		require.LessOrEqual(
			t,
			len(server.Log()),
			2*201,
			"what is in the log is not published by every node",
		)
	})
}

// What a slow log has no time for in one turn is published in the next ones.
func TestCluster_SlowAppendPublishesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		i := newNode(t, &faulty{Node: server.Node(), slow: 40 * time.Millisecond}, nil)
		settle()
		server.Fail(errors.New("connection refused"))
		const n = 30 // in a turn there is time for five
		for k := range n {
			require.Error(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint(k)}))
		}
		server.Fail(nil)
		time.Sleep(time.Minute)
		published := make(map[[32]byte]bool)
		for _, r := range server.Log() {
			published[r.SessionHash] = true
		}
		require.Len(t, published, n)
	})
}

// A server that is replaced while the log is down publishes at Close, or returns an error.
func TestClose_PublishesWhatIsUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		a, err := tickets.NewIssuer(server.Node(), nil)
		require.NoError(t, err)
		b := newNode(t, server.Node(), nil)
		settle()
		server.Fail(errors.New("failing over"))
		require.Error(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
		require.ErrorContains(t, a.Close(), "1 revocations were not published")
		server.Fail(nil)
		require.NoError(t, a.Close())
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
	})
}

func TestHealth_AppendFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("OOM command not allowed")
		i, err := tickets.NewIssuer(
			&faulty{Node: new(sharedstore.Server).Node(), refuses: full},
			nil,
		)
		require.NoError(t, err)
		settle()
		require.ErrorIs(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}), full)
		require.NoError(t, i.Health(), "it may be a short outage")
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, i.Health(), full)
		require.NotErrorIs(t, i.Health(), tickets.ErrStale)
		require.Error(t, i.Close())
	})
}
