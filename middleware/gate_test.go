package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

const (
	html     = "Accept: text/html,application/xhtml+xml;q=0.9"
	navigate = "Sec-Fetch-Mode: navigate"
	cors     = "Sec-Fetch-Mode: cors"
	bodyNone = `{"error":"unauthenticated","detail":"Unauthorized",` +
		`"reason":"no_session","login_url":"/login"}`
	bodyNoLogin = `{"error":"unauthenticated","detail":"Unauthorized","reason":"no_session"}`
	bodyEnded   = `{"error":"session_expired","detail":"Unauthorized",` +
		`"reason":"invalid_or_expired_session","login_url":"/login"}`
	bodyDown = `{"error":"unavailable","detail":"Service Unavailable"}`

	refusedError = `,"error":"session store: connection refused"`
	timeoutError = `,"error":"session store: context deadline exceeded"`
)

func withNext(body, next string) string {
	return strings.Replace(body, `"/login"`, `"/login?next=`+url.QueryEscape(next)+`"`, 1)
}

// line is the audit line of a session that the gate does not accept. path is quoted as in
// JSON.
func line(reason, path, more string) string {
	return `{"event":"session_verify_failure","reason":"` + reason +
		`","ip":"127.0.0.1","path":"` + path + `"` + more + "}\n"
}

// gateRow is a request to a gate, and its answer.
type gateRow struct {
	name, source   string
	method, target string
	lines          []string
	status         int
	body           string // of what is no redirect
	location       string
	audit          string
	h1             bool // HTTP/2 has no such request
	mux            int  // a ServeMux answers so itself, and asks no gate that is in it
}

func (r gateRow) onlyH1() gateRow          { r.h1 = true; return r }
func (r gateRow) inMux(status int) gateRow { r.mux = status; return r }

// gateRows makes the rows of one answer. A target without a method is a GET.
type gateRows = func(name, source, target string, lines ...string) gateRow

func answered(status int, body, location, audit string) gateRows {
	return func(name, source, target string, lines ...string) gateRow {
		method, path, ok := strings.Cut(target, " ")
		if !ok {
			method, path = "GET", target
		}
		return gateRow{name: name, source: source, method: method, target: path, lines: lines,
			status: status, body: body, location: location, audit: audit}
	}
}

