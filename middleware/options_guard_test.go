package middleware_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// What only the grant can answer costs the ticket: the caller has it, and tries
// it where it does not belong.
func TestGuard_ChecksTheGrant(t *testing.T) {
	endpoint := func(path string) func(*tickets.Grant) { return func(g *tickets.Grant) { g.Endpoint = path } }
	inside := func(change func(*middleware.Session)) func(http.Handler) http.Handler {
		s := ann()
		change(s)
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(middleware.WithSession(r.Context(), s)))
			})
		}
	}
	restores := func(s *middleware.Session, err error) middleware.SocketsOptions {
		return middleware.SocketsOptions{Restore: func(context.Context, *middleware.Session) (*middleware.Session, error) { return s, err }}
	}
	with := func(change func(*middleware.Session)) *middleware.Session {
		s := ann()
		change(s)
		return s
	}
	known := `,"ticket_id":"{ID}","provider":"oidc","user_id":"ann"`
	const in, forbidden, rejected, unavailable = 101, 403, 401, 503
	for _, tc := range []struct {
		name, source string
		opts         middleware.GuardOptions
		sockets      middleware.SocketsOptions
		outer        func(http.Handler) http.Handler
		grant        func(*tickets.Grant)
		target       string // /ws
		status       int
		reason       string
	}{
		{name: "its endpoint", grant: endpoint("/ws"), status: in},
		{name: "its endpoint, needlessly escaped", source: "HOSTILE W30: routers that match RawPath", grant: endpoint("/ws"), target: "/%77s", status: forbidden, reason: "endpoint"},
		{name: "its endpoint, outside ASCII", source: "RFC 3987 3.1", grant: endpoint("/über"), target: "/%C3%BCber", status: in},
		{name: "its endpoint, in lower-case hex", source: "HOSTILE W30: routers that match RawPath", grant: endpoint("/über"), target: "/%c3%bcber", status: forbidden, reason: "endpoint"},
		{name: "another endpoint", source: "CWE-863", grant: endpoint("/ws/pty"), status: forbidden, reason: "endpoint"},
		{name: "endpoint in capitals", source: "RFC 3986 6.2.2.1", grant: endpoint("/WS"), status: forbidden, reason: "endpoint"},
		{name: "below its endpoint", source: "CWE-863: prefixes", grant: endpoint("/ws"), target: "/ws/pty", status: forbidden, reason: "endpoint"},
		{name: "final slash", source: "RFC 3986 6.2.3", grant: endpoint("/ws"), target: "/ws/", status: forbidden, reason: "endpoint"},
		{name: "two slashes", source: "RFC 3986 3.3", grant: endpoint("/ws"), target: "//ws", status: forbidden, reason: "endpoint"},
		{name: "dot segments", source: "GHSA-xf64-8mw2-4gr2", grant: endpoint("/ws"), target: "/x/../ws", status: forbidden, reason: "endpoint"},
		{name: "escaped slash", source: "GHSA-gm3x-23wp-hc2c: a router takes it for one segment", grant: endpoint("/ws/pty"), target: "/ws%2Fpty", status: forbidden, reason: "endpoint"},
		{name: "escaped slash, minted as a percent sign", source: "CWE-174: a router that decodes takes it for /ws/pty", grant: endpoint("/ws%2Fpty"), target: "/ws%2Fpty", status: forbidden, reason: "endpoint"},
		{name: "escaped twice", source: "HOSTILE G26", grant: endpoint("/ws%2Fpty"), target: "/ws%252Fpty", status: forbidden, reason: "endpoint"},
		{name: "a percent sign", source: "RFC 3986 2.4", grant: endpoint("/ws/100%"), target: "/ws/100%25", status: in},
		{name: "endpoint in the query", source: "GHSA-7rh7-c77v-6434", grant: endpoint("/ws"), target: "/x?endpoint=/ws&x=/ws", status: forbidden, reason: "endpoint"},
		{name: "a prefix taken off", source: "http.StripPrefix", grant: endpoint("/api/ws"), target: "/api/ws", outer: strip("/api"), status: in},
		{name: "a prefix taken off, escaped", source: "HOSTILE W30", grant: endpoint("/api/ws"), target: "/api/%77s", outer: strip("/api"), status: forbidden, reason: "endpoint"},
		{name: "no RequestURI, needlessly escaped", source: "HOSTILE W30", grant: endpoint("/ws"), target: "/%77s", outer: noRequestURI, status: forbidden, reason: "endpoint"},
		{name: "no RequestURI", source: "not every server fills it in", grant: endpoint("/ws"), outer: noRequestURI, status: in},
		{name: "no RequestURI, escaped slash", source: "GHSA-gm3x-23wp-hc2c", grant: endpoint("/ws/pty"), target: "/ws%2Fpty", outer: noRequestURI, status: forbidden, reason: "endpoint"},
		{name: "what a prefix left", source: "http.StripPrefix", grant: endpoint("/ws"), target: "/api/ws", outer: strip("/api"), status: forbidden, reason: "endpoint"},
		{name: "X-Original-URL", source: "GHSA-6384-m2mw-rf54", grant: endpoint("/ws"), target: "/x", outer: header("X-Original-URL", "/ws"), status: forbidden, reason: "endpoint"},
		{name: "RequireEndpoint, none", grant: endpoint(""), opts: middleware.GuardOptions{RequireEndpoint: true}, status: forbidden, reason: "endpoint"},
		{name: "RequireEndpoint, its own", grant: endpoint("/ws"), opts: middleware.GuardOptions{RequireEndpoint: true}, status: in},
		{name: "Endpoint option", grant: endpoint("/public/ws"), opts: middleware.GuardOptions{Endpoint: func(r *http.Request) string { return "/public" + r.URL.Path }}, status: in},
		{name: "Endpoint option, another", grant: endpoint("/ws"), opts: middleware.GuardOptions{Endpoint: func(r *http.Request) string { return "/public" + r.URL.Path }}, status: forbidden, reason: "endpoint"},

		{name: "same session around", outer: inside(func(*middleware.Session) {}), status: in},
		{name: "another session around", source: "CWE-384", outer: inside(func(s *middleware.Session) { s.ID = "other" }), status: forbidden, reason: "session"},
		{name: "another person around", source: "CWE-384", outer: inside(func(s *middleware.Session) { s.UserID = "bob" }), status: forbidden, reason: "session"},
		{name: "another provider around", source: "CWE-384", outer: inside(func(s *middleware.Session) { s.Provider = "saml" }), status: forbidden, reason: "session"},
		{name: "session around is over", source: "CWE-613", outer: inside(func(s *middleware.Session) { s.ExpiresAt = time.Now().Add(-1) }), status: rejected, reason: "session"},

		{name: "restored", sockets: restores(ann(), nil), status: in},
		{name: "gone", source: "pomerium#1279", sockets: restores(nil, middleware.ErrNoSession), status: rejected, reason: "session"},
		{name: "neither session nor error", sockets: restores(nil, nil), status: rejected, reason: "session"},
		{name: "expired, wrapped", source: "errors.Is", sockets: restores(nil, fmt.Errorf("redis: %w", middleware.ErrSessionExpired)), status: rejected, reason: "session"},
		{name: "restored to its end", source: "CWE-613", sockets: restores(with(func(s *middleware.Session) { s.ExpiresAt = time.Now() }), nil), status: rejected, reason: "session"},
		{name: "session backend away", sockets: restores(nil, errDown), status: unavailable, reason: "session"},
		{name: "session beside an error", sockets: restores(ann(), errDown), status: unavailable, reason: "session"},
		{name: "restored as another", source: "CWE-384", sockets: restores(with(func(s *middleware.Session) { s.ID = "other" }), nil), status: unavailable, reason: "session"},
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, tc.opts, tc.sockets)
			h := b.guard.Wrap(accepts)
			if tc.outer != nil {
				h = tc.outer(h)
			}
			srv := serve(t, h)
			var ticket string
			if tc.grant == nil {
				ticket = b.mint(t)
			} else {
				ticket = b.mint(t, tc.grant)
			}
			target := tc.target
			if target == "" {
				target = "/ws"
			}
			sep := "?"
			if strings.Contains(target, "?") {
				sep = "&"
			}
			a := send(t, srv, upgrade("GET", target+sep+"ticket="+ticket))
			if tc.status == in {
				require.Equal(t, in, a.Status, a)
				require.Equal(t, "ann", a.reached())
				return
			}
			code := map[int]string{forbidden: "forbidden", rejected: "ticket_rejected", unavailable: "unavailable"}[tc.status]
			requireRefusal(t, refusal{status: tc.status, code: code, reason: tc.reason}, a)
			lines := b.rec.Lines(t)
			require.Len(t, lines, 1, b.rec.Text())
			assert.Equal(t, []any{"ws_ticket_rejected", tc.reason, "127.0.0.1", auditID(ticket), "oidc", "ann"},
				[]any{lines[0]["event"], lines[0]["reason"], lines[0]["ip"], lines[0]["ticket_id"], lines[0]["provider"], lines[0]["user_id"]})
			assert.Contains(t, b.rec.Text(), strings.ReplaceAll(known, "{ID}", auditID(ticket)))
			_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
			require.ErrorIs(t, err, tickets.ErrUsed, "the ticket can be tried elsewhere")
		})
	}
}

