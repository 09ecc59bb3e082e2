package tickets_test

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// The tests of the Python dashboard's ticket store, one by one.
func TestIssuer_AsTheDashboardsTests(t *testing.T) {
	t.Run("round trip", func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		got, err := i.Consume(
			t.Context(),
			mustMint(t, i, tickets.Grant{UserID: "u1", Provider: "nous"}),
		)
		require.NoError(t, err)
		assert.Equal(t, "u1", got.UserID)
		assert.Equal(t, "nous", got.Provider)
		assert.WithinDuration(t, time.Now(), got.MintedAt, time.Minute)
	})
	t.Run("the second use is refused as unknown", func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		ticket := mustMint(t, i, tickets.Grant{UserID: "u1", Provider: "stub"})
		_, err := i.Consume(t.Context(), ticket)
		require.NoError(t, err)
		_, err = i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, tickets.ErrInvalid)
		require.ErrorContains(t, err, "unknown")
	})
	t.Run("a time to live of 30 s", func(t *testing.T) {
		assert.Equal(t, 30*time.Second, tickets.DefaultTTL)
		assert.Equal(t, 30*time.Second, mustIssuer(t, nil, nil).Lifetime(tickets.Grant{}))
	})
	t.Run("expired", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := mustIssuer(t, nil, nil)
			ticket := mustMint(t, i, tickets.Grant{UserID: "u1", Provider: "stub"})
			time.Sleep(tickets.DefaultTTL + time.Second)
			_, err := i.Consume(t.Context(), ticket)
			require.ErrorIs(t, err, tickets.ErrExpired)
			require.ErrorContains(t, err, "expired")
		})
	})
	t.Run("valid at exactly the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := mustIssuer(t, nil, nil)
			ticket := mustMint(t, i, tickets.Grant{UserID: "u1", Provider: "stub"})
			time.Sleep(tickets.DefaultTTL)
			got, err := i.Consume(t.Context(), ticket)
			require.NoError(t, err)
			assert.Equal(t, "u1", got.UserID)
		})
	})
	t.Run("twenty mint and consume at once", func(t *testing.T) { mintAndConsumeAtOnce(t, 20) })
	t.Run("five hundred do", func(t *testing.T) { mintAndConsumeAtOnce(t, 500) })
}

func mintAndConsumeAtOnce(t *testing.T, n int) {
	i := mustIssuer(t, nil, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]bool{}
	for w := range n {
		wg.Go(func() {
			user := fmt.Sprintf("u%d", w)
			ticket, err := i.Mint(
				t.Context(),
				tickets.Grant{UserID: user, Provider: "stub", SessionID: user},
			)
			if !assert.NoError(t, err) {
				return
			}
			g, err := i.Consume(t.Context(), ticket)
			if assert.NoError(t, err) && assert.Equal(t, user, g.UserID, "somebody else's grant") {
				mu.Lock()
				defer mu.Unlock()
				got[g.UserID] = true
			}
		})
	}
	wg.Wait()
	assert.Len(t, got, n)
}

func TestConsume_OneWinner(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	for range 50 {
		ticket := mustMint(t, i, tickets.Grant{UserID: "u1"})
		var winners, losers atomic.Int32
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				<-start
				if _, err := i.Consume(t.Context(), ticket); err == nil {
					winners.Add(1)
				} else if assert.ErrorIs(t, err, tickets.ErrUsed) {
					losers.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		require.EqualValues(t, 1, winners.Load())
		require.EqualValues(t, 31, losers.Load())
	}
}

func TestConsume_ReturnsTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		for name, g := range grants() {
			if name == "far times" { // its session has ended
				g.SessionExpiresAt = g.ExpiresAt
			}
			ticket := mustMint(t, i, g)
			minted := time.Now()
			time.Sleep(time.Second + time.Nanosecond)
			got, err := i.Consume(t.Context(), ticket)
			require.NoError(t, err, name)
			g.MintedAt, g.ExpiresAt = minted, minted.Add(30*time.Second)
			assertSameGrant(t, g, got)
		}
	})
}

