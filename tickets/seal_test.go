package tickets_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// grants are the awkward ones: times that UnixNano cannot say, a zone, strings of all sizes.
func grants() map[string]tickets.Grant {
	now := time.Now()
	return map[string]tickets.Grant{
		"empty": {},
		"whole": {
			SessionID: "s1", Provider: "oidc", UserID: "u1", Endpoint: "/ws/pty", Data: "room-7",
			StartedAt: now.Add(-time.Hour), MintedAt: now, ExpiresAt: now.Add(30 * time.Second),
			SessionExpiresAt: now.Add(time.Hour),
		},
		"far times": {
			StartedAt:        time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
			MintedAt:         time.Date(1677, 9, 21, 0, 12, 43, 1, time.FixedZone("", -3600)),
			ExpiresAt:        time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
			SessionExpiresAt: time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC),
		},
		"long and not UTF-8": {
			SessionID: strings.Repeat(
				"s",
				8<<10,
			), Provider: "\xff\x00", UserID: strings.Repeat("ü", 64),
			Endpoint: strings.Repeat("/", 127), Data: strings.Repeat("\x80", 256),
		},
	}
}

func assertSameGrant(t testing.TB, want, got tickets.Grant) {
	t.Helper()
	for _, f := range []struct {
		name      string
		want, got time.Time
	}{
		{"StartedAt", want.StartedAt, got.StartedAt},
		{"MintedAt", want.MintedAt, got.MintedAt},
		{"ExpiresAt", want.ExpiresAt, got.ExpiresAt},
		{"SessionExpiresAt", want.SessionExpiresAt, got.SessionExpiresAt},
	} {
		assert.True(t, f.want.Equal(f.got), "%s: want %v, got %v", f.name, f.want, f.got)
		assert.Equal(t, f.want.IsZero(), f.got.IsZero(), f.name)
	}
	got.StartedAt, got.MintedAt, got.ExpiresAt, got.SessionExpiresAt = want.StartedAt,
		want.MintedAt, want.ExpiresAt, want.SessionExpiresAt
	assert.Equal(t, want, got)
}

func TestKey_SealRoundTrip(t *testing.T) {
	key := tickets.Ticket(strings.Repeat("A", 43)).Key()
	for name, g := range grants() {
		t.Run(name, func(t *testing.T) {
			sealed := key.Seal(g)
			require.NotEmpty(t, sealed)
			assert.EqualValues(t, 1, sealed[0], "the version")
			for _, secret := range []string{g.SessionID, g.UserID, g.Data} {
				if len(secret) > 1 {
					assert.NotContains(t, string(sealed), secret)
				}
			}
			assert.NotEqual(t, sealed, key.Seal(g), "a nonce repeats")
			// A key made from another copy of the ticket opens it.
			got, err := tickets.Ticket(strings.Repeat("A", 42) + "A").Key().Open(sealed)
			require.NoError(t, err)
			assertSameGrant(t, g, got)
		})
	}
}

func TestKey_OpenRefusesEverythingElse(t *testing.T) {
	key := tickets.Ticket(strings.Repeat("A", 43)).Key()
	g := grants()["whole"]
	sealed := key.Seal(g)
	for n := range len(sealed) {
		for _, bit := range []byte{1, 0x80} {
			altered := append([]byte(nil), sealed...)
			altered[n] ^= bit
			got, err := key.Open(altered)
			require.Error(t, err, "byte %d altered", n)
			require.Zero(t, got)
		}
		_, err := key.Open(sealed[:n])
		require.Error(t, err, "cut to %d bytes", n)
	}
	_, err := key.Open(append(append([]byte(nil), sealed...), 0))
	require.Error(t, err, "longer")
	_, err = tickets.Ticket(strings.Repeat("B", 43)).Key().Open(sealed)
	require.Error(t, err, "another ticket")
	require.NotErrorIs(
		t,
		err,
		tickets.ErrInvalid,
		"a store that holds rubbish has failed; it said nothing of the ticket",
	)
	_, err = key.Open(append([]byte{2}, sealed[1:]...))
	require.ErrorContains(t, err, "version 2, want 1")
	_, err = key.Open(nil)
	require.Error(t, err)

	for name, none := range map[string]tickets.Key{
		"zero": {}, "of the empty ticket": tickets.Ticket("").Key(),
	} {
		assert.Nil(t, none.Seal(g), name)
		_, err := none.Open(sealed)
		assert.Error(t, err, name)
		_, err = none.Open(none.Seal(g))
		assert.Error(t, err, name)
	}
}

func FuzzOpen(f *testing.F) {
	ticket := tickets.Ticket(strings.Repeat("A", 43))
	for _, g := range grants() {
		f.Add(string(ticket), ticket.Key().Seal(g))
	}
	f.Add("", []byte(nil))
	f.Add("x", []byte{1})
	own := ticket.Key().Seal(tickets.Grant{})
	f.Fuzz(func(t *testing.T, ticket string, b []byte) {
		g, err := tickets.Ticket(ticket).Key().Open(b)
		if err != nil && g != (tickets.Grant{}) {
			t.Fatal("a grant came with an error")
		}
		if err == nil && len(b) < len(own) {
			t.Fatalf("opened %d bytes, fewer than any grant has", len(b))
		}
	})
}

func FuzzSealRoundTrip(f *testing.F) {
	f.Add("s", "p", "u", "/ws", "d", int64(0), int64(1), int64(0), int64(999999999))
	f.Add("", "", "", "", "", int64(-62135596800), int64(0), int64(253402300799), int64(5))
	key := tickets.Ticket(strings.Repeat("A", 43)).Key()
	f.Fuzz(
		func(t *testing.T, session, provider, user, endpoint, data string, sec, nsec, sec2,
			nsec2 int64) {
			g := tickets.Grant{
				SessionID: session, Provider: provider, UserID: user, Endpoint: endpoint,
				Data:      data,
				StartedAt: time.Unix(sec, nsec), MintedAt: time.Unix(sec2, nsec2),
				ExpiresAt: time.Unix(sec, nsec2).UTC(), SessionExpiresAt: time.Unix(sec2, nsec),
			}
			got, err := key.Open(key.Seal(g))
			require.NoError(t, err)
			assertSameGrant(t, g, got)
		},
	)
}
