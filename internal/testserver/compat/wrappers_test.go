package compat

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/alexedwards/scs/v2"
	"github.com/felixge/httpsnoop"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// A wrapper hands on a ResponseWriter of its own.
type wrapper struct {
	name   string
	wrap   func(http.Handler) http.Handler
	opaque bool // nothing about it shows that the connection can be hijacked
}

var wrappers = []wrapper{
	{"httpsnoop.CaptureMetrics", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			httpsnoop.CaptureMetrics(next, w, r)
		})
	}, false},
	{"httpsnoop.Wrap", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(httpsnoop.Wrap(w, httpsnoop.Hooks{
				WriteHeader: func(write httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
					return func(status int) { write(status) }
				},
			}), r)
		})
	}, false},
	{"chi's Logger", chiLog(&logFile{}), false},
	{"chi's Compress", chimiddleware.Compress(5), false},
	{"scs", scs.New().LoadAndSave, false},
	{"one with Unwrap alone", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(unwrapper{w}, r)
		})
	}, false},
	{"one that embeds and no more", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		})
	}, true},
}

type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// Around the guard every wrapper that can be seen through works with every
// library, even where it would not without the guard: gorilla/websocket asks for
// Hijack and knows no Unwrap. Between the guard and the library it is as if the
// guard was not there.
func TestWrappers(t *testing.T) {
	for _, wrapper := range wrappers {
		for _, lib := range libraries {
			t.Run(wrapper.name+"/"+lib.name, func(t *testing.T) {
				alone := outcome(t, wrapper.wrap(lib.echo), nil)
				inner := newDoors(everybody, doorOptions{})
				require.Equal(t, alone, outcome(t, inner.guard.Wrap(wrapper.wrap(lib.echo)),
					&inner))

				want := "echo"
				if wrapper.opaque {
					require.NotEqual(t, "echo", alone)
					want = "501 Not Implemented" // the guard's, and the ticket is still valid
				}
				outer := newDoors(everybody, doorOptions{})
				require.Equal(t, want, outcome(t, wrapper.wrap(outer.guard.Wrap(lib.echo)), &outer))
			})
		}
	}
}

// outcome is what comes of a socket: an echo, or how it failed. One that echoes
// is revoked, and must see that.
func outcome(t *testing.T, handler http.Handler, d *doors) string {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // x/net panics without a Hijacker
	server.Start()
	defer server.Close()
	path := "/ws"
	if d != nil {
		path += "?ticket=" + string(must(d.issuer.Mint(t.Context(),
			tickets.Grant{SessionID: "s1", UserID: "ann"})))
	}
	c, response, err := newVisitor(server).dial(path)
	if response == nil {
		return "cut off"
	}
	if err != nil {
		return response.Status
	}
	defer c.Close()
	require.NoError(t, c.WriteMessage(gorilla.TextMessage, []byte("echo me")))
	_, message, err := c.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "echo me", string(message))
	if d != nil {
		require.NoError(t, d.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
		requireClosed(t, c, 4401, "session_revoked")
	}
	return "echo"
}
