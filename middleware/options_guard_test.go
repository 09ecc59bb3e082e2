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

// A ticket is spent where only its grant tells that it is at the wrong endpoint or of
// another session.
func TestGuard_ChecksTheGrant(t *testing.T) {
	type row struct {
		name, source string
		opts         middleware.GuardOptions
		sockets      middleware.SocketsOptions
		outer        func(http.Handler) http.Handler
		endpoint     string // of the ticket
		target       string
		status       int
		reason       string
	}
	const in, forbidden, rejected, unavailable = 101, 403, 401, 503
	behind := func(outer func(http.Handler) http.Handler, r row) row { r.outer = outer; return r }
	endpoint := func(status int, reason string) func(name, source, endpoint, target string) row {
		return func(name, source, endpoint, target string) row {
			return row{name: name, source: source, endpoint: endpoint, target: target,
				status: status, reason: reason}
		}
	}
	opens, elsewhere := endpoint(in, ""), endpoint(forbidden, "endpoint")
	under := func(opts middleware.GuardOptions, r row) row { r.opts = opts; return r }
	requires := middleware.GuardOptions{RequireEndpoint: true}
	below := middleware.GuardOptions{Endpoint: func(r *http.Request) string {
		return "/public" + r.URL.Path
	}}

	session := func(name, source string, status int) row {
		r := row{name: name, source: source, target: "/ws", status: status}
		if status != in {
			r.reason = "session"
		}
		return r
	}
	inside := func(name, source string, status int, s *middleware.Session) row {
		return behind(signedInAs(s), session(name, source, status))
	}
	restored := func(name, source string, status int, s *middleware.Session, err error) row {
		r := session(name, source, status)
		r.sockets.Restore = func(
			context.Context, *middleware.Session,
		) (*middleware.Session, error) {
			return s, err
		}
		return r
	}
	other, bob, saml, late := ann(), ann(), ann(), ann()
	other.ID, bob.UserID, saml.Provider, late.ExpiresAt = "other", "bob", "saml", time.Now()
	known := `,"ticket_id":"{ID}","provider":"oidc","user_id":"ann"`
	for _, tc := range []row{
		opens("its endpoint", "", "/ws", "/ws"),
		elsewhere("its endpoint, needlessly escaped", "HOSTILE W30: routers that match RawPath",
			"/ws", "/%77s"),
		opens("its endpoint, outside ASCII", "RFC 3987 3.1", "/über", "/%C3%BCber"),
		elsewhere("its endpoint, in lower-case hex", "HOSTILE W30: routers that match RawPath",
			"/über", "/%c3%bcber"),
		elsewhere("another endpoint", "CWE-863", "/ws/pty", "/ws"),
		elsewhere("endpoint in capitals", "RFC 3986 6.2.2.1", "/WS", "/ws"),
		elsewhere("below its endpoint", "CWE-863: prefixes", "/ws", "/ws/pty"),
		elsewhere("final slash", "RFC 3986 6.2.3", "/ws", "/ws/"),
		elsewhere("two slashes", "RFC 3986 3.3", "/ws", "//ws"),
		elsewhere("dot segments", "GHSA-xf64-8mw2-4gr2", "/ws", "/x/../ws"),
		elsewhere("escaped slash", "GHSA-gm3x-23wp-hc2c: a router takes it for one segment",
			"/ws/pty", "/ws%2Fpty"),
		elsewhere("escaped slash, minted as a percent sign",
			"CWE-174: a router that decodes takes it for /ws/pty", "/ws%2Fpty", "/ws%2Fpty"),
		elsewhere("escaped twice", "HOSTILE G26", "/ws%2Fpty", "/ws%252Fpty"),
		opens("a percent sign", "RFC 3986 2.4", "/ws/100%", "/ws/100%25"),
		elsewhere("endpoint in the query", "GHSA-7rh7-c77v-6434", "/ws", "/x?endpoint=/ws&x=/ws"),
		behind(strip("/api"),
			opens("a prefix taken off", "http.StripPrefix", "/api/ws", "/api/ws")),
		behind(strip("/api"),
			elsewhere("a prefix taken off, escaped", "HOSTILE W30", "/api/ws", "/api/%77s")),
		behind(noRequestURI,
			elsewhere("no RequestURI, needlessly escaped", "HOSTILE W30", "/ws", "/%77s")),
		behind(noRequestURI, opens("no RequestURI", "not every server fills it in", "/ws", "/ws")),
		behind(noRequestURI,
			elsewhere("no RequestURI, escaped slash", "GHSA-gm3x-23wp-hc2c", "/ws/pty",
				"/ws%2Fpty")),
		behind(strip("/api"),
			elsewhere("what a prefix left", "http.StripPrefix", "/ws", "/api/ws")),
		behind(header("X-Original-URL", "/ws"),
			elsewhere("X-Original-URL", "GHSA-6384-m2mw-rf54", "/ws", "/x")),
		under(requires, elsewhere("RequireEndpoint, none", "", "", "/ws")),
		under(requires, opens("RequireEndpoint, its own", "", "/ws", "/ws")),
		under(below, opens("Endpoint option", "", "/public/ws", "/ws")),
		under(below, elsewhere("Endpoint option, another", "", "/ws", "/ws")),
		inside("same session around", "", in, ann()),
		inside("another session around", "CWE-384", forbidden, other),
		inside("another person around", "CWE-384", forbidden, bob),
		inside("another provider around", "CWE-384", forbidden, saml),
		inside("session around is over", "CWE-613", rejected, late),
		restored("restored", "", in, ann(), nil),
		restored("gone", "pomerium#1279", rejected, nil, middleware.ErrNoSession),
		restored("neither session nor error", "", rejected, nil, nil),
		restored("expired, wrapped", "errors.Is",
			rejected, nil, fmt.Errorf("redis: %w", middleware.ErrSessionExpired)),
		restored("restored to its end", "CWE-613", rejected, late, nil),
		restored("session backend away", "", unavailable, nil, errDown),
		restored("session beside an error", "", unavailable, ann(), errDown),
		restored("restored as another", "CWE-384", unavailable, other, nil),
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, tc.opts, tc.sockets)
			h := b.guard.Wrap(accepts)
			if tc.outer != nil {
				h = tc.outer(h)
			}
			srv := serve(t, h)
			ticket := b.mint(t, func(g *tickets.Grant) { g.Endpoint = tc.endpoint })
			sep := "?"
			if strings.Contains(tc.target, "?") {
				sep = "&"
			}
			a := send(t, srv, upgrade("GET", tc.target+sep+"ticket="+ticket))
			if tc.status == in {
				require.Equal(t, in, a.Status, a)
				require.Equal(t, "ann", a.reached())
				return
			}
			codes := map[int]string{
				forbidden: "forbidden", rejected: "ticket_rejected", unavailable: "unavailable",
			}
			code := codes[tc.status]
			requireRefusal(t, refusal{status: tc.status, code: code, reason: tc.reason}, a)
			lines := b.rec.Lines(t)
			require.Len(t, lines, 1, b.rec.Text())
			assert.Equal(t,
				[]any{"ws_ticket_rejected", tc.reason, "127.0.0.1", auditID(ticket), "oidc", "ann"},
				fields(lines[0], "event", "reason", "ip", "ticket_id", "provider", "user_id"))
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

// Without room for anybody a ticket stays valid. Who is over a limit is known only
// from the ticket.
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
			b.rec.Await(t, audit.SocketOpened, 1)
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

// Around a router, a guard passes on only what cannot become a socket. Two libraries
// take "Connection: not-upgrade" for an upgrade.
func TestGuard_PassOthersPassesNoUpgrade(t *testing.T) {
	type row struct {
		refusal
		reached string // by a request that is passed on or admitted
		admits  bool   // AdmitRequests
	}
	answers := func(
		status int, reached string, admits bool,
	) func(name, source, request string) row {
		return func(name, source, request string) row {
			return row{refused(status, "", "")(name, source, request), reached, admits}
		}
	}
	passes, needsTicket := answers(200, "nobody", false), answers(401, "", false)
	likeUpgrade, wrongMethod := answers(426, "", false), answers(405, "", false)
	stream, notStream := answers(200, "ann", true), answers(200, "nobody", true)
	refusedStream, twoTickets := answers(401, "", true), answers(400, "", true)
	for _, tc := range []row{
		passes("GET", "", get("/page")),
		passes("GET with a ticket of another's", "CAS 3.0 2.5", get("/page?ticket=ST-1")),
		passes("POST with a body", "", rawRequest("POST", "/page", "Content-Length: 2")+"{}"),
		passes("OPTIONS", "", rawRequest("OPTIONS", "/page", evilOrigin)),
		passes("long query", "", get("/page?"+strings.Repeat("a", 4<<10))),
		passes("query that does not parse", "", get("/page?a;b&%zz")),
		passes("keep-alive", "", get("/page", "Connection: keep-alive")),
		needsTicket("a whole handshake", "", upgrade("GET", "/page")),
		likeUpgrade("bare Connection: Upgrade", "headroom#3281",
			get("/page", "Connection: Upgrade")),
		likeUpgrade("bare Connection: keep-alive, upgrade", "headroom#3281",
			get("/page", "Connection: keep-alive", "Connection: upgrade")),
		likeUpgrade("bare Upgrade", "traefik-modsecurity-plugin#6",
			get("/page", "Upgrade: websocket")),
		likeUpgrade("empty Upgrade", "taOS#636", get("/page", "Upgrade:")),
		likeUpgrade("h2c", "RFC 7540 3.2", get("/page", "Connection: Upgrade, HTTP2-Settings",
			"Upgrade: h2c", "HTTP2-Settings: AAMAAABk")),
		likeUpgrade("Connection: not-upgrade", "x/net and gws answer 101",
			upgrade("GET", "/page", "Connection: not-upgrade")),
		likeUpgrade("key alone", "RFC 6455 11.3.1", get("/page", "sec-websocket-KEY: x")),
		likeUpgrade("protocol alone", "RFC 6455 11.3.4",
			get("/page", "Sec-WebSocket-Protocol: chat")),
		likeUpgrade("extensions alone", "RFC 6455 11.3.2",
			get("/page", "Sec-WebSocket-Extensions: x")),
		likeUpgrade("accept alone", "RFC 6455 11.3.3", get("/page", "Sec-WebSocket-Accept: x")),
		likeUpgrade("a header to come", "RFC 6455 11.3", get("/page", "Sec-WebSocket-Next:")),
		wrongMethod("POST", "RFC 6455 4.1", upgrade("POST", "/page")),
		likeUpgrade("CONNECT", "RFC 9110 9.3.6", rawRequest("CONNECT", "/page")),
		likeUpgrade("the preface of HTTP/2",
			"HOSTILE W31, RFC 9113 3.4: to an h2c handler, a tunnel", "PRI * HTTP/2.0\r\n\r\n"),
		likeUpgrade("key alone, POST", "RFC 6455 11.3.1",
			rawRequest("POST", "/page", "Sec-WebSocket-Key: x")),
		stream("stream", "", get("/page?ticket={T}")),
		refusedStream("stream, used or unknown", "", get("/page?ticket="+strings.Repeat("A", 43))),
		twoTickets("stream, two tickets", "CWE-235", get("/page?ticket={T}&ticket={U}")),
		twoTickets("stream, one ticket and one of another's", "CWE-235",
			get("/page?ticket={T}&ticket=ST-1")),
		notStream("stream, another's ticket", "CAS 3.0 2.5", get("/page?ticket=ST-1")),
		notStream("POST with a ticket", "",
			rawRequest("POST", "/page?ticket={T}", "Content-Length: 0")),
		answers(426, "", true)("stream that resembles an upgrade", "headroom#3281",
			get("/page?ticket={T}", "Upgrade: websocket")),
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
				return
			}
			require.Equal(t, tc.reached, a.reached())
			if tc.reached == "nobody" {
				require.Empty(t, b.rec.Text())
			}
		})
	}
}

