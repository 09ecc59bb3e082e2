package tickets_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestRevoke_Session(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		g := tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "u1"}
		other := tickets.Grant{SessionID: "s2", Provider: "oidc", UserID: "u1"}
		ticket, kept := mustMint(t, i, g), mustMint(t, i, other)
		require.NoError(t, i.Revoked(g))

		require.NoError(
			t,
			i.Revoke(t.Context(), tickets.Revocation{SessionID: "s1", Reason: "logout"}),
		)
		require.ErrorIs(t, i.Revoked(g), tickets.ErrRevoked)
		require.NoError(t, i.Revoked(other))
		require.NoError(t, i.Revoked(tickets.Grant{}), "a grant without a session")
		require.NoError(
			t,
			i.Revoked(tickets.Grant{UserID: "s1", Provider: "s1"}),
			"an id of another kind",
		)

		got, err := i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		require.ErrorIs(t, err, tickets.ErrInvalid)
		require.ErrorContains(t, err, "revoked")
		require.Zero(t, got)
		holdsPart(t, fmt.Sprintf("%v %+v %#v", err, err, err), ticket)
		_, err = i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, tickets.ErrUsed, "it is used all the same")

		minted, err := i.Mint(t.Context(), g)
		require.ErrorIs(t, err, tickets.ErrRevoked)
		require.ErrorContains(t, err, "revoked")
		require.NotContains(t, err.Error(), "s1")
		require.Empty(t, string(minted))
		_, err = i.Consume(t.Context(), kept)
		require.NoError(t, err)
	})
}

func TestRevoke_User(t *testing.T) {
	for _, row := range []struct {
		name    string
		r       tickets.Revocation
		g       tickets.Grant
		began   time.Duration // after the revocation
		unknown bool          // when it began
		want    bool
	}{
		{
			name: "long before", g: tickets.Grant{Provider: "p", UserID: "u"}, began: -time.Hour,
			want: true,
		},
		{name: "at once", g: tickets.Grant{Provider: "p", UserID: "u"}, want: true},
		{
			name: "2 s later", g: tickets.Grant{Provider: "p", UserID: "u"}, began: 2 * time.Second,
			want: true,
		},
		{
			name: "signed in again", g: tickets.Grant{Provider: "p", UserID: "u"},
			began: 2*time.Second + 1,
		},
		{
			name: "unknown beginning", g: tickets.Grant{Provider: "p", UserID: "u"}, unknown: true,
			want: true,
		},
		{name: "another user", g: tickets.Grant{Provider: "p", UserID: "U"}, began: -1},
		{name: "another provider", g: tickets.Grant{Provider: "q", UserID: "u"}, began: -1},
		{name: "no provider in the grant", g: tickets.Grant{UserID: "u"}, began: -1},
		{
			name: "no provider in the revocation", r: tickets.Revocation{UserID: "u"},
			g: tickets.Grant{Provider: "p", UserID: "u"}, began: -1,
		},
		{
			name: "no provider in either", r: tickets.Revocation{UserID: "u"},
			g: tickets.Grant{UserID: "u"}, began: -1, want: true,
		},
		{
			name: "a split in another place", r: tickets.Revocation{Provider: "ab", UserID: "c"},
			g: tickets.Grant{Provider: "a", UserID: "bc"}, began: -1,
		},
		{name: "nobody", g: tickets.Grant{Provider: "p"}, unknown: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := mustIssuer(t, nil, nil)
				if row.r == (tickets.Revocation{}) {
					row.r = tickets.Revocation{Provider: "p", UserID: "u"}
				}
				row.g.SessionID = "s1"
				if !row.unknown {
					row.g.StartedAt = time.Now().Add(row.began)
				}
				ticket := mustMint(t, i, row.g)
				var received tickets.Revocation
				i.OnRevoke(func(r tickets.Revocation) { received = r })
				require.NoError(t, i.Revoke(t.Context(), row.r))
				assert.True(t, received.At.Equal(time.Now()), "At is filled in")
				assert.Equal(t, row.want, received.Covers(row.g))
				_, mintErr := i.Mint(t.Context(), row.g)
				_, consumeErr := i.Consume(t.Context(), ticket)
				for _, err := range []error{i.Revoked(row.g), mintErr, consumeErr} {
					if row.want {
						assert.ErrorIs(t, err, tickets.ErrRevoked)
					} else {
						assert.NoError(t, err)
					}
				}
			})
		})
	}
}