// The life of a ticket, with the instants at which something changes.
func TestConsume_LifeOfATicket(t *testing.T) {
	const ttl = 30 * time.Second
	for _, row := range []struct {
		name     string
		session  time.Duration // until the session ends; 0: not known
		use      time.Duration // when it is used first; 0: not at all
		at       time.Duration
		want     error
		lifetime time.Duration
	}{
		{name: "at once", at: 0},
		{name: "age exactly TTL", at: ttl},
		{name: "1 ns older", at: ttl + 1, want: tickets.ErrExpired},
		{name: "5 s after its end", at: ttl + 5*time.Second, want: tickets.ErrExpired},
		{name: "a minute after its end", at: ttl + time.Minute, want: tickets.ErrUnknown},
		{name: "used, at once", use: 1, at: 1, want: tickets.ErrUsed},
		{name: "used, at its end", use: 1, at: ttl, want: tickets.ErrUsed},
		{name: "used at its end", use: ttl, at: ttl, want: tickets.ErrUsed},
		{
			name: "used, a minute after its end", use: 1, at: ttl + time.Minute,
			want: tickets.ErrUnknown,
		},
		{
			name: "the session ends in 5 s", session: 5 * time.Second, at: 5 * time.Second,
			lifetime: 5 * time.Second,
		},
		{
			name: "the session ended 1 ns ago", session: 5 * time.Second, at: 5*time.Second + 1,
			want: tickets.ErrExpired, lifetime: 5 * time.Second,
		},
		{
			name: "5 s after the session's end", session: 5 * time.Second, at: 10 * time.Second,
			want: tickets.ErrExpired, lifetime: 5 * time.Second,
		},
		{
			name: "used, at the session's end", session: 5 * time.Second, use: 1,
			at: 5 * time.Second, want: tickets.ErrUsed, lifetime: 5 * time.Second,
		},
		{name: "the session ends later", session: time.Hour, at: ttl + 1, want: tickets.ErrExpired},
		{name: "the session ends with the ticket", session: ttl, at: ttl},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := mustIssuer(t, nil, nil)
				g := tickets.Grant{UserID: "u1", SessionID: "s1"}
				if row.session > 0 {
					g.SessionExpiresAt = time.Now().Add(row.session).Round(0)
				}
				if row.lifetime == 0 {
					row.lifetime = ttl
				}
				assert.Equal(t, row.lifetime, i.Lifetime(g))
				ticket := mustMint(t, i, g)
				other := mustMint(t, i, g)
				if row.use > 0 {
					time.Sleep(row.use)
					_, err := i.Consume(t.Context(), ticket)
					require.NoError(t, err)
				}
				time.Sleep(row.at - row.use)
				got, err := i.Consume(t.Context(), ticket)
				if row.want != nil {
					require.ErrorIs(t, err, row.want)
					require.ErrorIs(t, err, tickets.ErrInvalid)
					require.Zero(t, got)
					return
				}
				require.NoError(t, err)
				require.Equal(t, row.lifetime, got.ExpiresAt.Sub(got.MintedAt))
				_, err = i.Consume(t.Context(), other)
				require.NoError(t, err, "the other ticket of the session")
			})
		})
	}
}

func TestMint_EndedSessionIsErrExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, &tickets.IssuerOptions{MaxPerSession: 1})
		for _, end := range []time.Duration{0, -1, -time.Hour, -200 * 365 * 24 * time.Hour} {
			g := tickets.Grant{SessionID: "s1", SessionExpiresAt: time.Now().Add(end)}
			assert.Zero(t, i.Lifetime(g))
			ticket, err := i.Mint(t.Context(), g)
			assert.ErrorIs(t, err, tickets.ErrExpired)
			assert.ErrorContains(t, err, "expired")
			assert.Empty(t, string(ticket))
		}
		mustMint(t, i, tickets.Grant{SessionID: "s1"}) // none of these counted
	})
}

