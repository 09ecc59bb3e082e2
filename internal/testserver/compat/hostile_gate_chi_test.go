package compat

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Behind chi, or around it, the gate gives the same answers: to a person's page
// load the way to sign in, to a program 401, and 503 where it can't be decided.
func TestHostileGateAndChi(t *testing.T) {
	const (
		page = "Accept: text/html"
		none = `{"error":"unauthenticated","detail":"Unauthorized",` +
			`"reason":"no_session","login_url":"/login`
		ended = `{"error":"session_expired","detail":"Unauthorized",` +
			`"reason":"invalid_or_expired_session","login_url":"/login`
		down     = `{"error":"unavailable","detail":"Service Unavailable"}`
		toSignIn = "/login?next=%2Fadmin"
	)
	for _, around := range []bool{false, true} {
		d := newChiDoors(t, around)
		for _, tc := range []struct {
			name, source, method, target string
			lines                        []string
			status                       int
			body, location               string
			h1                           bool // HTTP/2 has no such request
		}{
			{name: "session", lines: []string{"Cookie: sid=ann"}, status: 200},
			{name: "page", lines: []string{page}, status: 302, location: toSignIn},
			{name: "navigation", source: "Fetch Metadata",
				lines: []string{"Sec-Fetch-Mode: navigate"}, status: 302, location: toSignIn},
			{name: "XHR", source: "Fetch Metadata", lines: []string{page, "Sec-Fetch-Mode: cors"},
				status: 401, body: none},
			{name: "POST", source: "RFC 9110 15.4.3", method: "POST",
				lines: []string{page, "Content-Length: 0"}, status: 401, body: none},
			{name: "API", target: "/api/x", lines: []string{page}, status: 401, body: none},
			{name: "WebSocket", source: "RFC 6455 4.1",
				lines: []string{page, "Connection: Upgrade", "Upgrade: websocket",
					"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
				status: 401, body: none, h1: true},
			{name: "rewritten path",
				source: "GHSA-7x63-xv5r-3p2x, oauth2-proxy#3506, GHSA-6384-m2mw-rf54",
				lines: []string{page, "X-Forwarded-Uri: /login", "X-Original-URL: /login",
					"X-Rewrite-URL: /login", "X-Forwarded-Prefix: /login"},
				status: 302, location: toSignIn},
			{name: "health check", source: "GHSA-5hvv-m4w4-gf6v",
				lines: []string{"User-Agent: GoogleHC/1.0"}, status: 401, body: none},
			{name: "backslash in the cookie", source: "CVE-2026-25748",
				lines: []string{`Cookie: sid=ann\`}, status: 401, body: ended},
			{name: "3,002 cookies", source: "CVE-2025-58186",
				lines:  []string{"Cookie: " + strings.Repeat("a=b; ", 3001) + "sid=ann"},
				status: 401, body: none},
			{name: "nobody's cookie", lines: []string{"Cookie: sid=dead"},
				status: 401, body: ended},
			{name: "look-up fails", lines: []string{page, "Cookie: sid=down"},
				status: 503, body: down},
			{name: "look-up takes too long", lines: []string{page, "Cookie: sid=slow"},
				status: 503, body: down},
			{name: "look-up panics", lines: []string{"Cookie: sid=panic"}, status: 418},
			{name: "look-up panics on a public route", target: "/public/x",
				lines: []string{"Cookie: sid=panic"}, status: 418},
		} {
			if tc.method == "" {
				tc.method = "GET"
			}
			if tc.target == "" {
				tc.target = "/admin"
			}
			for _, over := range []string{"h1", "h2"} {
				if tc.h1 && over == "h2" {
					continue
				}
				name := fmt.Sprintf("around: %v, %s (%s) over %s", around, tc.name, tc.source, over)
				send := d.overH2
				if over == "h1" {
					send = func(
						t *testing.T, method, target string, lines ...string,
					) (int, http.Header, string) {
						return d.raw(t, request(method, target, lines...))
					}
				}
				status, header, body := send(t, tc.method, tc.target, tc.lines...)
				assert.Equal(t, tc.status, status, name)
				assert.Equal(t, tc.location, header.Get("Location"), name)
				assert.True(t, strings.HasPrefix(body, tc.body), "%s: %s", name, body)
				if tc.status == 200 {
					continue
				}
				assert.Empty(t, header.Get("X-Reached"), name)
				if tc.status == 418 {
					continue
				}
				assert.Equal(t, "no-store", header.Get("Cache-Control"), name)
				assert.Equal(t, "Cookie", header.Get("Vary"), name)
				assert.Equal(t, tc.status == 503, header.Get("Retry-After") != "", name)
				assert.NotContains(t, header, "Set-Cookie", name)
			}
		}
		for _, tc := range []struct {
			name, source, request string
			status                int
		}{
			{"HTTP/1.0 without Host", "RFC 9112 3.2", "GET /admin HTTP/1.0\r\n\r\n", 401},
			{"HTTP/1.0 without Host, page", "RFC 9112 3.2",
				"GET /admin HTTP/1.0\r\n" + page + "\r\n\r\n", 302},
			{"HTTP/1.1 without Host", "RFC 9112 3.2", "GET /public/a HTTP/1.1\r\n\r\n", 400},
			{"another host's case", "GHSA-328g-jx67-v94g",
				"GET /admin HTTP/1.1\r\nHost: APP.EXAMPLE\r\n\r\n", 401},
			{"a host with its port", "GHSA-328g-jx67-v94g",
				"GET /admin HTTP/1.1\r\nHost: app.example:443\r\n\r\n", 401},
			{"a host with its dot", "GHSA-328g-jx67-v94g",
				"GET /admin HTTP/1.1\r\nHost: app.example.\r\n\r\n", 401},
			{"malformed escape", "GHSA-68wm-pfjf-wqp6", request("GET", "/public/%zz"), 400},
			{"half an escape", "GHSA-68wm-pfjf-wqp6", request("GET", "/public/%2"), 400},
			{"no slash", "GHSA-68wm-pfjf-wqp6", request("GET", "public/a"), 400},
			{"a space", "RFC 9112 3.2", request("GET", "/public/a b"), 400},
			{"cookie of control characters", "CVE-2026-25748",
				request("GET", "/admin", "Cookie: sid=\x01\x02"), 400},
		} {
			status, header, _ := d.raw(t, tc.request)
			assert.Equal(t, tc.status, status, "around: %v, %s (%s)", around, tc.name, tc.source)
			assert.Empty(t, header.Get("X-Reached"),
				"around: %v, %s (%s)", around, tc.name, tc.source)
		}
	}
}
