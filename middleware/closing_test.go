package middleware_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A page that is refused by closing learns why, from a real library's view of
// the close frame.
func TestRejectByClosing(t *testing.T) {
	used := func(b *bed, t *testing.T) string {
		ticket := b.mint(t)
		_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
		require.NoError(t, err)
		return ticket
	}
	fresh := func(b *bed, t *testing.T) string { return b.mint(t) }
	restore := func(err error) middleware.SocketsOptions {
		return middleware.SocketsOptions{Restore: func(context.Context, *middleware.Session) (*middleware.Session, error) { return nil, err }}
	}
	for _, tc := range []struct {
		name    string
		opts    middleware.GuardOptions
		sockets middleware.SocketsOptions
		ticket  func(*bed, *testing.T) string
		origin  string
		take    error
		code    websocket.StatusCode
		reason  string
	}{
		{name: "used", ticket: used, code: 4401, reason: "ticket_rejected"},
		{name: "none", ticket: func(*bed, *testing.T) string { return "" }, code: 4401, reason: "ticket_rejected"},
		{name: "malformed", ticket: func(*bed, *testing.T) string { return "a" }, code: 4401, reason: "ticket_rejected"},
		{name: "session gone", ticket: fresh, sockets: restore(middleware.ErrNoSession), code: 4401, reason: "ticket_rejected"},
		{name: "another origin", ticket: fresh, origin: "https://evil.example", code: 4403, reason: "forbidden"},
		{name: "another endpoint", ticket: func(b *bed, t *testing.T) string {
			return b.mint(t, func(g *tickets.Grant) { g.Endpoint = "/ws/pty" })
		}, code: 4403, reason: "forbidden"},
		{name: "no room", ticket: fresh, sockets: middleware.SocketsOptions{Max: 1}, code: 4429, reason: "too_many"},
		{name: "store fails", ticket: fresh, take: errDown, code: 1013, reason: "unavailable"},
		{name: "backend fails", ticket: fresh, sockets: restore(errDown), code: 1013, reason: "unavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.opts.OnReject = middleware.RejectByClosing
			b := newBed(t, tc.opts, tc.sockets)
			if tc.sockets.Max > 0 {
				fill(t, b)
			}
			if tc.take != nil {
				b.store.onTake = func(func() (tickets.Grant, error)) (tickets.Grant, error) { return tickets.Grant{}, tc.take }
			}
			h := middleware.ConcealTicket(b.guard.Wrap(mustNotRun(t)))
			for name, srv := range map[string]*httptest.Server{"plain": serve(t, h), "tls": serveTLS(t, h)} {
				for _, offer := range []struct {
					offered []string // {T}: a ticket; none: it is in the query
					chosen  string
				}{
					{nil, ""},
					{[]string{"v2.chat", "v1.chat"}, "v2.chat"},
					{[]string{"ticket.{T}", "v2.chat", "v1.chat"}, "v2.chat"},
					{[]string{"v1.chat", "ticket.{T}"}, "v1.chat"},
				} {
					ticket, target := tc.ticket(b, t), "/ws"
					opts := &websocket.DialOptions{HTTPClient: h1Client(srv), HTTPHeader: http.Header{}}
					if tc.origin != "" {
						opts.HTTPHeader.Set("Origin", tc.origin)
					}
					inProtocol := false
					for _, p := range offer.offered {
						inProtocol = inProtocol || strings.Contains(p, "{T}")
						opts.Subprotocols = append(opts.Subprotocols, strings.ReplaceAll(p, "{T}", ticket))
					}
					if !inProtocol {
						target += "?ticket=" + ticket
					}
					c, _, err := websocket.Dial(t.Context(), srv.URL+target, opts)
					require.NoError(t, err, "%s %v", name, offer.offered)
					assert.Equal(t, offer.chosen, c.Subprotocol())
					_, _, err = c.Read(t.Context())
					var closed websocket.CloseError
					require.True(t, errors.As(err, &closed), "%s: %v", name, err)
					assert.Equal(t, websocket.CloseError{Code: tc.code, Reason: tc.reason}, closed)
				}
			}
			lines := b.rec.Lines(t)
			assert.Len(t, lines, 8, "one line for each refusal")
		})
	}
}

// fill takes a place in b's Sockets.
func fill(t *testing.T, b *bed) {
	t.Helper()
	r := httptest.NewRequest("GET", "/ws?ticket="+b.mint(t), nil)
	for _, line := range strings.Split(upgrade("GET", "/ws"), "\r\n")[2:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			r.Header.Set(name, value)
		}
	}
	a, rej := b.guard.Admit(r)
	require.Nil(t, rej)
	t.Cleanup(a.Release)
}