func TestNewIssuer_RefusesBadOptionsAllAtOnce(t *testing.T) {
	_, err := tickets.NewIssuer(
		nil,
		&tickets.IssuerOptions{TTL: -1, MaxPerSession: -1, RememberRevocations: -1},
	)
	require.Error(t, err)
	for _, part := range []string{
		"store is nil", "TTL is -1ns, want 1ms to 1h0m0s", "MaxPerSession is -1",
		"RememberRevocations is -1ns",
	} {
		assert.ErrorContains(t, err, part)
	}
	for name, o := range map[string]tickets.IssuerOptions{
		"TTL too long":  {TTL: time.Hour + 1},
		"TTL too short": {TTL: time.Millisecond - 1},
		"revocations forgotten before the ticket": {
			TTL: time.Minute, RememberRevocations: time.Minute - 1,
		},
	} {
		i, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), &o)
		assert.Error(t, err, name)
		assert.Nil(t, i, name)
	}
	for _, o := range []tickets.IssuerOptions{
		{}, {TTL: time.Hour}, {TTL: time.Millisecond},
		{TTL: time.Minute, RememberRevocations: time.Minute},
	} {
		before := o
		i, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), &o)
		require.NoError(t, err)
		assert.Equal(t, before, o, "the caller's options are the caller's")
		ttl := cmp.Or(o.TTL, tickets.DefaultTTL)
		assert.Equal(t, ttl, i.Lifetime(tickets.Grant{}), "without an end it is the TTL")
	}
}

func TestMint_RefusesLongFields(t *testing.T) {
	store := &spy{Store: tickets.NewMemoryStore(nil)}
	i := mustIssuer(t, store, nil)
	canary := strings.Repeat("canary", 10000)
	for field, g := range map[string]tickets.Grant{
		"Data":      {Data: canary[:257]},
		"SessionID": {SessionID: canary[:8<<10+1]},
		"Provider":  {Provider: canary},
		"UserID":    {UserID: canary},
		"Endpoint":  {Endpoint: canary},
	} {
		ticket, err := i.Mint(t.Context(), g)
		require.ErrorContains(t, err, field)
		assert.NotErrorIs(t, err, tickets.ErrInvalid)
		assert.NotContains(t, err.Error(), "canary")
		assert.Empty(t, string(ticket))
	}
	_, err := i.Mint(t.Context(), tickets.Grant{UserID: canary, Data: canary})
	assert.ErrorContains(t, err, "UserID")
	assert.ErrorContains(t, err, "Data")
	_, err = i.Mint(t.Context(), tickets.Grant{SessionID: canary[:8<<10], Data: canary})
	assert.NotContains(t, err.Error(), "SessionID", "that one is not too long")
	assert.Zero(t, store.puts.Load())
	mustMint(t, i, tickets.Grant{Data: canary[:256], SessionID: canary[:8<<10]})
}

func TestClose_EndsMintAndConsume(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	ticket := mustMint(t, i, tickets.Grant{SessionID: "s1"})
	var called int
	i.OnRevoke(func(tickets.Revocation) { called++ })
	require.NoError(t, i.Close())
	require.NoError(t, i.Close())
	_, err := i.Mint(t.Context(), tickets.Grant{})
	require.ErrorIs(t, err, tickets.ErrClosed)
	require.NotErrorIs(t, err, tickets.ErrInvalid)
	got, err := i.Consume(t.Context(), ticket)
	require.ErrorIs(t, err, tickets.ErrClosed)
	require.NotErrorIs(t, err, tickets.ErrInvalid)
	require.Zero(t, got)
	_, err = i.Consume(t.Context(), "")
	require.ErrorIs(t, err, tickets.ErrClosed)
	require.NoError(
		t,
		i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}),
		"sockets may outlive the issuer",
	)
	assert.Equal(t, 1, called)
}

func TestErrorKinds(t *testing.T) {
	kinds := []error{tickets.ErrUnknown, tickets.ErrUsed, tickets.ErrExpired, tickets.ErrRevoked}
	for n, kind := range kinds {
		assert.ErrorIs(t, kind, tickets.ErrInvalid)
		assert.NotErrorIs(t, tickets.ErrInvalid, kind)
		for m, other := range kinds {
			assert.Equal(t, n == m, errors.Is(kind, other))
		}
	}
	for _, other := range []error{tickets.ErrTooMany, tickets.ErrFull, tickets.ErrClosed} {
		assert.NotErrorIs(t, other, tickets.ErrInvalid)
	}
}
