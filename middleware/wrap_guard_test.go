package middleware_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/justinas/alice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// The ways to put a guard before a real WebSocket library.
func TestGuardBeforeALibrary(t *testing.T) {
	sockets := func(next func(*bed) http.Handler) func(*testing.T) (*bed, http.Handler) {
		return func(t *testing.T) (*bed, http.Handler) {
			b := newBed(t, middleware.GuardOptions{})
			return b, next(b)
		}
	}
	for name, wire := range map[string]func(*testing.T) (*bed, http.Handler){
		"Wrap":  sockets(func(b *bed) http.Handler { return b.guard.Wrap(guardedEcho) }),
		"alice": sockets(func(b *bed) http.Handler { return alice.New(middleware.ConcealTicket, b.guard.Wrap).Then(guardedEcho) }),
		"Admit": sockets(func(b *bed) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				a, rej := b.guard.Admit(r)
				if rej != nil {
					rej.ServeHTTP(w, r)
					return
				}
				defer a.Release()
				assert.Equal(t, "ann", a.Session.UserID)
				guardedEcho(a.ResponseWriter(w), a.Request)
				a.Release()
			})
		}),
		"inside ServeMux": sockets(func(b *bed) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("GET /ws", b.guard.Wrap(guardedEcho))
			return mux
		}),
		"outside ServeMux": func(t *testing.T) (*bed, http.Handler) {
			b := newBed(t, middleware.GuardOptions{PassOthers: true})
			mux := http.NewServeMux()
			mux.Handle("GET /ws", guardedEcho)
			return b, b.guard.Wrap(mux)
		},
		"behind a gate":      sockets(func(b *bed) http.Handler { return signedInAs(ann())(b.guard.Wrap(guardedEcho)) }),
		"behind StripPrefix": sockets(func(b *bed) http.Handler { return http.StripPrefix("/", b.guard.Wrap(guardedEcho)) }),
		"behind Unwrap": sockets(func(b *bed) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b.guard.Wrap(guardedEcho).ServeHTTP(unwraps{w, w}, r)
			})
		}),
		"behind Hijack": sockets(func(b *bed) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b.guard.Wrap(guardedEcho).ServeHTTP(hijacks{w, w.(http.Hijacker)}, r)
			})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			b, h := wire(t)
			for _, srv := range []*httptest.Server{serve(t, h), serveTLS(t, h)} {
				c, _, err := websocket.Dial(t.Context(), srv.URL+"/ws?ticket="+b.mint(t), &websocket.DialOptions{
					HTTPClient: h1Client(srv), HTTPHeader: http.Header{"Origin": {srv.URL}}, Subprotocols: []string{"chat"},
				})
				require.NoError(t, err)
				assert.Equal(t, "chat", c.Subprotocol())
				require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte("hello")))
				_, message, err := c.Read(t.Context())
				require.NoError(t, err)
				assert.Equal(t, "hello", string(message))
				require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))

				c, _, err = websocket.Dial(t.Context(), srv.URL+"/ws", &websocket.DialOptions{
					HTTPClient: h1Client(srv), Subprotocols: []string{"ticket." + b.mint(t), "chat"},
				})
				require.NoError(t, err)
				assert.Equal(t, "chat", c.Subprotocol())
				require.NoError(t, c.CloseNow())
			}
			b.rec.Await(t, audit.SocketClosed, 4)
			assert.Len(t, b.rec.Lines(t), 8, "each socket is opened and closed, once: %s", b.rec.Text())
			for _, line := range b.rec.Events(t, audit.SocketOpened) {
				assert.Equal(t, []any{"oidc", "ann", "127.0.0.1"}, fields(line, "provider", "user_id", "ip"))
				assert.Contains(t, "/ws", line["path"]) // StripPrefix leaves part of it
				assert.Regexp(t, `^[0-9a-f]{12}$`, line["ticket_id"])
			}
		})
	}
}

type (
	embeds  struct{ http.ResponseWriter }
	unwraps struct {
		http.ResponseWriter
		inner http.ResponseWriter
	}
	hijacks struct {
		http.ResponseWriter
		http.Hijacker
	}
)

func (w unwraps) Unwrap() http.ResponseWriter { return w.inner }

