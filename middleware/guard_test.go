package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/justinas/alice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestGuard_InvalidTicketsGetOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, middleware.GuardOptions{})
		dial := serveInBubble(t, b.guard.Wrap(accepts))
		try := func(ticket string) (raw, reason string) {
			b.rec.Take()
			raw = exchange(t, dial(),
				upgrade("GET", "/ws?ticket="+ticket, "Connection: Upgrade, close"))
			synctest.Wait()
			lines := b.rec.Lines(t)
			if strings.Contains(raw, " 101 ") {
				require.Len(t, lines, 2) // opened, closed
				return raw, "in"
			}
			require.Len(t, lines, 1)
			require.Equal(t, auditID(ticket), lines[0]["ticket_id"])
			return raw, lines[0]["reason"].(string)
		}
		fresh, used, last, late := b.mint(t), b.mint(t), b.mint(t), b.mint(t)
		revoked := b.mint(t, func(g *tickets.Grant) { g.SessionID = "another" })
		require.NoError(t, b.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: "another"}))
		_, reason := try(fresh)
		require.Equal(t, "in", reason)
		want, reason := try(fresh)
		require.Equal(t, "used", reason)
		require.Equal(t, "HTTP/1.1 401 Unauthorized\r\n"+
			"Cache-Control: no-store\r\nConnection: close\r\n"+
			"Content-Type: application/json; charset=utf-8\r\nVary: Cookie\r\n"+
			"X-Content-Type-Options: nosniff\r\nContent-Length: 51\r\n\r\n"+
			errorBody(401, "ticket_rejected"), want)
		same := func(ticket, why string) {
			t.Helper()
			raw, reason := try(ticket)
			assert.Equal(t, why, reason)
			assert.Equal(t, want, raw, why)
		}
		same(strings.Repeat("A", 43), "unknown")
		same(strings.Repeat("A", 42), "unknown")
		same(revoked, "revoked")
		_, err := b.issuer.Consume(t.Context(), tickets.Ticket(used))
		require.NoError(t, err)
		same(used, "used")

		time.Sleep(tickets.DefaultTTL) // to the last instant
		_, reason = try(last)
		assert.Equal(t, "in", reason)
		time.Sleep(time.Nanosecond)
		same(late, "expired")
		time.Sleep(5*time.Second - 1)
		same(late, "expired")
		time.Sleep(time.Hour)
		same(late, "unknown")
		same(last, "unknown")
	})
}

// All invalid tickets get the same bytes, whatever is wrong with them and wherever
// they were.
func TestGuard_InvalidTicketsGetOneAnswerEachWay(t *testing.T) {
	inQuery := func(ticket string) string {
		return upgrade("GET", "/ws?ticket="+ticket, "Connection: Upgrade, close")
	}
	inProtocol := func(ticket string) string {
		return upgrade("GET", "/ws", "Connection: Upgrade, close",
			"Sec-WebSocket-Protocol: chat, ticket."+ticket)
	}
	stream := func(ticket string) string { return get("/ws?ticket="+ticket, "Connection: close") }
	h1 := func(request func(ticket string) string) func(*testing.T, net.Conn, string) string {
		return func(t *testing.T, conn net.Conn, ticket string) string {
			go io.WriteString(conn, request(ticket))
			raw, err := io.ReadAll(conn)
			require.NoError(t, err)
			return string(raw)
		}
	}
	h2 := func(t *testing.T, conn net.Conn, ticket string) string {
		fields := getH2("/ws?ticket=" + ticket)
		fields[3] = "http" // the scheme
		go exchangeH2(conn, h2EndHeaders|h2EndStream, fields...)
		a := readH2Answer(t, conn)
		return string(a.fields) + string(a.body)
	}
	inHTTP := middleware.GuardOptions{AdmitRequests: true}
	byClosing := middleware.GuardOptions{AdmitRequests: true, OnReject: middleware.RejectByClosing}
	for _, way := range []struct {
		name  string
		opts  middleware.GuardOptions
		ask   func(*testing.T, net.Conn, string) string
		wants string // part of the answer
	}{
		{"in the query", inHTTP, h1(inQuery), "HTTP/1.1 401 "},
		{"in the protocol", inHTTP, h1(inProtocol), "HTTP/1.1 401 "},
		{"in the query, by closing", byClosing, h1(inQuery), "\x88\x11\x11\x31ticket_rejected"},
		{"in the protocol, by closing", byClosing, h1(inProtocol),
			"\x88\x11\x11\x31ticket_rejected"},
		{"a stream", inHTTP, h1(stream), "HTTP/1.1 401 "},
		{"a stream over h2", inHTTP, h2, h2Statuses[401]},
		{"a stream, where sockets are closed", byClosing, h1(stream), "HTTP/1.1 401 "},
	} {
		runInBubble(t, way.name, func(t *testing.T) {
			b := newBed(t, way.opts)
			dial := serveInBubble(t, b.guard.Wrap(accepts))
			other := func(g *tickets.Grant) { g.SessionID = "another" }
			expired, revoked := b.mint(t), b.mint(t, other)
			time.Sleep(tickets.DefaultTTL + 1)
			used, late := b.mint(t), b.mint(t, other)
			_, err := b.issuer.Consume(t.Context(), tickets.Ticket(used))
			require.NoError(t, err)
			require.NoError(t,
				b.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: "another"}))
			var first string
			for _, bad := range []struct{ ticket, reason string }{
				{strings.Repeat("A", 43), "unknown"}, {used, "used"}, {expired, "expired"},
				{late, "revoked"}, {late, "used"}, {revoked, "expired"},
				{strings.Repeat("A", 42) + "B", "unknown"}, {"a", "unknown"},
			} {
				b.rec.Take()
				conn := dial()
				raw := way.ask(t, conn, bad.ticket)
				require.NoError(t, conn.Close())
				synctest.Wait()
				require.Contains(t, b.rec.Text(), `"reason":"`+bad.reason+`"`)
				if first == "" {
					first = raw
					require.Contains(t, raw, way.wants)
				}
				assert.Equal(t, first, raw, bad.reason)
			}
		})
	}
}

