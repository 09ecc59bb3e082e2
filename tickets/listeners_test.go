package tickets_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestOnRevoke(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	var called []string
	listen := func(name string) func() {
		return i.OnRevoke(func(r tickets.Revocation) {
			assert.ErrorIs(
				t,
				i.Revoked(tickets.Grant{SessionID: r.SessionID}),
				tickets.ErrRevoked,
				"in force before a listener is called",
			)
			called = append(called, name+" "+r.SessionID+" "+r.Reason)
		})
	}
	stopA, _ := listen("a"), listen("b")
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "1", Reason: "logout"}))
	require.Equal(
		t,
		[]string{"a 1 logout", "b 1 logout"},
		called,
		"before Revoke returns, in order",
	)
	stopA()
	stopA()
	called = nil
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "1", Reason: "again"}))
	require.Equal(t, []string{"b 1 again"}, called)
	i.OnRevoke(nil)()
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "2"}))
}

// A listener may call anything of the issuer.
func TestOnRevoke_ListenerMayCallTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		var calls int
		var stop func()
		stop = i.OnRevoke(func(r tickets.Revocation) {
			calls++
			assert.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: r.SessionID}), tickets.ErrRevoked)
			_, err := i.Mint(t.Context(), tickets.Grant{SessionID: r.SessionID})
			assert.ErrorIs(t, err, tickets.ErrRevoked)
			i.OnRevoke(func(tickets.Revocation) { calls++ })()
			stop()
			if r.SessionID == "s" {
				assert.NoError(t, i.Revoke(t.Context(), tickets.Revocation{UserID: "u"}))
				assert.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
			}
		})
		require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
		assert.Equal(t, 1, calls)
	})
}

// A listener that stops must not shift the list while it is called.
func TestOnRevoke_StopInsideAListener(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	var called []int
	stops := make([]func(), 5)
	for n := range stops {
		stops[n] = i.OnRevoke(func(tickets.Revocation) {
			called = append(called, n)
			stops[n]()
			i.OnRevoke(func(tickets.Revocation) {})()
		})
	}
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
	require.Equal(t, []int{0, 1, 2, 3, 4}, called)
	require.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
	require.Len(t, called, 5)
}

func TestOnRevoke_ListenerPanics(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	called := false
	i.OnRevoke(func(tickets.Revocation) { panic("the application's") })
	i.OnRevoke(func(tickets.Revocation) { called = true })
	assert.PanicsWithValue(
		t,
		"the application's",
		func() { i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}) },
	)
	assert.True(t, called, "its sockets would have stayed open")
	assert.ErrorIs(t, i.Revoked(tickets.Grant{SessionID: "s"}), tickets.ErrRevoked)
}

func TestOnRevoke_Concurrently(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for k := range 100 {
				id := fmt.Sprint(n, " ", k)
				var called atomic.Bool
				stop := i.OnRevoke(func(r tickets.Revocation) {
					if r.SessionID == id {
						called.Store(true)
					}
				})
				assert.NoError(
					t,
					i.Revoke(t.Context(), tickets.Revocation{SessionID: id, Reason: "x"}),
				)
				assert.True(t, called.Load())
				assert.Error(t, i.Revoked(tickets.Grant{SessionID: id}))
				stop()
			}
		})
	}
	wg.Wait()
}