// The hashes are of what the caller names. Others that it passes revoke nothing: a revocation of
// both a session and a user would be refused by every other node.
func TestRevoke_FillsInTheHashes(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	var received []tickets.Revocation
	i.OnRevoke(func(r tickets.Revocation) { received = append(received, r) })
	session, user := tickets.HashSession("s1"), tickets.HashUser("", "u1")
	other := [32]byte{1}
	for _, r := range []tickets.Revocation{
		{SessionID: "s1"}, {SessionID: "s1", SessionHash: other, UserHash: other},
		{UserID: "u1"}, {UserID: "u1", SessionHash: other, UserHash: other},
	} {
		require.NoError(t, i.Revoke(t.Context(), r))
	}
	require.Len(t, received, 4)
	for n, r := range received {
		if n < 2 {
			assert.Equal(t, [][32]byte{session, {}}, [][32]byte{r.SessionHash, r.UserHash})
		} else {
			assert.Equal(t, [][32]byte{{}, user}, [][32]byte{r.SessionHash, r.UserHash})
		}
	}
}

func TestRevoke_FutureAtIsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		now := time.Now()
		session := func(began time.Duration) tickets.Grant {
			return tickets.Grant{SessionID: "s", UserID: "u", StartedAt: now.Add(began)}
		}
		revoke := func(at time.Time) {
			t.Helper()
			require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{UserID: "u", At: at}))
		}
		revoke(now.Add(-time.Hour))
		assert.Error(t, i.Revoked(session(-time.Hour)))
		assert.NoError(t, i.Revoked(session(-time.Minute)))
		revoke(now.Add(time.Hour)) // or nobody of that name could sign in for an hour
		assert.Error(t, i.Revoked(session(0)))
		assert.NoError(t, i.Revoked(session(time.Minute)))
		revoke(now.Add(-time.Hour)) // an earlier one takes nothing back
		assert.Error(t, i.Revoked(session(0)))
	})
}

func TestRevocation_Covers(t *testing.T) {
	session := tickets.Revocation{SessionID: "s"}
	assert.True(t, session.Covers(tickets.Grant{SessionID: "s", UserID: "u"}))
	assert.False(t, session.Covers(tickets.Grant{SessionID: "t"}))
	assert.False(t, session.Covers(tickets.Grant{}))
	assert.False(
		t,
		tickets.Revocation{}.Covers(tickets.Grant{}),
		"a revocation of nobody covers nothing",
	)
	assert.False(t, tickets.Revocation{Provider: "p"}.Covers(tickets.Grant{Provider: "p"}))
	assert.False(
		t,
		tickets.Revocation{
			UserHash: tickets.HashUser("p", ""),
		}.Covers(
			tickets.Grant{Provider: "p"},
		),
		"as another node may publish it",
	)
}

func TestRevoke_RefusesUnclearRevocations(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	i.OnRevoke(func(tickets.Revocation) { t.Error("a listener was called") })
	for name, r := range map[string]tickets.Revocation{
		"nobody":                  {Reason: "logout"},
		"both":                    {SessionID: "canary", UserID: "u"},
		"provider alone":          {Provider: "p"},
		"provider with a session": {SessionID: "canary", Provider: "p"},
	} {
		err := i.Revoke(t.Context(), r)
		if assert.Error(t, err, name) {
			assert.NotContains(t, err.Error(), "canary", name)
		}
		assert.NoError(
			t,
			i.Revoked(tickets.Grant{SessionID: "canary", Provider: "p", UserID: "u"}),
			name,
		)
	}
}