func noRequestURI(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RequestURI = ""
		next.ServeHTTP(w, r)
	})
}

// A guard without room says so before it takes the ticket; a person without,
// only then is known.
func TestGuard_NoRoomIs429(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limits middleware.SocketsOptions
		spent  bool
	}{
		{"of all", middleware.SocketsOptions{Max: 1}, false},
		{"of the person", middleware.SocketsOptions{MaxPerUser: 1}, true},
		{"of the session", middleware.SocketsOptions{MaxPerSession: 1}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{}, tc.limits)
			srv := serve(t, b.guard.Wrap(guardedEcho))
			c, _, err := websocket.Dial(t.Context(), srv.URL+"/ws?ticket="+b.mint(t), nil)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(b.rec.Events(t, audit.SocketOpened)) == 1 }, patience, time.Millisecond)
			b.rec.Take()
			ticket := b.mint(t)
			a := send(t, srv, upgrade("GET", "/ws?ticket="+ticket))
			tooMany := refusal{status: 429, code: "too_many", reason: "too_many"}
			requireRefusal(t, tooMany, a)
			assert.Equal(t, auditLine(tooMany, nil), b.rec.Take())
			require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
			_, err = b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
			if tc.spent {
				assert.ErrorIs(t, err, tickets.ErrUsed)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

// Around a whole router a guard passes on what cannot become a socket, and
// nothing else: two libraries take "Connection: not-upgrade" for an upgrade.
func TestGuardPassesOthers(t *testing.T) {
	for _, tc := range []struct {
		name, source, request string
		status                int    // 200: passed on
		reached               string // nobody
		admits                bool   // AdmitRequests
	}{
		{name: "GET", request: get("/page"), status: 200},
		{name: "GET with a ticket of another's", source: "CAS 3.0 2.5", request: get("/page?ticket=ST-1"), status: 200},
		{name: "POST with a body", request: rawRequest("POST", "/page", "Content-Length: 2") + "{}", status: 200},
		{name: "OPTIONS", request: rawRequest("OPTIONS", "/page", "Origin: https://evil.example"), status: 200},
		{name: "long query", request: get("/page?" + strings.Repeat("a", 4<<10)), status: 200},
		{name: "query that does not parse", request: get("/page?a;b&%zz"), status: 200},
		{name: "keep-alive", request: get("/page", "Connection: keep-alive"), status: 200},

		{name: "a whole handshake", request: upgrade("GET", "/page"), status: 401},
		{name: "bare Connection: Upgrade", source: "headroom#3281", request: get("/page", "Connection: Upgrade"), status: 426},
		{name: "bare Connection: keep-alive, upgrade", source: "headroom#3281", request: get("/page", "Connection: keep-alive", "Connection: upgrade"), status: 426},
		{name: "bare Upgrade", source: "traefik-modsecurity-plugin#6", request: get("/page", "Upgrade: websocket"), status: 426},
		{name: "empty Upgrade", source: "taOS#636", request: get("/page", "Upgrade:"), status: 426},
		{name: "h2c", source: "RFC 7540 3.2", request: get("/page", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), status: 426},
		{name: "Connection: not-upgrade", source: "x/net and gws answer 101", request: upgrade("GET", "/page", "Connection: not-upgrade"), status: 426},
		{name: "key alone", source: "RFC 6455 11.3.1", request: get("/page", "sec-websocket-KEY: x"), status: 426},
		{name: "protocol alone", source: "RFC 6455 11.3.4", request: get("/page", "Sec-WebSocket-Protocol: chat"), status: 426},
		{name: "extensions alone", source: "RFC 6455 11.3.2", request: get("/page", "Sec-WebSocket-Extensions: x"), status: 426},
		{name: "accept alone", source: "RFC 6455 11.3.3", request: get("/page", "Sec-WebSocket-Accept: x"), status: 426},
		{name: "a header to come", source: "RFC 6455 11.3", request: get("/page", "Sec-WebSocket-Next:"), status: 426},
		{name: "POST", source: "RFC 6455 4.1", request: upgrade("POST", "/page"), status: 405},
		{name: "CONNECT", source: "RFC 9110 9.3.6", request: rawRequest("CONNECT", "/page"), status: 426},
		{name: "the preface of HTTP/2", source: "HOSTILE W31, RFC 9113 3.4: to an h2c handler, a tunnel", request: "PRI * HTTP/2.0\r\n\r\n", status: 426},
		{name: "key alone, POST", source: "RFC 6455 11.3.1", request: rawRequest("POST", "/page", "Sec-WebSocket-Key: x"), status: 426},

		{name: "stream", admits: true, request: get("/page?ticket={T}"), status: 200, reached: "ann"},
		{name: "stream, used or unknown", admits: true, request: get("/page?ticket=" + strings.Repeat("A", 43)), status: 401},
		{name: "stream, two tickets", source: "CWE-235", admits: true, request: get("/page?ticket={T}&ticket={U}"), status: 400},
		{name: "stream, one ticket and one of another's", source: "CWE-235", admits: true, request: get("/page?ticket={T}&ticket=ST-1"), status: 400},
		{name: "stream, another's ticket", source: "CAS 3.0 2.5", admits: true, request: get("/page?ticket=ST-1"), status: 200},
		{name: "POST with a ticket", admits: true, request: rawRequest("POST", "/page?ticket={T}", "Content-Length: 0"), status: 200},
		{name: "stream that resembles an upgrade", source: "headroom#3281", admits: true, request: get("/page?ticket={T}", "Upgrade: websocket"), status: 426},
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{PassOthers: true, AdmitRequests: tc.admits})
			mux := http.NewServeMux() // which must not know better
			mux.Handle("/", whoami)
			a := send(t, serve(t, b.guard.Wrap(mux)), b.fill(t).Replace(tc.request))
			require.Equal(t, tc.status, a.Status, a)
			if tc.status != http.StatusOK {
				require.Empty(t, a.reached())
				require.Len(t, b.rec.Lines(t), 1)
			} else if tc.reached == "" {
				require.Equal(t, "nobody", a.reached())
				require.Empty(t, b.rec.Text())
			} else {
				require.Equal(t, tc.reached, a.reached())
			}
		})
	}
}