func TestGate_AnswersByRequestAndSession(t *testing.T) {
	const expired = "invalid_or_expired_session"
	answers := func(status int, body, audit string) gateRows {
		return answered(status, body, "", audit)
	}
	redirect := func(location string) gateRows { return answered(302, "", location, "") }
	endedAtAPI := answers(401, bodyEnded, line(expired, "/api/a", ""))
	endedPage := answered(302, "", "/login?next=%2Fa", line(expired, "/a", ""))
	badRequest := answers(400, "400 Bad Request", "")
	noneAtPNG := answers(401, withNext(bodyNone, "/a.png"), "")
	none, noneAtA := answers(401, bodyNone, ""), answers(401, withNext(bodyNone, "/a"), "")
	endedAtA := answers(401, withNext(bodyEnded, "/a"), line(expired, "/a", ""))
	toLogin, noWayBack := redirect("/login?next=%2Fa"), redirect("/login")
	down := func(path, why string) gateRows {
		return answers(503, bodyDown, line("unavailable", path, why))
	}
	for _, c := range []gateRow{
		answers(200, "ann /a", "")("session", "", "/a", sid(goodCookie)),
		answers(200, "", "")("session, HEAD", "", "HEAD /a", sid(goodCookie)),
		answers(200, "ann /api/a", "")("session, POST to the API", "", "POST /api/a",
			sid(goodCookie)),
		none("API, none", "wire", "/api/a"),
		none("API, none, as a page", "wire", "/api/a", html, navigate),
		endedAtAPI("API, dead", "wire", "/api/a", sid(unknownCookie)),
		none("API itself is below it", "", "/api/", html),
		redirect("/login?next=%2Fapis")("beside the API", "", "/apis", html),
		redirect("/login?next=%2Fa%3Fx%3D%2Fapi%2F")("the API's prefix in a query",
			"GHSA-7rh7-c77v-6434", "/a?x=/api/", html),
		redirect("/login?next=%2Fa%3Fb%3Dc%26d%3D%2520")("page, none", "wire", "/a?b=c&d=%20",
			html),
		toLogin("page, navigated", "", "/a", navigate),
		toLogin("page, HEAD", "", "HEAD /a", html),
		endedPage("page, dead", "", "/a", html, sid(deadCookie)),
		toLogin("page, accepts in capitals, in a second line", "",
			"/a", "Accept: image/png", "Accept: TEXT/HTML"),
		noneAtA("XHR", "Fetch metadata", "/a", html, cors),
		noneAtPNG("image", "Fetch metadata", "/a.png", html, "Sec-Fetch-Mode: no-cors"),
		noneAtA("two fetch modes", "", "/a", html, navigate, cors),
		noneAtA("nothing said", "", "/a"),
		noneAtA("any type", "", "/a", "Accept: */*"),
		none("POST", "", "POST /a", html, navigate),
		none("OPTIONS", "", "OPTIONS /a", html),
		none("TRACE", "", "TRACE /a", html),
		answers(401, "", "")("HEAD has no body", "", "HEAD /a"),
		none("WebSocket", "RFC 6455 4.1",
			"/a", slices.Concat([]string{html}, handshakeLines)...).onlyH1(),
		none("what only resembles a WebSocket", "", "/a", html, navigate, "Sec-WebSocket-Key: x"),
		down("/a", refusedError)("cannot be decided", "wire", "/a", html, sid(downCookie)),
		down("/api/a", refusedError)("API, cannot be decided", "wire", "/api/a", sid(downCookie)),
		down("/a", timeoutError)("took too long", "", "/a", sid(slowCookie)),
		endedAtA("neither session nor error", "", "/a", sid(unknownCookie)),
		endedAtA("lookup knows none", "", "/a", sid(noneCookie)),
		badRequest("cookie of another kind", "CVE-2026-25748", "/a",
			"Cookie: sid=\x01\x02").onlyH1(),
		endedAtA("cookie with a backslash", "CVE-2026-25748", "/a", `Cookie: sid=`+goodCookie+`\`),
		endedAtA("cookie that is huge", "CVE-2026-25748",
			"/a", sid(goodCookie+strings.Repeat("x", 64<<10))),
		noneAtA("3,002 cookies", "net/http's limit (CVE-2025-58186)",
			"/a", "Cookie: "+strings.Repeat("a=b; ", 3001)+"sid="+goodCookie),
		endedAtA("two that differ", "RFC 6265 8.6", "/a", sid(goodCookie)+"; sid="+unknownCookie),
		toLogin("rewritten path, header", "GHSA-7x63-xv5r-3p2x, GHSA-6384-m2mw-rf54", "/a", html,
			"X-Forwarded-Uri: /login", "X-Original-URL: /login", "X-Rewrite-URL: /login",
			"X-Forwarded-Prefix: /login", "X-Forwarded-Host: evil.example",
			"Forwarded: host=evil.example"),
		noneAtA("health check by its User-Agent", "GHSA-5hvv-m4w4-gf6v",
			"/a", "User-Agent: GoogleHC/1.0"),
		none("method override", "", "POST /a", "X-HTTP-Method-Override: GET", html),
		redirect("/login?next=%2Fa%3Fb")("absolute form", "RFC 9112 3.2.2",
			"http://evil.example/a?b", html).onlyH1(),
		redirect("/login?next=%2F")("absolute form without a path", "RFC 9112 3.2.2",
			"http://evil.example", html).onlyH1().inMux(307),
		noWayBack("asterisk", "RFC 9112 3.2.4", "*", html).inMux(400),
		noWayBack("no way back to another host", "GHSA-j7px-6hwj-hpjg",
			"//evil.example/a", html).inMux(307),
		noWayBack("no way back through a backslash", "GHSA-j7px-6hwj-hpjg", `/\evil.example`, html),
		noWayBack("no way back up", "", "/a/../../b", html).inMux(307),
		noWayBack("no way back to what is too long", "", "/"+strings.Repeat("a", 2<<10), html),
	} {
		t.Run(c.name, func(t *testing.T) {
			gate, rec := newGate(t, middleware.GateOptions{LoginURL: "/login"})
			inMux, aroundMux := http.NewServeMux(), http.NewServeMux()
			inMux.Handle("/", gate.Wrap(whoami))
			aroundMux.Handle("/", whoami)
			all := overBoth(t, gate.Wrap(whoami))
			for _, over := range overBoth(t, gate.Wrap(aroundMux)) {
				all = append(all, transport{over.name + ", around a ServeMux", over.send})
			}
			for _, over := range overBoth(t, inMux) {
				if c.mux == 0 {
					all = append(all, transport{over.name + ", in a ServeMux", over.send})
				} else if !c.h1 || over.name == "h1" {
					a := over.send(t, "GET", c.target, c.lines...)
					assert.Equal(t, c.mux, a.Status, over.name)
					assert.Empty(t, a.reached(), over.name)
				}
			}
			for _, over := range all {
				if c.h1 && strings.HasPrefix(over.name, "h2") {
					continue
				}
				a := over.send(t, c.method, c.target, c.lines...)
				assert.Equal(t, c.status, a.Status, over.name)
				assert.Equal(t, c.location, a.Header.Get("Location"), over.name)
				assert.Equal(t, c.body, a.Body, over.name)
				assert.Equal(t, c.audit, rec.Take(), over.name)
				requireNoSecret(t, over.name, a)
				if c.status == 200 || c.status == 400 {
					continue
				}
				assert.Empty(t, a.reached(), over.name)
				assert.Equal(t, "no-store", a.Header.Get("Cache-Control"), over.name)
				assert.Equal(t, "Cookie", a.Header.Get("Vary"), over.name)
				assert.NotContains(t, a.Header, "Set-Cookie", over.name)
				assert.Equal(t, c.status == 503, a.Header.Get("Retry-After") != "", over.name)
				if c.status != 302 {
					assert.Equal(t, "application/json; charset=utf-8", a.Header.Get("Content-Type"),
						over.name)
				}
			}
		})
	}
}

func TestGate_WithoutLoginURLAPageIs401(t *testing.T) {
	gate, rec := newGate(t, middleware.GateOptions{})
	for _, over := range overBoth(t, gate.Wrap(whoami)) {
		a := over.send(t, "GET", "/login", html, navigate)
		assert.Equal(t, 401, a.Status)
		assert.Equal(t, bodyNoLogin, a.Body)
	}
	assert.Empty(t, rec.Text(), "a page's first request is everyday life")
}

// An API prefix ends at a boundary, written with its slash or without.
func TestGate_APIPrefixEndsAtASlash(t *testing.T) {
	for _, c := range []struct {
		api    []string
		target string
		status int
	}{
		{nil, "/api/x", 401},
		{nil, "/api", 302},
		{[]string{}, "/api/x", 302},
		{[]string{"/rpc"}, "/rpc", 401},
		{[]string{"/rpc"}, "/rpc/x", 401},
		{[]string{"/rpc"}, "/rpcx", 302},
		{[]string{"/rpc", "/v1/"}, "/v1/x", 401},
		{[]string{"/rpc"}, "/RPC/x", 302},
		{[]string{"/"}, "/x", 401},
	} {
		gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", API: c.api})
		a := send(t, serve(t, gate.Wrap(whoami)), get(c.target, html, navigate))
		assert.Equal(t, c.status, a.Status, "%v %s", c.api, c.target)
	}
}

// The answer keeps the headers that the Authenticator set, such as a rotated cookie.
func TestGate_KeepsHeadersOfAuthenticator(t *testing.T) {
	for _, err := range []error{
		nil, middleware.ErrNoSession, middleware.ErrSessionExpired, errDown,
	} {
		rotates := func(w http.ResponseWriter, _ *http.Request) (*middleware.Session, error) {
			w.Header().Add("Set-Cookie", "sid=rotated")
			return ann(), err
		}
		gate, _ := newGateOf(t, middleware.AuthenticatorFunc(rotates),
			middleware.GateOptions{LoginURL: "/login"})
		for _, over := range overBoth(t, gate.Wrap(whoami)) {
			a := over.send(t, "GET", "/")
			assert.Equal(t, []string{"sid=rotated"}, a.Header["Set-Cookie"],
				"%s %v", over.name, err)
			assert.Equal(t, err == nil, a.Status == 200, "%s %v", over.name, err)
		}
	}
}

func TestGate_LoginURLGetsNextParameter(t *testing.T) {
	for _, c := range []struct{ name, login, target, location string }{
		{"has a query", "/login?tenant=a&b", "/x", "/login?tenant=a&b&next=%2Fx"},
		{"has an empty query", "/login?", "/x", "/login?next=%2Fx"},
		{"elsewhere", "https://sso.example/in", "/x?y", "https://sso.example/in?next=%2Fx%3Fy"},
		{"elsewhere, without a path", "https://sso.example", "/", "https://sso.example?next=%2F"},
		{"elsewhere is no public path here", "https://sso.example/in", "/in",
			"https://sso.example/in?next=%2Fin"},
		{"needs escaping", "/log in", "/x", "/log%20in?next=%2Fx"},
	} {
		gate, _ := newGate(t, middleware.GateOptions{LoginURL: c.login})
		a := send(t, serve(t, gate.Wrap(whoami)), get(c.target, html))
		assert.Equal(t, 302, a.Status, c.name)
		assert.Equal(t, c.location, a.Header.Get("Location"), c.name)
	}
}

// A ticket in a page's URL is a credential: the redirect to the sign-in page leaves it out.
func TestGate_RedirectHasNoTicket(t *testing.T) {
	ticket := secretMark + strings.Repeat("x", 43-len(secretMark))
	gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login"})
	for _, over := range overBoth(t, gate.Wrap(whoami)) {
		for _, lines := range [][]string{{html}, {cors}} {
			a := over.send(t, "GET", "/a?b=c&ticket="+ticket+"&d=e", lines...)
			requireNoSecret(t, over.name, a)
			assert.Contains(t, a.String(), "next=%2Fa%3Fb%3Dc%26d%3De", over.name)
		}
		a := over.send(t, "GET", "/a?ticket=ST-1", html)
		assert.Equal(t, "/login?next=%2Fa%3Fticket%3DST-1", a.Header.Get("Location"),
			"the application's own ticket")
	}
}

// Behind the redirect, Next returns the target that the browser asked for.
func TestGate_WayBackIsWhatNextReturns(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login"})
	srv := serve(t, gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, middleware.Next(r))
	})))
	for _, target := range []string{
		"/", "/a", "/a/", "/a/b?c=d&e=f+g%20h", "/a?next=/b", "/%2f/evil", "/%09/evil", "/%C3%A9",
		"/\xc3\xa9", "/a//b", "/a?b=//evil.example", "/a;b=c", "/a:b@c", "/~a!$&'()*+,=|\"",
		"/a?%zz", "/a%26b%3Fc",
	} {
		a := send(t, srv, get(target, html))
		require.Equal(t, 302, a.Status, target)
		a = send(t, srv, get(a.Header.Get("Location"), html))
		assert.Equal(t, target, a.Body)
	}
}

func TestGate_ConnectIs405(t *testing.T) {
	gate, rec := newGate(t, middleware.GateOptions{LoginURL: "/login", Public: []string{"/"}})
	srv := serve(t, gate.Wrap(whoami))
	for _, target := range []string{"/public/../admin", "/login", "h:443", "app.example:80"} {
		for _, session := range []string{unknownCookie, goodCookie} {
			a := send(t, srv, rawRequest("CONNECT", target, sid(session), html))
			assert.Equal(t, 405, a.Status, target)
			assert.Equal(t, errorBody(405, "method_not_allowed"), a.Body, target)
			assert.NotContains(t, a.Header.Get("Allow"), "CONNECT")
			assert.NotEmpty(t, a.Header.Get("Allow"), "RFC 9110 15.5.6")
			assert.Empty(t, a.reached())
			assert.Equal(t, 1, strings.Count(rec.Take(), `"reason":"method"`),
				"every denial is one line")
		}
	}
}

func TestGate_OddRequestsAreNotPublic(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", Public: []string{"/public/"}})
	mux := http.NewServeMux()
	mux.Handle("/", whoami)
	for name, next := range map[string]http.Handler{"alone": whoami, "before a mux": mux} {
		srv := serve(t, gate.Wrap(next))
		for _, c := range []struct {
			name, source, request string
			status                int
		}{
			{"HTTP/1.0 without Host", "RFC 9112 3.2", "GET /a HTTP/1.0\r\n\r\n", 401},
			{"HTTP/1.0 without Host, public", "RFC 9112 3.2", "GET /public/a HTTP/1.0\r\n\r\n",
				200},
			{"HTTP/1.0 without Host, page", "RFC 9112 3.2",
				"GET /a HTTP/1.0\r\n" + html + "\r\n\r\n", 302},
			{"HTTP/1.1 without Host", "RFC 9112 3.2", "GET /public/a HTTP/1.1\r\n\r\n", 400},
			{"malformed escape", "GHSA-68wm-pfjf-wqp6", get("/public/%zz"), 400},
			{"half an escape", "GHSA-68wm-pfjf-wqp6", get("/public/%2"), 400},
			{"no path", "GHSA-68wm-pfjf-wqp6", get("public/a"), 400},
			{"no target", "GHSA-68wm-pfjf-wqp6", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
			{"a space in the target", "RFC 9112 3.2", get("/public/a b"), 400},
			{"another protocol", "", "GET /public/a HTTP/3.0\r\nHost: a\r\n\r\n", 505},
			{"query without path", "", get("http://app.example?/public/"), 401},
			{"server-wide OPTIONS never arrives", "RFC 9110 9.3.7", rawRequest("OPTIONS", "*"),
				200},
		} {
			a := send(t, srv, c.request)
			assert.Equal(t, c.status, a.Status, "%s: %s", name, c.name)
			if !strings.Contains(c.request, "/public/a HTTP/1.0") {
				assert.Empty(t, a.reached(), "%s: %s", name, c.name)
			}
			assert.NotContains(t, a.Header, "X-Injected")
		}
	}
}

// Behind StripPrefix, patterns match the stripped path. Browsers are sent to the path
// that they asked for.
func TestGate_InsideStripPrefixRedirectsToTheWholePath(t *testing.T) {
	stripped := func(prefix, login string, public ...string) http.Handler {
		gate, _ := newGate(t, middleware.GateOptions{LoginURL: login, Public: public})
		mux := http.NewServeMux()
		mux.Handle(prefix+"/", http.StripPrefix(prefix, gate.Wrap(whoami)))
		return mux
	}
	for _, c := range []struct {
		name           string
		h              http.Handler
		target         string
		status         int
		location, body string
	}{
		{"the way back has the prefix", stripped("/app", "/login"), "/app/x?y", 302,
			"/login?next=%2Fapp%2Fx%3Fy", ""},
		{"public is below the prefix", stripped("/app", "/login", "/public/"),
			"/app/public/x", 200, "", "nobody /public/x"},
		{"the sign-in page is where browsers are sent", stripped("/app", "/app/login"),
			"/app/login", 200, "", "nobody /login"},
		{"another page of that name is not it", stripped("/admin", "/login"), "/admin/login", 302,
			"/login?next=%2Fadmin%2Flogin", ""},
		{"the API is what browsers call it", stripped("/api", "/login"), "/api/users",
			401, "", bodyNone},
		{"the API is below the prefix", stripped("/v1", "/login"), "/v1/api/users",
			401, "", bodyNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, over := range overBoth(t, c.h) {
				a := over.send(t, "GET", c.target, html)
				assert.Equal(t, c.status, a.Status, over.name)
				assert.Equal(t, c.location, a.Header.Get("Location"), over.name)
				assert.Equal(t, c.body, a.Body, over.name)
			}
		})
	}
}

// An inner gate authenticates by itself: an outer gate's session is not enough.
func TestGate_InsideGateAuthenticatesByItself(t *testing.T) {
	bearer := middleware.BearerSessions(lookup)
	outer, _ := newGateOf(t, bearer, middleware.GateOptions{})
	inner, _ := newGate(t, middleware.GateOptions{Public: []string{"/public/"}})
	either := middleware.FirstOf(middleware.ContextSessions, cookies())
	both, _ := newGateOf(t, either, middleware.GateOptions{})
	only := "Authorization: Bearer " + goodCookie
	for _, c := range []struct {
		name    string
		inner   *middleware.Gate
		target  string
		lines   []string
		reached string
	}{
		{"the outer one's session alone", inner, "/", []string{only}, ""},
		{"both", inner, "/", []string{only, sid(goodCookie)}, "ann"},
		{"the outer one's session where the inner is public", inner, "/public/", []string{only},
			"nobody"},
		{"dead where the inner is public", inner, "/public/", []string{only, sid(deadCookie)},
			"nobody"},
		{"the context's accepted", both, "/", []string{only}, "ann"},
	} {
		a := send(t, serve(t, outer.Wrap(c.inner.Wrap(whoami))), get(c.target, c.lines...))
		assert.Equal(t, c.reached, a.reached(), c.name)
	}
}

// A panic of the application passes through unchanged.
func TestGate_PanicsPassThrough(t *testing.T) {
	boom := errors.New("boom")
	type options = middleware.GateOptions
	lookup := func(context.Context, string) (*middleware.Session, error) { panic(boom) }
	asks := func(http.ResponseWriter, *http.Request) (*middleware.Session, error) { panic(boom) }
	rejects := func(http.ResponseWriter, *http.Request, *middleware.Rejection) { panic(boom) }
	handles := func(http.ResponseWriter, *http.Request) { panic(boom) }
	byCookie := middleware.CookieSessions("sid", lookup)
	first := middleware.FirstOf(middleware.AuthenticatorFunc(asks), cookies())
	clientIP := options{ClientIP: func(*http.Request) string { panic(boom) }}
	for _, c := range []struct {
		name   string
		a      middleware.Authenticator
		opts   options
		next   http.HandlerFunc
		cookie string
	}{
		{"lookup", byCookie, options{}, whoami, goodCookie},
		{"lookup, on a public route", byCookie, options{Public: []string{"/"}}, whoami, goodCookie},
		{"Authenticator in FirstOf", first, options{}, whoami, goodCookie},
		{"handler", cookies(), options{}, handles, goodCookie},
		{"ClientIP", cookies(), clientIP, whoami, deadCookie},
		{"OnReject", cookies(), options{OnReject: rejects}, whoami, deadCookie},
	} {
		gate, _ := newGateOf(t, c.a, c.opts)
		h := gate.Wrap(c.next)
		a := send(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() == any(boom) {
					w.WriteHeader(http.StatusTeapot)
				}
			}()
			h.ServeHTTP(w, r)
		})), get("/", sid(c.cookie)))
		assert.Equal(t, http.StatusTeapot, a.Status, c.name)
		assert.Empty(t, a.reached(), c.name)
	}
}

// waits is a lookup that blocks until the request ends. It sends to begun first.
func waits(begun chan<- struct{}) func(context.Context, string) (*middleware.Session, error) {
	return func(ctx context.Context, _ string) (*middleware.Session, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, fmt.Errorf("session store: %w", context.Cause(ctx))
	}
}

// A client that has gone leaves no audit line, and neither OnReject nor the handler runs.
func TestGate_ClientGoneIsNoRejection(t *testing.T) {
	begun, done := make(chan struct{}), make(chan struct{})
	var rejected atomic.Int32
	gate, rec := newGateOf(t, middleware.CookieSessions("sid", waits(begun)),
		middleware.GateOptions{
			LoginURL: "/login",
			OnReject: func(http.ResponseWriter, *http.Request, *middleware.Rejection) {
				rejected.Add(1)
			},
		})
	h := gate.Wrap(mustNotRun(t))
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		h.ServeHTTP(w, r)
	}))
	conn := begin(t, srv, get("/", sid(goodCookie)))
	<-begun
	require.NoError(t, conn.Close())
	<-done
	assert.Zero(t, rejected.Load())
	assert.Empty(t, rec.Text())
}

// A client that closed only its sending side still reads. It gets no success.
func TestGate_ClientThatStillReadsGetsNoSuccess(t *testing.T) {
	begun := make(chan struct{})
	gate, _ := newGateOf(t, middleware.CookieSessions("sid", waits(begun)),
		middleware.GateOptions{})
	conn := dial(t, serve(t, gate.Wrap(whoami)))
	request := get("/", sid(goodCookie))
	write(t, conn, request)
	<-begun
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	a, _ := receive(t, conn, request)
	assert.GreaterOrEqual(t, a.Status, 400)
	assert.Empty(t, a.reached())
}

// An outer deadline is answered and audited, unlike a client that has gone.
func TestGate_OuterDeadlineIs503(t *testing.T) {
	waiting := middleware.CookieSessions("sid", waits(make(chan struct{}, 1)))
	gate, rec := newGateOf(t, waiting, middleware.GateOptions{})
	a := send(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Microsecond)
		defer cancel()
		gate.Wrap(whoami).ServeHTTP(w, r.WithContext(ctx))
	})), get("/", sid(goodCookie)))
	assert.Equal(t, 503, a.Status)
	assert.Equal(t, line("unavailable", "/", timeoutError), rec.Text())
}

// The session's last instant is the one before ExpiresAt.
func TestGate_SessionEndsAtExpiresAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ann()
		s.ExpiresAt = time.Now().Add(time.Minute)
		lookup := func(context.Context, string) (*middleware.Session, error) { return s, nil }
		gate, rec := newGateOf(t, middleware.CookieSessions("sid", lookup),
			middleware.GateOptions{})
		r := httptest.NewRequest("GET", "/a", nil)
		r.AddCookie(&http.Cookie{Name: "sid", Value: "x"})
		time.Sleep(time.Minute - 1)
		got, rej := gate.Authenticate(httptest.NewRecorder(), r)
		require.Nil(t, rej)
		require.Same(t, s, got)
		time.Sleep(time.Nanosecond)
		got, rej = gate.Authenticate(httptest.NewRecorder(), r)
		require.Nil(t, got)
		require.Equal(t, "session_expired", rej.Code)
		require.Equal(t, 401, rej.Status)
		require.ErrorIs(t, rej.Err, middleware.ErrSessionExpired)
		require.Equal(t, `{"event":"session_verify_failure","provider":"oidc",`+
			`"reason":"invalid_or_expired_session","ip":"192.0.2.1","path":"/a"}`+"\n", rec.Text())
	})
}

// A session store's error often quotes its key. The audit has the error, without the cookie.
func TestGate_StoreErrorHidesTheCredential(t *testing.T) {
	quotes := func(_ context.Context, value string) (*middleware.Session, error) {
		u := "https://idp.example/introspect?opaque=" + url.QueryEscape(value) + "#" + value
		return nil, &url.Error{Op: "Get", URL: u, Err: errDown}
	}
	for name, c := range map[string]struct {
		a    middleware.Authenticator
		line string
	}{
		"cookie": {middleware.CookieSessions("sid", quotes), sid("a+b/" + secretMark)},
		"bearer": {middleware.BearerSessions(quotes), "Authorization: Bearer a+b/" + secretMark},
		"FirstOf": {middleware.FirstOf(middleware.CookieSessions("sid", quotes)),
			sid("a+b/" + secretMark)},
	} {
		t.Run(name, func(t *testing.T) {
			var seen *middleware.Rejection
			keep := func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
				seen = rej
				rej.ServeHTTP(w, r)
			}
			gate, rec := newGateOf(t, c.a, middleware.GateOptions{OnReject: keep})
			a := send(t, serve(t, gate.Wrap(whoami)), get("/", c.line))
			assert.Equal(t, 503, a.Status)
			assert.Contains(t, rec.Text(), "connection refused", "the operator must learn why")
			assert.NotContains(t, rec.Text(), secretMark, "the audit")
			assert.NotContains(t, a.String(), secretMark, "the answer")
			assert.ErrorIs(t, seen.Err, errDown)
			assert.NotContains(t, fmt.Sprintf("%v %+v", seen.Err, *seen), secretMark,
				"the rejection")
		})
	}
}

// OnReject runs after the audit, with the whole rejection. ServeHTTP gives the default
// answer.
func TestGate_OnRejectRunsAfterTheAudit(t *testing.T) {
	for _, c := range []struct {
		cookie string
		want   middleware.Rejection
		err    error
		lines  int
	}{
		{"", middleware.Rejection{Status: 401, Code: "unauthenticated", Reason: "no_session",
			CloseCode: 4401}, middleware.ErrNoSession, 0},
		{unknownCookie, middleware.Rejection{Status: 401, Code: "session_expired",
			Reason: "invalid_or_expired_session", CloseCode: 4401},
			middleware.ErrSessionExpired, 1},
		{downCookie, middleware.Rejection{Status: 503, Code: "unavailable", Reason: "unavailable",
			CloseCode: 1013}, errDown, 1},
	} {
		log, rec := newAudit()
		opts := middleware.GateOptions{LoginURL: "/login", Audit: log}
		plain, _ := newGate(t, opts)
		opts.OnReject = func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
			assert.Len(t, rec.Lines(t), c.lines, "audited before it is called")
			assert.Equal(t, c.want.Status, rej.Status)
			assert.Equal(t, c.want.Code, rej.Code)
			assert.Equal(t, c.want.Reason, rej.Reason)
			assert.Equal(t, c.want.CloseCode, rej.CloseCode)
			assert.Equal(t, rej.Status == 503, rej.RetryAfter > 0)
			assert.ErrorIs(t, rej.Err, c.err)
			requireNoSecret(t, "the rejection", *rej)
			w.Header().Set("X-Mine", "1")
			rej.ServeHTTP(w, r)
		}
		hooked, _ := newGate(t, opts)
		for _, accept := range []string{html, "Accept: */*"} {
			rec.Take()
			a := send(t, serve(t, hooked.Wrap(whoami)), get("/x", accept, sid(c.cookie)))
			b := send(t, serve(t, plain.Wrap(whoami)), get("/x", accept, sid(c.cookie)))
			assert.Equal(t, "1", a.Header.Get("X-Mine"))
			a.Header.Del("X-Mine")
			a.Header.Del("Date")
			b.Header.Del("Date")
			assert.Equal(t, b, a)
		}
	}
}

// Authenticate decides as Wrap does.
func TestGate_AuthenticateDecidesAsWrap(t *testing.T) {
	gate, rec := newGate(t,
		middleware.GateOptions{LoginURL: "/login", Public: []string{"/public/"}})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, rej := gate.Authenticate(w, r)
		switch {
		case rej != nil:
			rej.ServeHTTP(w, r)
		case s != nil:
			whoami(w, r.WithContext(middleware.WithSession(r.Context(), s)))
		default:
			whoami(w, r)
		}
	}))
	for _, c := range []struct {
		target, cookie, reached string
		status, lines           int
	}{
		{"/x", goodCookie, "ann", 200, 0},
		{"/x", "", "", 302, 0},
		{"/x", unknownCookie, "", 302, 1},
		{"/x", downCookie, "", 503, 1},
		{"/public/x", "", "nobody", 200, 0},
		{"/public/x", goodCookie, "ann", 200, 0},
	} {
		a := send(t, srv, get(c.target, html, sid(c.cookie)))
		assert.Equal(t, c.status, a.Status, c)
		assert.Equal(t, c.reached, a.reached(), c)
		assert.Equal(t, c.lines, strings.Count(rec.Take(), "\n"), c)
	}
}

// The audit has the address that ClientIP returns.
func TestGate_AuditHasClientIP(t *testing.T) {
	client := func(r *http.Request) string { return r.Header.Get("X-Client") }
	gate, rec := newGate(t, middleware.GateOptions{ClientIP: client})
	for _, over := range overBoth(t, gate.Wrap(whoami)) {
		over.send(t, "GET", "/a\"b", sid(deadCookie), "X-Client: 203.0.113.9")
		assert.Equal(t, []map[string]any{{
			"event": "session_verify_failure", "reason": "invalid_or_expired_session",
			"ip": "203.0.113.9", "path": `/a"b`,
		}}, rec.Lines(t))
		rec.Take()
	}
}