// What goes over the wire, byte for byte, and in which cases nothing but HTTP.
func TestRejectByClosingOnTheWire(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{OnReject: middleware.RejectByClosing, AdmitRequests: true})
	h := b.guard.Wrap(accepts)
	srv := serve(t, h)
	frame := func(code uint16, reason string) string {
		return string(binary.BigEndian.AppendUint16([]byte{0x88, byte(2 + len(reason))}, code)) + reason
	}
	// The key and its answer are RFC 6455's own example, section 1.3.
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	all := func(t *testing.T, srv *httptest.Server, request string) string {
		conn := begin(t, srv, request)
		raw, err := io.ReadAll(conn)
		require.NoError(t, err, "the connection was reset: the close frame may be lost")
		return string(raw)
	}
	for _, tc := range []struct{ name, source, request, want string }{
		{"no ticket", "RFC 6455 7.4", upgrade("GET", "/ws"), switching + "\r\n" + frame(4401, "ticket_rejected")},
		{"another origin", "RFC 6455 10.2", opening("Origin: https://evil.example"), switching + "\r\n" + frame(4403, "forbidden")},
		{"protocols that are no tokens", "RFC 9110 5.6.2", upgrade("GET", "/ws", `Sec-WebSocket-Protocol: a"b, ticket.x, c d, ok, late`), switching + "Sec-WebSocket-Protocol: ok\r\n\r\n" + frame(4401, "ticket_rejected")},
		{"protocol in the second line", "RFC 6455 11.3.4", offering("ticket.x", "chat"), switching + "Sec-WebSocket-Protocol: chat\r\n\r\n" + frame(4401, "ticket_rejected")},
		{"key in white space", "RFC 9110 5.5", upgrade("GET", "/ws", "Sec-WebSocket-Key: \tdGhlIHNhbXBsZSBub25jZQ== \t"), switching + "\r\n" + frame(4401, "ticket_rejected")},
		{"frames sent at once", "a reset would overtake the close frame", upgrade("GET", "/ws") + strings.Repeat("\x82\xfe\x10\x00\x00\x00\x00\x00"+strings.Repeat("x", 4096), 1024), switching + "\r\n" + frame(4401, "ticket_rejected")},
	} {
		for name, srv := range map[string]*httptest.Server{"plain": srv, "tls": serveTLS(t, h)} {
			t.Run(tc.name+" ("+tc.source+")/"+name, func(t *testing.T) {
				assert.Equal(t, tc.want, all(t, srv, b.fill(t).Replace(tc.request)))
			})
		}
	}
	for _, tc := range refusals {
		if tc.code == "" || tc.status == 401 || tc.status == 403 || tc.only != "" {
			continue
		}
		t.Run("in HTTP/"+tc.name, func(t *testing.T) {
			if tc.status == 426 && !strings.Contains(tc.request, "Upgrade") && strings.HasPrefix(tc.request, "GET") {
				t.Skip("a request that AdmitRequests admits")
			}
			requireRefusal(t, tc, send(t, srv, b.fill(t).Replace(tc.request)))
		})
	}
	t.Run("in HTTP/stream", func(t *testing.T) {
		a := send(t, srv, get("/ws?ticket="+strings.Repeat("A", 43)))
		requireRefusal(t, refusal{status: 401, code: "ticket_rejected"}, a)
	})
	t.Run("in HTTP/over HTTP-2", func(t *testing.T) {
		a := sendH2(t, serveTLS(t, h), "GET", "/ws?ticket="+strings.Repeat("A", 43))
		requireRefusal(t, refusal{status: 401, code: "ticket_rejected"}, a)
	})
	t.Run("in HTTP/nothing to hijack", func(t *testing.T) {
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}))
		requireRefusal(t, refusal{status: 501, code: "not_implemented"}, send(t, srv, upgrade("GET", "/ws")))
	})
}

// A page that reads nothing and never closes holds a refused connection for a
// bounded time.
func TestRejectByClosingEnds(t *testing.T) {
	t.Parallel() // it takes that time
	b := newBed(t, middleware.GuardOptions{OnReject: middleware.RejectByClosing})
	left := make(chan struct{})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(left)
		b.guard.Wrap(accepts).ServeHTTP(w, r)
	}))
	begin(t, srv, upgrade("GET", "/ws"))
	<-left // the test would hang
}
