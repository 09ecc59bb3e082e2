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
	mute     error         // of Append
	gaps     bool          // at every cursor
	keeps    time.Duration
}

func (f *faulty) Append(ctx context.Context, r tickets.Revocation) error {
	time.Sleep(f.slow)
	if f.mute != nil {
		return f.mute
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

// However slow the log is to write to, a node that tells it everything again goes on listening.
func TestHearsWhileTellingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		slow := newNode(t, &faulty{Node: server.Node(), slow: 40 * time.Millisecond}, &tickets.IssuerOptions{MaxStaleness: 3 * time.Second})
		other := newNode(t, server.Node(), nil)
		settle()
		for k := range 200 {
			require.NoError(t, other.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint("old ", k)}))
		}
		settle()
		server.Flush()
		settle()
		slow.told()
		began := time.Now()
		require.NoError(t, other.Revoke(t.Context(), tickets.Revocation{SessionID: "urgent"}))
		for slow.Revoked(tickets.Grant{SessionID: "urgent"}) == nil {
			time.Sleep(time.Millisecond)
		}
		require.Less(t, time.Since(began), time.Second)
		time.Sleep(time.Minute)
		_, gaps := slow.told()
		require.NotContains(t, gaps, tickets.ErrStale)
		require.LessOrEqual(t, len(server.Log()), 2*201, "what is in the log is not told again by every node")
	})
}

// A log that has a gap whenever it is asked is not filled without end, nor is the application asked.
func TestGapsInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Node: new(sharedstore.Server).Node(), gaps: true}
		i := newNode(t, store, nil)
		for k := range 50 {
			require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: fmt.Sprint(k)}))
		}
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, store.appended.Load(), int64(2*50))
		_, gaps := i.told()
		require.LessOrEqual(t, len(gaps), 40)
	})
}

// A revocation ends, however often it is heard of and told again meanwhile.
func TestRevocationEnds(t *testing.T) {
	ann := tickets.Grant{SessionID: "new", UserID: "ann"} // since when is unknown
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
	t.Run("while nobody can be told", func(t *testing.T) {
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

// A node that hears late has minted meanwhile: the revocation stands for that too.
func TestStandsForThoseWhoHearLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		opts := &tickets.IssuerOptions{RememberRevocations: tickets.DefaultTTL}
		a, b := newNode(t, server.Node(), opts), newNode(t, &faulty{Node: server.Node(), late: 800 * time.Millisecond}, opts)
		time.Sleep(2 * time.Second)
		require.NoError(t, a.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
		time.Sleep(500 * time.Millisecond)
		out := mustMint(t, b.Issuer, tickets.Grant{SessionID: "s1"})
		time.Sleep(29700 * time.Millisecond)
		_, err := a.Consume(t.Context(), out)
		require.ErrorIs(t, err, tickets.ErrRevoked)
	})
}

func TestRememberedForGood(t *testing.T) {
	i := mustIssuer(t, nil, &tickets.IssuerOptions{RememberRevocations: math.MaxInt64})
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
	require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked)
}

// A server that is replaced while the log is down tells what it has not told, or says that it could not.
func TestCloseTells(t *testing.T) {
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

func TestHealthOfOneWhoCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("OOM command not allowed")
		i, err := tickets.NewIssuer(&faulty{Node: new(sharedstore.Server).Node(), mute: full}, nil)
		require.NoError(t, err)
		settle()
		require.ErrorIs(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}), full)
		require.NoError(t, i.Health(), "it may be over in a moment")
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, i.Health(), full)
		require.NotErrorIs(t, i.Health(), tickets.ErrStale)
		require.Error(t, i.Close())
	})
}

// In the goroutine that hears there is no net/http that would recover.
func TestListenerPanics(t *testing.T) {
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
		require.ErrorIs(t, b.Revoked(tickets.Grant{SessionID: "s2"}), tickets.ErrRevoked, "it goes on hearing")
		require.NoError(t, b.Health())
	})
}

func TestStoresThatAreNone(t *testing.T) {
	var failed *sharedstore.Node // as a constructor returns it beside its error
	_, err := tickets.NewIssuer(failed, nil)
	require.ErrorContains(t, err, "store is a nil *sharedstore.Node")
	_, err = tickets.NewIssuer(&faulty{Node: new(sharedstore.Server).Node(), keeps: time.Hour}, &tickets.IssuerOptions{RememberRevocations: 2 * time.Hour})
	require.ErrorContains(t, err, "keeps revocations for 1h0m0s")
	for year, ok := range map[int]bool{-1: false, 0: true, 9999: true} {
		i := mustIssuer(t, nil, nil)
		err := i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", At: time.Date(year, 5, 1, 0, 0, 0, 0, time.UTC)})
		assert.Equal(t, ok, err == nil, "%d: %v", year, err)
	}
}