// A gate without an Audit uses the default one, and answers.
func TestGate_WithoutAuditStillAnswers(t *testing.T) {
	gate := must(middleware.NewGate(cookies(), nil))
	a := send(t, serve(t, gate.Wrap(whoami)), get("/"))
	assert.Equal(t, bodyNoLogin, a.Body)
	a = send(t, serve(t, gate.Wrap(whoami)), get("/", sid(goodCookie)))
	assert.Equal(t, "ann", a.reached())
}

// NewGate reports every fault at once, and what is right.
func TestNewGate_ReportsAllFaults(t *testing.T) {
	_, err := middleware.NewGate(
		middleware.FirstOf(nil, middleware.CookieSessions("s d", nil),
			middleware.BearerSessions(nil), middleware.FirstOf()),
		&middleware.GateOptions{
			LoginURL: "login",
			API:      []string{"api/", "/ok/", ""},
			Public:   []string{"/ok/", "static", "GET", "/{", "/a/{x}/{x}", "/same", "/same"},
		})
	require.Error(t, err)
	for _, part := range []string{
		"middleware.NewGate: ",
		"FirstOf[0]: the Authenticator is nil", `CookieSessions: cookie name "s d"`,
		"CookieSessions: ", "lookup is nil",
		"BearerSessions: ", "FirstOf[3]: FirstOf: no Authenticator given",
		`LoginURL: "login": want a path such as /login`,
		`API: "api/": want a path prefix`, `API: ""`,
		`Public: "static": want an http.ServeMux pattern`, `Public: "GET"`, `Public: "/{"`,
		`Public: "/a/{x}/{x}"`, `Public: "/same"`,
	} {
		assert.ErrorContains(t, err, part)
	}
	assert.NotContains(t, err.Error(), `"/ok/"`)
}

