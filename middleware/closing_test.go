package middleware_test

import (
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
	type ticketOf = func(*bed, *testing.T) string
	fresh := func(b *bed, t *testing.T) string { return b.mint(t) }
	text := func(text string) ticketOf { return func(*bed, *testing.T) string { return text } }
	elsewhere := func(b *bed, t *testing.T) string {
		return b.mint(t, func(g *tickets.Grant) { g.Endpoint = "/ws/pty" })
	}
	restore := func(err error) middleware.SocketsOptions {
		return middleware.SocketsOptions{Restore: says(err)}
	}
	none, full := middleware.SocketsOptions{}, middleware.SocketsOptions{Max: 1}
	rejected := websocket.CloseError{Code: 4401, Reason: "ticket_rejected"}
	forbidden := websocket.CloseError{Code: 4403, Reason: "forbidden"}
	tooMany := websocket.CloseError{Code: 4429, Reason: "too_many"}
	unavailable := websocket.CloseError{Code: 1013, Reason: "unavailable"}
	for _, tc := range []struct {
		name    string
		ticket  ticketOf
		sockets middleware.SocketsOptions
		origin  string
		take    error
		want    websocket.CloseError
	}{
		{"used", used, none, "", nil, rejected},
		{"none", text(""), none, "", nil, rejected},
		{"malformed", text("a"), none, "", nil, rejected},
		{"session gone", fresh, restore(middleware.ErrNoSession), "", nil, rejected},
		{"another origin", fresh, none, "https://evil.example", nil, forbidden},
		{"another endpoint", elsewhere, none, "", nil, forbidden},
		{"no room", fresh, full, "", nil, tooMany},
		{"store fails", fresh, none, "", errDown, unavailable},
		{"backend fails", fresh, restore(errDown), "", nil, unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{OnReject: middleware.RejectByClosing}, tc.sockets)
			if tc.sockets.Max > 0 {
				fill(t, b)
			}
			if tc.take != nil {
				b.store.onTake = func(takeFunc) (tickets.Grant, error) {
					return tickets.Grant{}, tc.take
				}
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
					assert.Equal(t, tc.want, closed)
				}
			}
			assert.Len(t, b.rec.Lines(t), 8, "one line for each refusal")
		})
	}
}

// fill takes a place in b's Sockets.
func fill(t *testing.T, b *bed) {
	t.Helper()
	a, rej := b.guard.Admit(readRequest(upgrade("GET", "/ws?ticket="+b.mint(t))))
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
	const accepted = switching + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" // of goodKey
	rejected := "\r\n" + frame(4401, "ticket_rejected")
	const chosen = accepted + "Sec-WebSocket-Protocol: "
	masked := "\x82\xfe\x10\x00\x00\x00\x00\x00" + strings.Repeat("x", 4096)
	all := func(t *testing.T, srv *httptest.Server, request string) string {
		conn := begin(t, srv, request)
		raw, err := io.ReadAll(conn)
		require.NoError(t, err, "the connection was reset: the close frame may be lost")
		return string(raw)
	}
	for _, tc := range []struct{ name, source, request, want string }{
		{"no ticket", "RFC 6455 7.4", upgrade("GET", "/ws"), accepted + rejected},
		{"another origin", "RFC 6455 10.2", opening(evilOrigin),
			accepted + "\r\n" + frame(4403, "forbidden")},
		{"protocols that are no tokens", "RFC 9110 5.6.2", offering(`a"b, ticket.x, c d, ok, late`),
			chosen + "ok\r\n" + rejected},
		{"protocol in the second line", "RFC 6455 11.3.4", offering("ticket.x", "chat"),
			chosen + "chat\r\n" + rejected},
		{"key in white space", "RFC 9110 5.5",
			upgrade("GET", "/ws", "Sec-WebSocket-Key: \tdGhlIHNhbXBsZSBub25jZQ== \t"), accepted + rejected},
		{"frames sent at once", "a reset would overtake the close frame",
			upgrade("GET", "/ws") + strings.Repeat(masked, 1024), accepted + rejected},
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
			if tc.name == "plain GET" {
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
		a := send(t, srv, upgrade("GET", "/ws"))
		requireRefusal(t, refusal{status: 501, code: "not_implemented"}, a)
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