// EventSource, <img> and downloads.
func TestGuardAdmitsRequests(t *testing.T) {
	for _, tc := range []struct {
		name, source, request string
		status                int
		reason                string
		takes                 int64
	}{
		{"stream", "", get(ws, "Accept: text/event-stream"), 200, "", 1},
		{"stream, name escaped", "RFC 3986 2.1", get("/ws?a=1&%74icket={T}"), 200, "", 1},
		{"stream of the same origin", "WHATWG HTML 9.2", get(ws, "Origin: https://app.example"), 200, "", 1},
		{"upgrade", "", opening(), 101, "", 1},
		{"no ticket", "", get("/ws"), 426, "not_upgrade", 0},
		{"HEAD", "RFC 9110 9.3.2", rawRequest("HEAD", ws), 426, "not_upgrade", 0},
		{"POST", "RFC 9110 9.3.3", rawRequest("POST", ws, "Content-Length: 0"), 426, "not_upgrade", 0},
		{"ticket in a protocol", "RFC 6455 11.3.4", get("/ws", "Sec-WebSocket-Protocol: chat, ticket.{T}"), 426, "not_upgrade", 0},
		{"empty ticket", "", get("/ws?ticket="), 401, "no_ticket", 0},
		{"malformed ticket", "RFC 4648 5", get("/ws?ticket=a"), 401, "unknown", 0},
		{"two tickets", "CWE-235", get("/ws?ticket={T}&ticket={U}"), 400, "two_tickets", 0},
		{"semicolon", "golang/go#25192", get("/ws?ticket={T};ticket={U}"), 400, "query", 0},
		{"body", "RFC 9110 9.3.1", get(ws, "Content-Length: 2") + "{}", 400, "body", 0},
		{"long query", "RFC 9110 15.5.15", get(ws + "&" + strings.Repeat("a", 2<<10)), 414, "query", 0},
		{"another origin", "CVE-2026-34403", get(ws, "Origin: https://evil.example"), 403, "origin", 0},
		{"half an upgrade", "headroom#3281", get(ws, "Upgrade: websocket"), 426, "not_upgrade", 0},
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{AdmitRequests: true})
			srv := serve(t, b.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "" {
					accepts(w, r)
					return
				}
				assert.NotContains(t, r.RequestURI+r.URL.String(), "icket")
				whoami(w, r)
			})))
			a := send(t, srv, b.fill(t).Replace(tc.request))
			require.Equal(t, tc.status, a.Status, a)
			require.Equal(t, tc.takes, b.store.takes.Load())
			if tc.reason == "" {
				require.Equal(t, "ann", a.reached())
				return
			}
			lines := b.rec.Lines(t)
			require.Len(t, lines, 1)
			require.Equal(t, tc.reason, lines[0]["reason"])
		})
	}
}

func TestGuardConfiguration(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	_, err := middleware.NewGuard(nil, &middleware.GuardOptions{Origins: []string{"https://App.Example", "https://*.example", "https://a@b", "null", "https://ok.example"}})
	for _, want := range []string{"issuer is nil", `"https://app.example"`, `"https://*.example"`, `"https://a@b"`, `"null"`} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "ok.example")

	origins := []string{"https://app.example"}
	opts := &middleware.GuardOptions{Origins: origins, RequireOrigin: true}
	guard, err := middleware.NewGuard(b.issuer, opts)
	require.NoError(t, err)
	origins[0], opts.RequireOrigin = "https://evil.example", false // copied before
	srv := serve(t, guard.Wrap(accepts))
	for line, status := range map[string]int{
		"X-No: Origin": 403, "Origin: https://evil.example": 403, "Origin: http://app.example": 403,
		"Origin: https://app.example": 101, "Origin: https://APP.example:443": 101,
	} {
		assert.Equal(t, status, send(t, srv, upgrade("GET", "/ws?ticket="+b.mint(t), line)).Status, line)
	}
}