func TestNewGate_RefusesBadOptions(t *testing.T) {
	type row struct {
		name string
		a    middleware.Authenticator
		opts middleware.GateOptions
		want string
	}
	sessions := func(name string, a middleware.Authenticator, want string) row {
		return row{name, a, middleware.GateOptions{}, want}
	}
	login := func(name, url, want string) row {
		return row{name, cookies(), middleware.GateOptions{LoginURL: url}, want}
	}
	for _, c := range []row{
		sessions("no Authenticator", nil, "the Authenticator is nil"),
		sessions("a nil function", middleware.AuthenticatorFunc(nil), "nil"),
		sessions("a nil function in FirstOf",
			middleware.FirstOf(cookies(), middleware.AuthenticatorFunc(nil)), "FirstOf[1]"),
		sessions("no cookie name", middleware.CookieSessions("", lookup), `cookie name ""`),
		sessions("a cookie name that is no token", middleware.CookieSessions("a;b", lookup),
			`cookie name "a;b"`),
		sessions("no lookup", middleware.CookieSessions("sid", nil), "lookup is nil"),
		login("LoginURL with a fragment", "/login#top", "fragment"),
		login("LoginURL without a scheme", "//sso.example/", "LoginURL"),
		login("LoginURL with a backslash", `/\sso.example`, "LoginURL"),
		login("LoginURL of a script", "javascript:alert(1)", "LoginURL"),
		login("LoginURL with a user", "https://u:p@sso.example/", "LoginURL"),
		login("LoginURL that is not clean", "/a/../login", "LoginURL"),
		login("LoginURL with a needless escape", "/log%69n", "as in /login"),
		login("LoginURL with a newline", "/login\n", "LoginURL"),
		login("LoginURL without a host", "https://:443/", "LoginURL"),
		login("LoginURL that has a way back already", "/login?next=/home", "next"),
	} {
		_, err := middleware.NewGate(c.a, &c.opts)
		if assert.Error(t, err, c.name) {
			assert.ErrorContains(t, err, c.want, c.name)
			assert.ErrorContains(t, err, "middleware.NewGate: ", c.name)
		}
	}
}

