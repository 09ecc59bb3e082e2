package compat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// chiDoors are all doors behind chi, which routes by the path as it was sent and cleans nothing.
type chiDoors struct {
	issuer *tickets.Issuer
	lines  *lines
	h1, h2 *httptest.Server
}

// newChiDoors puts the gate around the router, or into it.
func newChiDoors(t *testing.T, around bool) *chiDoors {
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil),
		&tickets.IssuerOptions{MaxPerSession: 1000}))
	d := &chiDoors{issuer: issuer, lines: &lines{}}
	log := audit.New(d.lines)
	clientIP := middleware.ForwardedFor(netip.MustParsePrefix("127.0.0.1/32"),
		netip.MustParsePrefix("10.0.0.0/8"))
	lookUp := func(_ context.Context, value string) (*middleware.Session, error) {
		switch value {
		case "ann":
			return &middleware.Session{ID: "ann's", Provider: "test", UserID: "ann"}, nil
		case "down":
			return nil, errors.New("connection refused")
		case "slow":
			return nil, context.DeadlineExceeded
		case "panic":
			panic(errBoom)
		}
		return nil, nil
	}
	sessions := middleware.CookieSessions("sid", lookUp)
	gate := must(middleware.NewGate(sessions, &middleware.GateOptions{
		LoginURL: "/login", Public: []string{"/public/", "/ws"}, Audit: log, ClientIP: clientIP}))
	mint := must(middleware.NewMint(d.issuer,
		&middleware.MintOptions{Audit: log, ClientIP: clientIP}))
	guard := must(middleware.NewGuard(d.issuer,
		&middleware.GuardOptions{Audit: log, ClientIP: clientIP}))
	reached := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if s, ok := middleware.SessionFrom(r.Context()); ok {
			who = s.UserID
		}
		w.Header().Set("X-Reached", who)
	})
	r := chi.NewRouter()
	r.Use(middleware.ConcealTicket)
	if !around {
		r.Use(gate.Wrap)
	}
	r.Handle("/api/auth/ws-ticket", mint)
	r.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		reached(w, r)
		_, _ = io.WriteString(w, middleware.Next(r))
	})
	r.Handle("/public/*", reached)
	r.With(guard.Wrap).Handle("/ws", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"+
			"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	}))
	r.Handle("/*", reached)
	var h http.Handler = r
	if around {
		h = gate.Wrap(r)
	}
	h = recovers(h)
	d.h1, d.h2 = httptest.NewServer(h), httptest.NewUnstartedServer(h)
	d.h2.EnableHTTP2 = true
	d.h2.StartTLS()
	t.Cleanup(func() {
		d.h1.Close()
		d.h2.Close()
		assert.NoError(t, d.issuer.Close())
	})
	return d
}

var errBoom = errors.New("boom")

