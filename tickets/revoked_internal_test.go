package tickets

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every Revoke, and every look at a grant, forgets a few revocations that are over.
func TestRevocations_AreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, err := NewIssuer(NewMemoryStore(nil), nil)
		require.NoError(t, err)
		rs := i.revoked
		size := func() int { return len(rs.all) }
		const n = 2000
		for k := range n {
			require.NoError(t, i.Revoke(t.Context(), Revocation{SessionID: fmt.Sprint(k)}))
			require.NoError(t, i.Revoke(t.Context(), Revocation{UserID: fmt.Sprint(k)}))
			require.NoError(t, i.Revoke(t.Context(), Revocation{SessionID: fmt.Sprint(k)}))
		}
		assert.Equal(t, 2*n, size(), "the same twice is one")
		assert.EqualValues(t, 2*n, rs.active.Load())
		time.Sleep(time.Hour + 1)
		before := size()
		assert.NoError(t, i.Revoked(Grant{SessionID: "x"}))
		assert.Less(t, size(), before)
		assert.Greater(t, size(), before-100, "all at once is a pause")
		for range n {
			assert.NoError(t, i.Revoked(Grant{SessionID: "x"}))
		}
		assert.Zero(t, size())
		assert.Zero(t, rs.active.Load())
		assert.Nil(t, rs.all)
		assert.Nil(t, rs.queue)

		// Under steady use it does not grow.
		for k := range 10000 {
			require.NoError(t, i.Revoke(t.Context(), Revocation{SessionID: fmt.Sprint(k)}))
			time.Sleep(time.Minute)
		}
		assert.LessOrEqual(t, size(), 62)

		// What a grant has prolonged goes later, and goes.
		long := Grant{SessionID: "long", SessionExpiresAt: time.Now().Add(10 * time.Hour)}
		require.NoError(t, i.Revoke(t.Context(), Revocation{SessionID: "long"}))
		require.ErrorIs(t, i.Revoked(long), ErrRevoked)
		for range 20 {
			time.Sleep(time.Hour)
			for range 20 {
				i.Revoked(Grant{SessionID: "x"})
			}
		}
		assert.Zero(t, size())
	})
}

// It is published again, and to a node that starts, until its last instant.
func TestRevocations_InForceToTheLastInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := newRevocations(time.Minute)
		r := Revocation{SessionHash: [32]byte{1}}
		require.True(t, rs.add(&r, time.Now()))
		time.Sleep(time.Minute)
		assert.True(t, rs.inForce(&r))
		assert.Len(t, rs.list(), 1)
		time.Sleep(time.Nanosecond)
		assert.False(t, rs.inForce(&r))
		assert.Empty(t, rs.list())
	})
}

// Two grants may prolong a revocation at once: the longer end stands.
func TestRevocations_ExtendNeverShortens(t *testing.T) {
	rs := newRevocations(time.Minute)
	r := Revocation{SessionHash: [32]byte{1}}
	require.True(t, rs.add(&r, rs.base))
	for _, end := range []time.Duration{time.Second, time.Hour, 2 * time.Minute} {
		rs.extend(r.subject(), end)
	}
	require.Equal(t, time.Hour, rs.all[r.subject()].until)
	other := subject{hash: [32]byte{2}}
	rs.extend(other, time.Hour)
	require.NotContains(t, rs.all, other, "what was forgotten meanwhile stays so")
}

// A revocation is new if it covers what was not covered: also if the one before is over and not yet
// forgotten.
func TestRevocations_AddReportsNew(t *testing.T) {
	for name, r := range map[string]func(n int) Revocation{
		"sessions": func(n int) Revocation { return Revocation{SessionHash: [32]byte{byte(n), 1}} },
		"users":    func(n int) Revocation { return Revocation{UserHash: [32]byte{byte(n), 1}} },
	} {
		t.Run(name, func(t *testing.T) {
			rs := newRevocations(time.Minute)
			add := func(n int, at, after time.Duration) bool {
				r := r(n)
				r.At = rs.base.Add(at).Round(0)
				return rs.add(&r, rs.base.Add(after))
			}
			for n := range 20 {
				require.True(t, add(n, 0, 0))
				require.False(t, add(n, 0, 0), "received again")
				require.False(t, add(n, -1, 0), "an earlier one")
			}
			require.Equal(
				t,
				name == "users",
				add(18, 1, 0),
				"a later one covers sessions that have begun since",
			)
			require.False(t, add(19, 0, time.Minute), "at its last instant")
			require.True(t, add(17, 0, time.Minute+1))
		})
	}
}