func TestGuard_StoreFailureIs503(t *testing.T) {
	type grantAnd = func(take takeFunc) (tickets.Grant, error)
	fails := func(err error) grantAnd {
		return func(takeFunc) (tickets.Grant, error) { return tickets.Grant{}, err }
	}
	none := tickets.Grant{}
	type row struct {
		name, source string
		status       int
		reason       string
		again        string // what becomes of the ticket when the store is well
		take         grantAnd
	}
	away := func(name, source, again string, take grantAnd) row {
		return row{name, source, 503, "store", again, take}
	}
	connect := errors.New("dial tcp 10.0.0.7:6379: connect: connection refused")
	readOnly := errors.New("READONLY You can't write against a read only replica.")
	slow := func(d time.Duration) grantAnd {
		return func(take takeFunc) (tickets.Grant, error) {
			time.Sleep(d)
			return take()
		}
	}
	for _, tc := range []row{
		away("refused", "connection refused or reset before the send", "in", fails(connect)),
		away("answer lost", "a client that sends the command twice finds nothing", "used",
			func(take takeFunc) (tickets.Grant, error) {
				_, _ = take()
				return none, io.EOF
			}),
		away("answer lost, grant and all", "Go: values beside an error mean nothing", "used",
			func(take takeFunc) (tickets.Grant, error) {
				g, _ := take()
				return g, io.ErrUnexpectedEOF
			}),
		away("its own timeout", "a black hole", "in", func(takeFunc) (tickets.Grant, error) {
			time.Sleep(500 * time.Millisecond)
			return none, context.DeadlineExceeded
		}),
		{"slow", "100 ms", 101, "", "used", slow(100 * time.Millisecond)},
		{"so slow that the ticket expires", "RFC 9110 15.6.4", 401, "expired", "expired",
			slow(31 * time.Second)},
		away("cancelled", "patroni#1412: the outcome is not known", "in", fails(context.Canceled)),
		away("full", "a limit that is no answer", "in", fails(tickets.ErrFull)),
		away("read-only replica", "READONLY", "in", fails(readOnly)),
		{"unknown, wrapped", "errors.Is", 401, "unknown", "in",
			fails(fmt.Errorf("redis: nil: %w", tickets.ErrUnknown))},
		{"invalid of no kind", "errors.Is", 401, "unknown", "in", fails(tickets.ErrInvalid)},
		away("neither grant nor error", "rows found are not rows deleted", "in", fails(nil)),
	} {
		runInBubble(t, tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{})
			var well atomic.Bool
			b.store.onTake = func(take takeFunc) (tickets.Grant, error) {
				if well.Load() {
					return take()
				}
				return tc.take(take)
			}
			dial := serveInBubble(t, b.guard.Wrap(accepts))
			ticket := b.mint(t)
			request := upgrade("GET", "/ws?ticket="+ticket, "Connection: Upgrade, close")
			raw := exchange(t, dial(), request)
			assert.EqualValues(t, 1, b.store.takes.Load(),
				"asked again: what was lost may have happened")
			synctest.Wait()
			require.Contains(t, raw, fmt.Sprintf("HTTP/1.1 %d ", tc.status))
			if tc.status != http.StatusSwitchingProtocols {
				lines := b.rec.Lines(t)
				require.Len(t, lines, 1)
				assert.Equal(t, []any{"ws_ticket_rejected", tc.reason, auditID(ticket)},
					fields(lines[0], "event", "reason", "ticket_id"))
			}
			if tc.status == http.StatusServiceUnavailable {
				assert.True(t, strings.HasSuffix(raw, "\r\n\r\n"+bodyDown), raw)
				assert.Regexp(t, `\r\nRetry-After: [1-9]\r\n`, raw)
			}

			b.rec.Take()
			well.Store(true)
			raw = exchange(t, dial(), request)
			synctest.Wait()
			if tc.again == "in" {
				assert.Contains(t, raw, "HTTP/1.1 101 ")
			} else {
				assert.Contains(t, raw, "HTTP/1.1 401 ")
				assert.Equal(t, tc.again, b.rec.Lines(t)[0]["reason"])
			}
		})
	}
}