// Options are copied: later changes have no effect.
func TestNewGate_CopiesOptions(t *testing.T) {
	opts := middleware.GateOptions{LoginURL: "/login", API: []string{"/rpc/"},
		Public: []string{"/public/"}}
	as := []middleware.Authenticator{cookies()}
	gate := must(middleware.NewGate(middleware.FirstOf(as...), &opts))
	opts.API[0], opts.Public[0], opts.LoginURL, as[0] = "/", "/", "https://evil.example/", nil
	srv := serve(t, gate.Wrap(whoami))
	assert.Equal(t, "/login?next=%2Fx", send(t, srv, get("/x", html)).Header.Get("Location"))
	assert.Equal(t, 401, send(t, srv, get("/rpc/x", html)).Status)
	assert.Equal(t, 302, send(t, srv, get("/api/x", html)).Status, "API given is the whole list")
	assert.Equal(t, 200, send(t, srv, get("/public/x", html)).Status)
}

// A 405 of the Gate names what a CONNECT may be instead: a Gate stands before more than GET.
func TestGate_AllowOfConnectHasAllMethods(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{})
	a := send(t, serve(t, gate.Wrap(whoami)), rawRequest("CONNECT", "/"))
	assert.Equal(t, 405, a.Status)
	assert.Equal(t, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", a.Header.Get("Allow"))
}