// recovers is an application's own recovery, which answers 418 to what it knows.
func recovers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() == any(errBoom) {
				w.WriteHeader(http.StatusTeapot)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// raw sends bytes as they stand and returns the status and the rest of the answer.
func (d *chiDoors) raw(t *testing.T, request string) (int, http.Header, string) {
	t.Helper()
	return rawTo(t, d.h1, request)
}

func rawTo(t *testing.T, server *httptest.Server, request string) (int, http.Header, string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	require.NoError(t, err, "%q", request)
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res.StatusCode, res.Header, ""
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, string(body)
}

// overH2 sends a request whose path goes out as it stands. Header lines are as in
// request.
func (d *chiDoors) overH2(
	t *testing.T, method, target string, lines ...string,
) (int, http.Header, string) {
	t.Helper()
	r := (&http.Request{
		Method: method, Host: "app.example", Header: make(http.Header),
		URL: &url.URL{
			Scheme: "https", Host: d.h2.Listener.Addr().String(), Opaque: "//app.example" + target},
	}).WithContext(t.Context())
	for _, line := range lines {
		field, value, _ := strings.Cut(line, ": ")
		r.Header.Add(field, value)
	}
	res, err := d.h2.Client().Transport.RoundTrip(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, 2, res.ProtoMajor)
	return res.StatusCode, res.Header, string(body)
}

// refusals are the reasons of all that the guard has refused so far.
func (d *chiDoors) refusals() (reasons []any) {
	d.lines.mu.Lock()
	defer d.lines.mu.Unlock()
	for _, line := range d.lines.all {
		if line["event"] == "ws_ticket_rejected" ||
			line["event"] == "ws_upgrade_refused" && line["reason"] != "upgrade_failed" {
			reasons = append(reasons, line["reason"])
		}
	}
	return reasons
}

func request(method, target string, lines ...string) string {
	lines = append([]string{method + " " + target + " HTTP/1.1", "Host: app.example"}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// Behind chi, or around it, what is not public by its plain path is for who has a session.
func TestHostilePathsAndChi(t *testing.T) {
	for _, around := range []bool{false, true} {
		d := newChiDoors(t, around)
		for _, tc := range []struct {
			source, target string
			public, h1     bool
		}{
			{target: "/public/a", public: true},
			{target: "/login?next=/a", public: true},
			{target: "/public/a%40b.png", public: true},
			{target: "/public/%C3%BC.png", public: true},
			{source: "HOSTILE G26", target: "/%6cogin"},
			{source: "HOSTILE G26", target: "/p%75blic/a"},
			{source: "HOSTILE G26", target: "/public/%252e%252e/x"},
			{source: "no prefix without a boundary", target: "/public"},
			{source: "no prefix without a boundary", target: "/publicity"},
			{source: "no prefix without a boundary", target: "/login/"},
			{source: "CVE-2025-47910", target: "/public/../admin"},
			{source: "ServeMux would redirect", target: "//login"},
			{source: "ServeMux would redirect", target: "/login/."},
			{source: "ServeMux would redirect", target: "/public/./x"},
			{source: "GHSA-xf64-8mw2-4gr2", target: "/public/%2e%2e/admin"},
			{source: "GHSA-xf64-8mw2-4gr2", target: "/%2e%2e/login"},
			{source: "GHSA-gm3x-23wp-hc2c", target: "/public%2f..%2fadmin"},
			{source: "GHSA-vrch-868g-9jx5", target: "/public/..%2fadmin"},
			{source: "backslashes of other systems", target: `/public/..\admin`},
			{source: "backslashes of other systems", target: "/public/..%5cadmin"},
			{source: "path parameters, CVE-2020-5902", target: "/public/..;/admin"},
			{source: "overlong UTF-8, CVE-2000-0884", target: "/public/%c0%ae%c0%ae/admin"},
			{source: "NUL cuts a C string", target: "/login%00"},
			{source: "trimmed by others", target: "/login%20"},
			{source: "trimmed by others", target: "/login%09"},
			{source: "CWE-113", target: "/login%0d%0aX-Injected:1"},
			{source: "GHSA-pxq7-h93f-9jrg", target: "/login#x", h1: true},
			{source: "GHSA-pxq7-h93f-9jrg", target: "/login%23x"},
			{source: "GHSA-pxq7-h93f-9jrg", target: "/login%3fx"},
			{source: "GHSA-7rh7-c77v-6434", target: "/admin?x=/public/"},
			{source: "RFC 9112 3.2.2", target: "http://evil.example/admin", h1: true},
			{source: "RFC 9112 3.2.4", target: "*", h1: true},
		} {
			status, header, _ := d.raw(t, request("GET", tc.target,
				"X-Original-URL: /login", "X-Forwarded-Prefix: /public", "X-Rewrite-URL: /login"))
			assert.Equal(t, tc.public, header.Get("X-Reached") != "",
				"around: %v, %s (%s): %d", around, tc.target, tc.source, status)
			assert.NotContains(t, header, "X-Injected")
			if !tc.h1 {
				status, header, _ = d.overH2(t, "GET", tc.target, "X-Original-Url: /login")
				assert.Equal(t, tc.public, header.Get("X-Reached") != "",
					"around: %v, %s (%s) over h2: %d", around, tc.target, tc.source, status)
			}
		}
		for _, target := range []string{"/public/../admin", "/login", "app.example:443"} {
			status, header, _ := d.raw(t, request("CONNECT", target, "Cookie: sid=ann"))
			assert.Equal(t, 405, status, "RFC 9110 9.3.6: %s", target)
			assert.Empty(t, header.Get("X-Reached"))
		}
		for cookie, want := range map[string]int{
			"": 401, "ann": 200, "dead": 401, "down": 503, "ann; sid=bob": 401} {
			status, _, _ := d.raw(t,
				request("POST", "/admin", "Content-Length: 0", "Cookie: sid="+cookie))
			assert.Equal(t, want, status, cookie)
		}
	}
}

func TestHostileUpgradesAndChi(t *testing.T) {
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	good := []string{
		"Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key}
	without := func(n int, more ...string) []string {
		return append(append(append([]string{}, good[:n]...), good[n+1:]...), more...)
	}
	for _, around := range []bool{false, true} {
		d := newChiDoors(t, around)
		ticket := func() string {
			grant := tickets.Grant{SessionID: "ann's", Provider: "test", UserID: "ann"}
			return string(must(d.issuer.Mint(t.Context(), grant)))
		}
		for _, tc := range []struct {
			name, source, method, target string
			lines                        []string
			status                       int
			reason                       string
		}{
			{"good", "RFC 6455 4.1", "GET", "/ws?ticket={T}", good, 101, ""},
			{"name escaped", "RFC 3986 2.1", "GET", "/ws?%74icket={T}", good, 101, ""},
			{"in the protocol", "RFC 6455 11.3.4", "GET", "/ws",
				without(4-1, key, "Sec-WebSocket-Protocol: chat, ticket.{T}"), 101, ""},
			{"none", "RFC 9110 15.5.2", "GET", "/ws", good, 401, "no_ticket"},
			{"another case", "RFC 3986 6.2.2.1", "GET", "/ws?TICKET={T}", good, 401, "no_ticket"},
			{"two", "CWE-235", "GET", "/ws?ticket={T}&%74icket={T}", good, 400, "two_tickets"},
			{"semicolon", "golang/go#25192", "GET", "/ws?ticket={T};ticket=b", good, 400, "query"},
			{"escaped &", "RFC 3986 2.2", "GET", "/ws?ticket=a%26ticket={T}", good, 401, "unknown"},
			{"long", "RFC 9110 15.5.15", "GET", "/ws?ticket={T}&a=" + strings.Repeat("a", 2048),
				good, 414, "query"},
			{"plain GET", "RFC 6455 4.2.1", "GET", "/ws?ticket={T}", nil, 426, "not_upgrade"},
			{"only Connection", "headroom#3281", "GET", "/ws?ticket={T}",
				without(1), 426, "not_upgrade"},
			{"only Upgrade", "traefik-modsecurity-plugin#6", "GET", "/ws?ticket={T}",
				without(0), 426, "not_upgrade"},
			{"not-upgrade", "x/net and gws answer 101", "GET", "/ws?ticket={T}",
				without(0, "Connection: not-upgrade"), 426, "not_upgrade"},
			{"POST", "RFC 6455 4.1", "POST", "/ws?ticket={T}",
				without(1, "Upgrade: websocket", "Content-Length: 0"), 405, "method"},
			{"version 8", "RFC 6455 4.4", "GET", "/ws?ticket={T}",
				without(2, "Sec-WebSocket-Version: 8"), 426, "version"},
			{"no key", "RFC 6455 4.2.1", "GET", "/ws?ticket={T}", without(3), 400, "key"},
			{"body", "RFC 9110 9.3.1", "GET", "/ws?ticket={T}",
				without(3, key, "Content-Length: 1"), 400, "body"},
			{"null", "ASVS 4.4.2", "GET", "/ws?ticket={T}",
				without(3, key, "Origin: null"), 403, "origin"},
			{"suffix", "CVE-2026-34403", "GET", "/ws?ticket={T}",
				without(3, key, "Origin: https://app.example.evil"), 403, "origin"},
		} {
			name := fmt.Sprintf("around: %v, %s (%s)", around, tc.name, tc.source)
			fresh := ticket()
			before := len(d.refusals())
			raw := strings.ReplaceAll(request(tc.method, tc.target, tc.lines...), "{T}", fresh)
			if tc.reason == "body" {
				raw += "x"
			}
			status, _, body := d.raw(t, raw)
			assert.Equal(t, tc.status, status, "%s: %s", name, body)
			if _, err := d.issuer.Consume(t.Context(), tickets.Ticket(fresh)); tc.status == 101 {
				assert.ErrorIs(t, err, tickets.ErrUsed, name)
				continue
			} else {
				assert.NoError(t, err, name)
			}
			if reasons := d.refusals(); assert.Len(t, reasons, before+1, name) {
				assert.Equal(t, tc.reason, reasons[before], name)
			}
		}
		status, _, _ := d.overH2(t, "GET", "/ws?ticket="+ticket())
		assert.Equal(t, 426, status)
	}
}

func TestHostileMintNextAndAddressAndChi(t *testing.T) {
	const path = "/api/auth/ws-ticket"
	d := newChiDoors(t, false)
	for _, tc := range []struct {
		name, source, method string
		lines                []string
		status               int
	}{
		{"good", "", "POST", []string{"Origin: http://app.example"}, 200},
		{"no Origin", "RFC 6454 7.3", "POST", nil, 200},
		{"GET", "exempt from CrossOriginProtection", "GET", nil, 405},
		{"HEAD", "exempt from CrossOriginProtection", "HEAD", nil, 405},
		{"OPTIONS", "exempt from CrossOriginProtection", "OPTIONS", nil, 405},
		{"cross-site", "Fetch Metadata", "POST", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"same-site", "a sibling domain", "POST", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"null", "RFC 6454 6.1", "POST", []string{"Origin: null"}, 403},
		{"another", "ASVS 4.4.2", "POST", []string{"Origin: https://evil.example"}, 403},
	} {
		lines := append(tc.lines, "Content-Length: 0", "Cookie: sid=ann")
		status, _, body := d.raw(t, request(tc.method, path, lines...))
		assert.Equal(t, tc.status, status, "%s (%s)", tc.name, tc.source)
		assert.Equal(t, tc.status == 200, strings.Contains(body, `"ticket"`), tc.name)
	}
	status, _, body := d.raw(t, request("POST", path, "Content-Length: 0"))
	assert.Equal(t, 401, status)
	assert.NotContains(t, body, `"ticket"`)

	for value, want := range map[string]string{
		"/a?b#c": "/a?b#c", "//evil.example": "/", `/\evil.example`: "/", "/\t/evil.example": "/",
		"https:evil.example": "/", "javascript:alert(1)": "/", "/a/..//evil.example": "/",
		"/%2e//evil.example": "/", "/login": "/", "/ok\r\nSet-Cookie: a=b": "/",
	} {
		_, header, body := d.raw(t, request("GET", "/login?next="+url.QueryEscape(value)))
		assert.Equal(t, want, body, "%q", value)
		assert.NotContains(t, header, "Set-Cookie")
	}

	for forwarded, want := range map[string]string{
		"203.0.113.9": "203.0.113.9", "198.51.100.1, 203.0.113.9, 10.0.0.2": "203.0.113.9",
		"203.0.113.9, garbage": "", "": "",
	} {
		_, _, _ = d.raw(t,
			request("GET", "/admin", "Cookie: sid=dead", "X-Forwarded-For: "+forwarded))
		all := d.lines.of("session_verify_failure")
		assert.Equal(t, want, all[len(all)-1]["ip"], "oauth2-proxy#3506: %q", forwarded)
	}
}