// A request that was let in and did not become a socket has spent its ticket,
// and leaves one line that says so.
func TestGuardWhenTheUpgradeFails(t *testing.T) {
	oops := errors.New("oops")
	panics := func(v any) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) { panic(v) } }
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		panics  any
		status  int
	}{
		{name: "no handler for it", handler: http.NotFound, status: 404},
		{name: "does nothing", handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		{name: "panics", handler: panics(oops), panics: oops, status: 500},
		{name: "aborts", handler: panics(http.ErrAbortHandler), panics: http.ErrAbortHandler, status: 500},
		{name: "the library refuses", handler: func(w http.ResponseWriter, r *http.Request) {
			_, err := websocket.Accept(w, r, nil) // it checks the origin again
			assert.Error(t, err)
		}, status: 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{Origins: []string{"https://pages.example"}})
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					got := recover()
					assert.Equal(t, tc.panics, got)
					if got != nil {
						w.WriteHeader(500)
					}
				}()
				b.guard.Wrap(tc.handler).ServeHTTP(w, r)
			}))
			ticket := b.mint(t)
			a := send(t, srv, upgrade("GET", "/ws?ticket="+ticket, "Origin: https://pages.example"))
			assert.Equal(t, tc.status, a.Status, a)
			assert.Equal(t, auditLine(refusal{reason: "upgrade_failed", more: `,"origin":"https://pages.example"`}, nil), b.rec.Text())
			_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
			assert.ErrorIs(t, err, tickets.ErrUsed)
			assert.Zero(t, b.guard.Sockets().Len())
		})
	}
}

// A ResponseWriter that cannot be hijacked is found before the ticket is consumed
// (HOSTILE W22).
func TestGuard_NotHijackableIs501(t *testing.T) {
	for name, onReject := range map[string]onReject{
		"default": nil, "RejectByClosing": middleware.RejectByClosing,
	} {
		b := newBed(t, middleware.GuardOptions{OnReject: onReject})
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.guard.Wrap(mustNotRun(t)).ServeHTTP(embeds{w}, r)
		}))
		ticket := b.mint(t)
		a := send(t, srv, upgrade("GET", "/ws?ticket="+ticket))
		tc := refusal{status: 501, code: "not_implemented", reason: "not_hijackable"}
		requireRefusal(t, tc, a)
		assert.Equal(t, auditLine(tc, nil), b.rec.Text(), name)
		_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
		assert.NoError(t, err, "%s: the ticket is consumed", name)
	}
}

// net/http ends a request's context when its handler returns, and there are
// libraries whose handlers return at once.
func TestGuardContextOutlivesTheHandler(t *testing.T) {
	type outerKey struct{}
	type taken struct {
		ctx  context.Context
		conn net.Conn
		rw   *bufio.ReadWriter
	}
	took := make(chan taken, 1)
	b := newBed(t, middleware.GuardOptions{})
	returned := make(chan struct{})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		r = r.WithContext(context.WithValue(r.Context(), outerKey{}, "outer"))
		b.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if assert.NoError(t, err) {
				took <- taken{r.Context(), conn, rw}
			}
		})).ServeHTTP(w, r)
	}))
	client := begin(t, srv, upgrade("GET", "/ws?ticket="+b.mint(t)))
	<-returned
	k := <-took
	require.NoError(t, k.ctx.Err())
	assert.Equal(t, "outer", k.ctx.Value(outerKey{}))
	_, err := io.WriteString(k.conn, switching+"\r\n")
	require.NoError(t, err)
	a, _ := receive(t, client, "GET")
	require.Equal(t, http.StatusSwitchingProtocols, a.Status)
	require.NoError(t, k.ctx.Err())
	require.NoError(t, k.conn.Close())
	<-k.ctx.Done()
	assert.NotEqual(t, context.Canceled, context.Cause(k.ctx), "the cause says why")
}

// What Restore returns is the session that the handler sees; who it is, and
// what the ticket was minted for, stay the ticket's.
func TestGuardRestores(t *testing.T) {
	type cart struct{ items int }
	end := time.Now().Add(time.Hour).Round(0)
	restore := func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
		assert.NoError(t, ctx.Err())
		got := *s
		assert.Equal(t, "room 7", s.Data)
		got.Value, got.ExpiresAt, got.Data = &cart{3}, end, "elsewhere"
		return &got, nil
	}
	b := newBed(t, middleware.GuardOptions{}, middleware.SocketsOptions{Restore: restore})
	srv := serve(t, b.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := middleware.SessionFrom(r.Context())
		if assert.True(t, ok) {
			assert.Equal(t, &cart{3}, s.Value)
			assert.True(t, s.ExpiresAt.Equal(end))
			assert.Equal(t, "room 7", s.Data)
		}
		accepts(w, r)
	})))
	ticket := b.mint(t, func(g *tickets.Grant) {
		g.Data, g.SessionExpiresAt = "room 7", time.Now().Add(time.Minute)
	})
	assert.Equal(t, 101, send(t, srv, upgrade("GET", "/ws?ticket="+ticket)).Status)
}