// EventSource, <img> and downloads.
func TestGuard_AdmitRequestsAdmitsStreams(t *testing.T) {
	admitted, upgraded := refused(200, "", ""), refused(101, "", "")
	for _, tc := range []refusal{
		admitted("stream", "", get(ws, "Accept: text/event-stream")),
		admitted("stream, name escaped", "RFC 3986 2.1", get("/ws?a=1&%74icket={T}")),
		admitted("stream of the same origin", "WHATWG HTML 9.2",
			get(ws, "Origin: https://app.example")),
		upgraded("upgrade", "", opening()),
		noUpgrade("no ticket", "", get("/ws")),
		noUpgrade("HEAD", "RFC 9110 9.3.2", rawRequest("HEAD", ws)),
		noUpgrade("POST", "RFC 9110 9.3.3", rawRequest("POST", ws, "Content-Length: 0")),
		noUpgrade("ticket in a protocol", "RFC 6455 11.3.4",
			get("/ws", "Sec-WebSocket-Protocol: chat, ticket.{T}")),
		noTicket("empty ticket", "", get("/ws?ticket=")),
		notMinted("malformed ticket", "RFC 4648 5", get("/ws?ticket=a")),
		twoTickets("two tickets", "CWE-235", get("/ws?ticket={T}&ticket={U}")),
		badQuery("semicolon", "golang/go#25192", get("/ws?ticket={T};ticket={U}")),
		badBody("body", "RFC 9110 9.3.1", get(ws, "Content-Length: 2")+"{}"),
		longQuery("long query", "RFC 9110 15.5.15", get(ws+"&"+strings.Repeat("a", 2<<10))),
		badOrigin("another origin", "CVE-2026-34403", get(ws, evilOrigin)),
		noUpgrade("half an upgrade", "headroom#3281", get(ws, "Upgrade: websocket")),
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{AdmitRequests: true})
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != "" {
					accepts(w, r)
					return
				}
				assert.NotContains(t, r.RequestURI+r.URL.String(), "icket")
				whoami(w, r)
			})
			srv := serve(t, b.guard.Wrap(h))
			a := send(t, srv, b.fill(t).Replace(tc.request))
			require.Equal(t, tc.status, a.Status, a)
			if tc.reason == "" {
				require.EqualValues(t, 1, b.store.takes.Load())
				require.Equal(t, "ann", a.reached())
				return
			}
			require.Zero(t, b.store.takes.Load())
			lines := b.rec.Lines(t)
			require.Len(t, lines, 1)
			require.Equal(t, tc.reason, lines[0]["reason"])
		})
	}
}

func TestNewGuard_RefusesBadOriginsAndCopiesOptions(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	_, err := middleware.NewGuard(nil, &middleware.GuardOptions{Origins: []string{
		"https://App.Example", "https://*.example", "https://a@b", "null", "https://ok.example",
	}})
	for _, want := range []string{
		"issuer is nil", `"https://app.example"`, `"https://*.example"`, `"https://a@b"`, `"null"`,
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "ok.example")

	origins := []string{"https://app.example"}
	opts := &middleware.GuardOptions{Origins: origins, RequireOrigin: true}
	guard := must(middleware.NewGuard(b.issuer, opts))
	origins[0], opts.RequireOrigin = "https://evil.example", false // copied before
	srv := serve(t, guard.Wrap(accepts))
	for line, status := range map[string]int{
		"X-No: Origin": 403, evilOrigin: 403, "Origin: http://app.example": 403,
		"Origin: https://app.example": 101, "Origin: https://APP.example:443": 101,
	} {
		assert.Equal(t, status, send(t, srv, upgrade("GET", "/ws?ticket="+b.mint(t), line)).Status,
			line)
	}
}
