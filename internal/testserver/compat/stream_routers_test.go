package compat

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A stream flushes, and is ended, through whatever stands around its guard.
func TestStreamsThroughRouters(t *testing.T) {
	around := make(map[string]func(doors, http.Handler) http.Handler)
	for _, router := range routers {
		around[router.name] = func(d doors, stream http.Handler) http.Handler {
			return router.doors(d, &logFile{}, stream)
		}
	}
	for _, wrapper := range wrappers {
		around[wrapper.name] = func(d doors, stream http.Handler) http.Handler {
			return wrapper.wrap(d.guard.Wrap(stream))
		}
		if wrapper.opaque {
			delete(around, wrapper.name) // it cannot flush either
		}
	}
	for name, build := range around {
		for _, tls := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				f := &feed{next: make(chan struct{}), cut: make(chan struct{}),
					ends: make(chan error, 1)}
				events := &lines{}
				d := newDoors(everybody, doorOptions{audit: events,
					guard: middleware.GuardOptions{AdmitRequests: true}})
				server := httptest.NewUnstartedServer(build(d, serveEvents(f.read)))
				if server.EnableHTTP2 = tls; tls {
					server.StartTLS()
				} else {
					server.Start()
				}
				defer server.Close()
				ticket := must(d.issuer.Mint(t.Context(),
					tickets.Grant{SessionID: "s1", UserID: "ann"}))
				source := &eventSource{v: newVisitor(server),
					path: "/ws/7?ticket=" + string(ticket)}
				go func() { f.next <- struct{}{} }()
				require.Equal(t, 200, source.connect())
				require.Equal(t, "event 1", source.next())
				for info := range d.guard.Sockets().All() {
					require.True(t, info.Stream)
					require.NotZero(t, info.BytesOut)
				}
				require.NoError(t, d.issuer.Revoke(context.Background(),
					tickets.Revocation{SessionID: "s1"}))
				require.Empty(t, source.next())
				<-f.ends
				eventually(t, "its last line", func() bool {
					return len(events.of("ws_closed")) == 1
				})
				require.Equal(t, "session_revoked", events.of("ws_closed")[0]["reason"])
			})
		}
	}
}