// A client that goes while its ticket is consumed has spent it. One audit line says so.
func TestGuard_ClientGoneWhileConsuming(t *testing.T) {
	gone := make(chan struct{})
	b := newBed(t, middleware.GuardOptions{
		ClientIP: func(r *http.Request) string {
			context.AfterFunc(r.Context(), func() { close(gone) })
			return "client"
		},
	}, middleware.SocketsOptions{
		Restore: func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			assert.NoError(t, ctx.Err(),
				"what the ticket was worth is to be found out all the same")
			return s, nil
		},
	})
	taking := make(chan struct{}, 2)
	b.store.onTake = func(take takeFunc) (tickets.Grant, error) {
		taking <- struct{}{}
		<-gone
		return take()
	}
	served := make(chan struct{})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		b.guard.Wrap(accepts).ServeHTTP(w, r)
	}))
	ticket := b.mint(t)
	conn := begin(t, srv, upgrade("GET", "/ws?ticket="+ticket))
	<-taking
	require.NoError(t, conn.Close())
	<-served
	outcomes := append(b.rec.Events(t, audit.SocketOpened),
		b.rec.Events(t, audit.UpgradeRefused)...)
	assert.Len(t, outcomes, 1, b.rec.Text())
	assert.Empty(t, b.rec.Events(t, audit.TicketRejected))
	_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
	assert.ErrorIs(t, err, tickets.ErrUsed)
}

// The ways to put a guard before a real WebSocket library.
func TestGuard_LibraryBehindItOpensSockets(t *testing.T) {
	sockets := func(next func(*bed) http.Handler) func(*testing.T) (*bed, http.Handler) {
		return func(t *testing.T) (*bed, http.Handler) {
			b := newBed(t, middleware.GuardOptions{})
			return b, next(b)
		}
	}
	for name, wire := range map[string]func(*testing.T) (*bed, http.Handler){
		"Wrap": sockets(func(b *bed) http.Handler { return b.guard.Wrap(guardedEcho) }),
		"alice": sockets(func(b *bed) http.Handler {
			return alice.New(middleware.ConcealTicket, b.guard.Wrap).Then(guardedEcho)
		}),
		"Admit": sockets(func(b *bed) http.Handler {
			return admitting(b.guard, func(a *middleware.Admission, w http.ResponseWriter) {
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
		"behind a gate": sockets(func(b *bed) http.Handler {
			return signedInAs(ann())(b.guard.Wrap(guardedEcho))
		}),
		"behind StripPrefix": sockets(func(b *bed) http.Handler {
			return http.StripPrefix("/", b.guard.Wrap(guardedEcho))
		}),
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
				opts := &websocket.DialOptions{HTTPClient: h1Client(srv),
					Subprotocols: []string{"chat"}, HTTPHeader: http.Header{"Origin": {srv.URL}}}
				c, _, err := websocket.Dial(t.Context(), srv.URL+"/ws?ticket="+b.mint(t), opts)
				require.NoError(t, err)
				assert.Equal(t, "chat", c.Subprotocol())
				require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte("hello")))
				_, message, err := c.Read(t.Context())
				require.NoError(t, err)
				assert.Equal(t, "hello", string(message))
				require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))

				c, _, err = websocket.Dial(t.Context(), srv.URL+"/ws", &websocket.DialOptions{
					HTTPClient:   h1Client(srv),
					Subprotocols: []string{"ticket." + b.mint(t), "chat"},
				})
				require.NoError(t, err)
				assert.Equal(t, "chat", c.Subprotocol())
				require.NoError(t, c.CloseNow())
			}
			b.rec.Await(t, audit.SocketClosed, 4)
			assert.Len(t, b.rec.Lines(t), 8,
				"each socket is opened and closed, once: %s", b.rec.Text())
			for _, line := range b.rec.Events(t, audit.SocketOpened) {
				assert.Equal(t, []any{"oidc", "ann", "127.0.0.1"},
					fields(line, "provider", "user_id", "ip"))
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

// An admitted request that opens no socket has spent its ticket, and leaves one line.
func TestGuard_FailedUpgradeIsOneLine(t *testing.T) {
	oops := errors.New("oops")
	panics := func(v any) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) { panic(v) }
	}
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		panics  any
		status  int
	}{
		{name: "no handler for it", handler: http.NotFound, status: 404},
		{name: "does nothing", handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		{name: "panics", handler: panics(oops), panics: oops, status: 500},
		{name: "aborts", handler: panics(http.ErrAbortHandler), panics: http.ErrAbortHandler,
			status: 500},
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
			failed := refusal{reason: "upgrade_failed", more: `,"origin":"https://pages.example"`}
			assert.Equal(t, auditLine(failed, nil), b.rec.Text())
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

// The handler sees the session that Restore returns. Who it is, and the ticket's data, stay
// the ticket's.
func TestGuard_RestoreFillsInTheSession(t *testing.T) {
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