func TestRevoke_IsForgotten(t *testing.T) {
	const hour = time.Hour
	for name, row := range map[string]struct {
		r    tickets.Revocation
		g    tickets.Grant
		ends time.Duration // the session, after the revocation; 0: unknown
		want time.Duration // how long it is in force
	}{
		"a session": {
			tickets.Revocation{SessionID: "s"}, tickets.Grant{SessionID: "s"}, 0, hour,
		},
		"one that ends sooner": {
			tickets.Revocation{SessionID: "s"}, tickets.Grant{SessionID: "s"}, hour / 2, hour,
		},
		"one that ends later": {
			tickets.Revocation{SessionID: "s"}, tickets.Grant{SessionID: "s"}, 30 * hour, 30 * hour,
		},
		"a user": {
			tickets.Revocation{UserID: "u"},
			tickets.Grant{SessionID: "s", UserID: "u", StartedAt: time.Unix(1, 0)}, 0, hour,
		},
		"whose session is long": {
			tickets.Revocation{UserID: "u"},
			tickets.Grant{SessionID: "s", UserID: "u", StartedAt: time.Unix(1, 0)}, 30 * hour,
			30 * hour,
		},
		// It may have begun after the revocation: each would prolong what keeps out the next, for
		// ever.
		"whose beginning is unknown": {
			tickets.Revocation{UserID: "u"}, tickets.Grant{SessionID: "s", UserID: "u"}, 30 * hour,
			hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := mustIssuer(t, nil, nil)
				if row.ends > 0 {
					row.g.SessionExpiresAt = time.Now().Add(row.ends).Round(0)
				}
				require.NoError(t, i.Revoke(t.Context(), row.r))
				began := time.Now()
				for time.Since(began) < row.want {
					// Others are revoked and forgotten meanwhile.
					require.NoError(
						t,
						i.Revoke(
							t.Context(),
							tickets.Revocation{SessionID: fmt.Sprint(time.Since(began))},
						),
					)
					g := row.g
					require.ErrorIs(
						t,
						i.Revoked(g),
						tickets.ErrRevoked,
						"after %v",
						time.Since(began),
					)
					time.Sleep(hour / 4)
				}
				require.ErrorIs(t, i.Revoked(row.g), tickets.ErrRevoked, "at its end")
				time.Sleep(time.Nanosecond)
				row.g.SessionExpiresAt = time.Time{}
				require.NoError(t, i.Revoked(row.g))
				mustMint(t, i, row.g)
			})
		})
	}
	t.Run("a session that never ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := mustIssuer(t, nil, nil)
			g := tickets.Grant{
				SessionID:        "s",
				SessionExpiresAt: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
			}
			time.Sleep(time.Second)
			require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
			for range 50 {
				require.ErrorIs(t, i.Revoked(g), tickets.ErrRevoked)
				time.Sleep(365 * 24 * hour)
			}
		})
	})
	t.Run("revoked again, it is in force from then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := mustIssuer(t, nil, &tickets.IssuerOptions{RememberRevocations: time.Minute})
			for range 2 {
				require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
				time.Sleep(40 * time.Second)
			}
			require.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s"}), tickets.ErrRevoked)
			time.Sleep(20*time.Second + 1)
			require.NoError(t, i.Revoked(tickets.Grant{SessionID: "s"}))
		})
	})
}

// After Revoke has returned, no Consume of the session succeeds, whenever it began.
func TestRevoke_RacesWithConsume(t *testing.T) {
	i := mustIssuer(t, nil, &tickets.IssuerOptions{MaxPerSession: 1 << 20})
	for round := range 200 {
		g := tickets.Grant{
			SessionID: fmt.Sprint("s", round),
			UserID:    fmt.Sprint("u", round),
			StartedAt: time.Now(),
		}
		var returned atomic.Bool
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				for range 20 {
					before := returned.Load()
					ticket, err := i.Mint(context.Background(), g)
					if before {
						assert.ErrorIs(t, err, tickets.ErrRevoked)
					}
					if err != nil {
						continue
					}
					before = returned.Load()
					if _, err := i.Consume(context.Background(), ticket); before {
						assert.ErrorIs(t, err, tickets.ErrRevoked)
					}
				}
			})
		}
		wg.Go(func() {
			<-start
			r := tickets.Revocation{SessionID: g.SessionID}
			if round%2 == 0 {
				r = tickets.Revocation{UserID: g.UserID}
			}
			assert.NoError(t, i.Revoke(context.Background(), r))
			returned.Store(true)
		})
		close(start)
		wg.Wait()
	}
}
