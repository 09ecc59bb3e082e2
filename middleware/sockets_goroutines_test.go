package middleware_test

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// A guarded socket has no goroutine beyond those of its library and its
// handler, whatever these do with its context.
func TestNoGoroutinePerSocket(t *testing.T) {
	const n = 40
	for _, tt := range []struct {
		name string
		h    http.Handler
	}{
		{"a library that reads with the context", &echoes{}},
		{"a handler that returns at once", byHand(t, func(net.Conn, *http.Request) {})},
		{"contexts made of its context", byHand(t, func(c net.Conn, r *http.Request) {
			defer c.Close()
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(ctx, func() {})()
			_, _ = c.Read(make([]byte, 1))
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			count := func(guarded bool) (more int) {
				synctest.Test(t, func(t *testing.T) {
					app := newSocketApp(t, nil, socketAppOptions{sockets: middleware.SocketsOptions{RecheckEvery: time.Hour}})
					h := tt.h
					if guarded {
						h = app.guard.Wrap(h)
					}
					app.serve(t, h, false)
					synctest.Wait()
					before := runtime.NumGoroutine()
					for i := range n {
						g := annsGrant()
						g.SessionID += strconv.Itoa(i)
						p := app.open(t, g)
						require.Equal(t, http.StatusSwitchingProtocols, p.status)
					}
					synctest.Wait() // all that are left are waiting
					more = runtime.NumGoroutine() - before
				})
				return more
			}
			bare, guarded := count(false), count(true)
			// Half of one each: what an earlier test has left may end just now.
			require.Less(t, guarded, bare+n/2, "%d sockets have %d goroutines without the guard", n, bare)
		})
	}
}
