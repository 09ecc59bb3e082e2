package middleware_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// upgrade is a raw WebSocket handshake that differs from a good one: a line
// takes the place of the good one of its name, "-Name" leaves it out.
func upgrade(method, target string, lines ...string) string {
	changed := func(name string) bool {
		for _, line := range lines {
			n, _, _ := strings.Cut(strings.TrimPrefix(line, "-"), ":")
			if strings.EqualFold(n, name) {
				return true
			}
		}
		return false
	}
	var all []string
	for _, line := range []string{
		"Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	} {
		if name, _, _ := strings.Cut(line, ":"); !changed(name) {
			all = append(all, line)
		}
	}
	for _, line := range lines {
		if line[0] != '-' {
			all = append(all, line)
		}
	}
	return rawRequest(method, target, all...)
}

// refusal is a request that a guard must turn away. {T} and {U} stand for fresh
// tickets, {ID} for what the audit calls the first.
type refusal struct {
	name, source string
	request      string
	status       int
	code, reason string
	more         string // the audit line's further fields
	path         string // in the audit, if it is not /ws
	only         string // "tls" or "plain"; "" is both
}

const ws = "/ws?ticket={T}"

// badHandshakes are refused before any ticket is looked at.
var badHandshakes = []refusal{
	{name: "plain GET", source: "RFC 6455 4.2.1", request: get(ws), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "only Connection", source: "headroom#3281", request: upgrade("GET", ws, "-Upgrade"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "only Upgrade", source: "traefik-modsecurity-plugin#6", request: upgrade("GET", ws, "-Connection"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Connection: not-upgrade", source: "x/net and gws answer 101", request: upgrade("GET", ws, "Connection: not-upgrade"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Connection: upgraded", source: "like not-upgrade", request: upgrade("GET", ws, "Connection: upgraded, keep-alive"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Connection in quotes", source: "RFC 9110 5.6.2", request: upgrade("GET", ws, `Connection: "upgrade"`), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Upgrade: websockets", source: "RFC 6455 4.2.1", request: upgrade("GET", ws, "Upgrade: websockets"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Upgrade: websocket/13", source: "RFC 9110 7.8", request: upgrade("GET", ws, "Upgrade: websocket/13"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Upgrade: h2c", source: "RFC 7540 3.2", request: upgrade("GET", ws, "Upgrade: h2c"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "Upgrade: websocket, h2c", source: "HOSTILE W31: Traefik CVE-2026-88008", request: upgrade("GET", ws, "Upgrade: websocket, h2c"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "Upgrade: h2c, websocket", source: "HOSTILE W31: nginx#1472", request: upgrade("GET", ws, "Upgrade: h2c,websocket"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "Upgrade on two lines", source: "HOSTILE W31", request: upgrade("GET", ws, "Upgrade: websocket", "Upgrade: h2c"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "Upgrade on two lines, h2c first", source: "HOSTILE W31", request: upgrade("GET", ws, "Upgrade: h2c", "Upgrade: websocket"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "Upgrade: websocket, websocket", source: "RFC 6455 4.2.1", request: upgrade("GET", ws, "Upgrade: websocket, websocket"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "HTTP2-Settings beside it", source: "HOSTILE W31: RFC 7540 3.2.1", request: upgrade("GET", ws, "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "empty HTTP2-Settings", source: "HOSTILE W31", request: upgrade("GET", ws, "HTTP2-Settings:"), status: 400, code: "bad_request", reason: "not_upgrade"},
	{name: "Upgrade is empty", source: "taOS#636", request: upgrade("GET", ws, "Upgrade:"), status: 426, code: "upgrade_required", reason: "not_upgrade"},
	{name: "CONNECT to a host", source: "RFC 9110 9.3.6", request: rawRequest("CONNECT", "app.example:443"), status: 426, code: "upgrade_required", reason: "not_upgrade", path: "-"},
	{name: "CONNECT with a path", source: "RFC 8441 over HTTP/1.1", request: rawRequest("CONNECT", ws, ":protocol: websocket"), status: 400},
	{name: "CONNECT upgrade", source: "RFC 6455 4.2.1", request: upgrade("CONNECT", ws), status: 405, code: "method_not_allowed", reason: "method"},
	{name: "POST", source: "RFC 6455 4.1", request: upgrade("POST", ws), status: 405, code: "method_not_allowed", reason: "method"},
	{name: "HEAD", source: "RFC 6455 4.1", request: upgrade("HEAD", ws), status: 405, code: "method_not_allowed", reason: "method"},
	{name: "OPTIONS", source: "RFC 6455 4.1", request: upgrade("OPTIONS", ws), status: 405, code: "method_not_allowed", reason: "method"},
	{name: "get", source: "RFC 9110 9.1", request: upgrade("get", ws), status: 405, code: "method_not_allowed", reason: "method"},
	{name: "HTTP/1.0", source: "RFC 9110 7.8", request: strings.Replace(upgrade("GET", ws), "HTTP/1.1", "HTTP/1.0", 1), status: 505, code: "http_version_not_supported", reason: "version"},
	{name: "version 8", source: "RFC 6455 4.4", request: upgrade("GET", ws, "Sec-WebSocket-Version: 8"), status: 426, code: "upgrade_required", reason: "version"},
	{name: "no version", source: "RFC 6455 4.4", request: upgrade("GET", ws, "-Sec-WebSocket-Version"), status: 426, code: "upgrade_required", reason: "version"},
	{name: "version 13, 8", source: "RFC 6455 4.4", request: upgrade("GET", ws, "Sec-WebSocket-Version: 13, 8"), status: 426, code: "upgrade_required", reason: "version"},
	{name: "two versions", source: "RFC 6455 11.3.5", request: upgrade("GET", ws, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"), status: 426, code: "upgrade_required", reason: "version"},
	{name: "no key", source: "RFC 6455 4.2.1", request: upgrade("GET", ws, "-Sec-WebSocket-Key"), status: 400, code: "bad_request", reason: "key"},
	{name: "empty key", source: "RFC 6455 4.2.1", request: upgrade("GET", ws, "Sec-WebSocket-Key:"), status: 400, code: "bad_request", reason: "key"},
	{name: "two keys", source: "RFC 6455 11.3.1", request: upgrade("GET", ws, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), status: 400, code: "bad_request", reason: "key"},
	{name: "key of 15 bytes", source: "RFC 6455 4.1", request: upgrade("GET", ws, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"), status: 400, code: "bad_request", reason: "key"},
	{name: "key of 17 bytes", source: "RFC 6455 4.1", request: upgrade("GET", ws, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXM="), status: 400, code: "bad_request", reason: "key"},
	{name: "key of 24 characters and no base64", source: "RFC 6455 4.1", request: upgrade("GET", ws, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!!=="), status: 400, code: "bad_request", reason: "key"},
	{name: "semicolon", source: "golang/go#25192", request: upgrade("GET", "/ws?ticket={T};ticket=b"), status: 400, code: "bad_request", reason: "query"},
	{name: "semicolon behind", source: "golang/go#25192", request: upgrade("GET", ws+"&a;b"), status: 400, code: "bad_request", reason: "query"},
	{name: "bad escape", source: "RFC 3986 2.1", request: upgrade("GET", ws+"&a=%zz"), status: 400, code: "bad_request", reason: "query"},
	{name: "cut escape", source: "RFC 3986 2.1", request: upgrade("GET", ws+"%"), status: 400, code: "bad_request", reason: "query"},
	{name: "2,049 bytes of query", source: "RFC 9110 15.5.15", request: upgrade("GET", "/ws?"+fullQuery(2049)), status: 414, code: "uri_too_long", reason: "query"},
	{name: "10,001 parameters", source: "GODEBUG urlmaxqueryparams", request: upgrade("GET", ws+strings.Repeat("&a", 10_000)), status: 414, code: "uri_too_long", reason: "query"},
	{name: "900 KB of query", source: "RFC 9110 15.5.15", request: upgrade("GET", ws+"&a="+strings.Repeat("x", 900<<10)), status: 414, code: "uri_too_long", reason: "query"},
	{name: "body", source: "RFC 9110 9.3.1", request: upgrade("GET", ws, "Content-Length: 5") + "hello", status: 400, code: "bad_request", reason: "body"},
	{name: "body that never comes", source: "RFC 9110 9.3.1", request: upgrade("GET", ws, "Content-Length: 5", "Expect: 100-continue"), status: 400, code: "bad_request", reason: "body"},
	{name: "chunked body", source: "RFC 9112 7.1", request: upgrade("GET", ws, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", status: 400, code: "bad_request", reason: "body"},
	{name: "empty chunked body", source: "RFC 9112 7.1", request: upgrade("GET", ws, "Transfer-Encoding: chunked") + "0\r\n\r\n", status: 400, code: "bad_request", reason: "body"},
	{name: "length and chunks", source: "RFC 9112 6.3", request: upgrade("GET", ws, "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n", status: 400, code: "bad_request", reason: "body"},
	// What net/http answers by itself; a guard must never see these.
	{name: "two lengths", source: "RFC 9112 6.3", request: upgrade("GET", ws, "Content-Length: 5, 6"), status: 400},
	{name: "signed length", source: "RFC 9112 6.3", request: upgrade("GET", ws, "Content-Length: +5"), status: 400},
	{name: "space before the colon", source: "RFC 9112 5.1", request: upgrade("GET", ws, "Transfer-Encoding : chunked"), status: 400},
	{name: "xchunked", source: "RFC 9112 6.1", request: upgrade("GET", ws, "Transfer-Encoding: xchunked"), status: 501},
	{name: "NUL in a header", source: "RFC 9110 5.5", request: upgrade("GET", ws, "X-A: a\x00b"), status: 400},
	{name: "bare CR in a header", source: "RFC 9110 5.5", request: upgrade("GET", ws, "X-A: a\rOrigin: b"), status: 400},
	{name: "folded line", source: "RFC 9112 5.2", request: upgrade("GET", ws, "Transfer-Encoding: chunked\r\n , gzip"), status: 501},
	{name: "folded first line", source: "RFC 9112 2.2", request: strings.Replace(upgrade("GET", ws), "Host:", " Host:", 1), status: 400},
	{name: "lines that end in LF alone, and a body", source: "RFC 9112 2.2", request: strings.ReplaceAll(upgrade("GET", ws, "Content-Length: 5"), "\r\n", "\n") + "hello", status: 400, code: "bad_request", reason: "body"},
	{name: "userinfo in Host", source: "RFC 9110 4.2.4", request: strings.Replace(upgrade("GET", ws), "app.example", "h@evil.example", 1), status: 400},
	{name: "two hosts", source: "RFC 9112 3.2", request: upgrade("GET", ws, "Host: b.example"), status: 400},
	{name: "host with a space", source: "RFC 9112 3.2", request: strings.Replace(upgrade("GET", ws), "app.example", "a b", 1), status: 400},

	{name: "Origin: null", source: "ASVS 4.4.2", request: upgrade("GET", ws, "Origin: null"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"null"`},
	{name: "empty Origin", source: "ASVS 4.4.2", request: upgrade("GET", ws, "Origin:"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":""`},
	{name: "another host", source: "CVE-2026-34403", request: upgrade("GET", ws, "Origin: https://evil.example"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://evil.example"`},
	{name: "host with a suffix", source: "CVE-2026-34403", request: upgrade("GET", ws, "Origin: https://app.example.evil"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://app.example.evil"`},
	{name: "host with a prefix", source: "CVE-2026-34403", request: upgrade("GET", ws, "Origin: https://evilapp.example"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://evilapp.example"`},
	{name: "another port", source: "RFC 6454 4", request: upgrade("GET", ws, "Origin: https://app.example:8443"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://app.example:8443"`},
	{name: "two Origins", source: "RFC 6454 7.3", request: upgrade("GET", ws, "Origin: https://app.example", "Origin: https://evil.example"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://app.example, https://evil.example"`},
	{name: "userinfo", source: "RFC 6454 6.2", request: upgrade("GET", ws, "Origin: https://app.example@evil.example"), status: 403, code: "forbidden", reason: "origin"},
	{name: "http on TLS", source: "RFC 6454 4", only: "tls", request: upgrade("GET", ws, "Origin: http://app.example"), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"http://app.example"`},
	{name: "port out of range", source: "net/http accepts it in Host", request: strings.Replace(upgrade("GET", ws, "Origin: https://h:99999"), "app.example", "h:99999", 1), status: 403, code: "forbidden", reason: "origin", more: `,"origin":"https://h:99999"`},

	{name: "the ticket's protocol alone", source: "RFC 6455 4.1", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: ticket.{T}"), status: 400, code: "bad_request", reason: "key"},
}

// fullQuery is a good query of so many bytes.
func fullQuery(size int) string {
	const start = "ticket={T}&a=" // of which the ticket will take 43
	return start + strings.Repeat("x", size-(len(start)-len("{T}")+43))
}

// badTickets never reach the store.
var badTickets = []refusal{
	{name: "no ticket", source: "RFC 9110 15.5.2", request: upgrade("GET", "/ws"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "empty", source: "no value is no ticket", request: upgrade("GET", "/ws?ticket="), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "name alone", source: "like empty", request: upgrade("GET", "/ws?ticket"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "empty protocol", source: "like empty", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: chat, ticket."), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "TICKET", source: "RFC 3986 6.2.2.1", request: upgrade("GET", "/ws?TICKET={T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "ticket[]", source: "PHP's and Rails' arrays", request: upgrade("GET", "/ws?ticket[]={T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "??", source: "RFC 3986 3.4", request: upgrade("GET", "/ws??ticket={T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "escaped twice", source: "CWE-174", request: upgrade("GET", "/ws?%2574icket={T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "Ticket. in the protocol", source: "RFC 6455 4.1: case matters", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: chat, Ticket.{T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},
	{name: "in other places", source: "no ambient credential", request: upgrade("GET", "/ws", "Cookie: ticket={T}", "X-Ticket: {T}", "Ticket: {T}", "Authorization: Bearer {T}", "Referer: https://app.example/?ticket={T}"), status: 401, code: "ticket_rejected", reason: "no_ticket"},

	{name: "two", source: "CWE-235", request: upgrade("GET", "/ws?ticket={T}&ticket={U}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "twice the same", source: "CWE-235", request: upgrade("GET", "/ws?ticket={T}&ticket={T}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "two, one escaped", source: "CWE-235", request: upgrade("GET", "/ws?ticket={T}&%74icket={U}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "two, one empty", source: "CWE-235", request: upgrade("GET", "/ws?ticket=&ticket={T}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "two in the protocol", source: "CWE-235", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: ticket.{T}, chat, ticket.{U}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "two protocol lines", source: "CWE-235", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: chat, ticket.{T}", "Sec-WebSocket-Protocol: ticket.{U}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "one of each", source: "CWE-235", request: upgrade("GET", "/ws?ticket={T}", "Sec-WebSocket-Protocol: chat, ticket.{T}"), status: 400, code: "bad_request", reason: "two_tickets"},
	{name: "one of each, one empty", source: "CWE-235", request: upgrade("GET", "/ws?ticket={T}", "Sec-WebSocket-Protocol: chat, ticket."), status: 400, code: "bad_request", reason: "two_tickets"},

	malformed("a", "a", "short"),
	malformed("%00", "\x00", "NUL"),
	malformed("{T}%00", "{T}\x00", "NUL behind"),
	malformed("{T}%0d%0aX-A:%20b", "{T}\r\nX-A: b", "line break behind"),
	malformed("{T}+", "{T} ", "space behind"),
	malformed("%20{T}", " {T}", "space before"),
	malformed("{T}=", "{T}=", "padding"),
	malformed("{T}x", "{T}x", "44 characters"),
	malformed("%C3%A9%F0%9F%98%80%FF", "\u00e9\U0001f600\xff", "outside ASCII"),
	malformed(strings.Repeat("%2B", 43), strings.Repeat("+", 43), "the other base64"),
	malformed(strings.Repeat("%0A", 43), strings.Repeat("\n", 43), "line breaks, which decoders skip"),
	malformed("a#b", "a#b", "fragment"),
	malformed("a%26ticket={T}", "a&ticket={T}", "escaped &"),
	malformed("{T}%2C{U}", "{T},{U}", "list"),
	malformed("{T2}", "{T2}", "another spelling of the same bytes"),
}

func malformed(escaped, value, name string) refusal {
	return refusal{
		name: name, source: "RFC 4648 5", request: upgrade("GET", "/ws?ticket="+escaped),
		status: 401, code: "ticket_rejected", reason: "unknown", more: `,"ticket_id":"{ID:` + value + `}"`,
	}
}

func TestGuard_RefusalLeavesTicketValid(t *testing.T) {
	for _, name := range []string{"plain", "tls", "plain behind ServeMux", "tls behind ServeMux"} {
		b := newBed(t, middleware.GuardOptions{}) // each has an audit of its own, which suppresses repeats
		h := b.guard.Wrap(accepts)
		if strings.HasSuffix(name, "ServeMux") {
			mux := http.NewServeMux()
			mux.Handle("/ws", h)
			h = mux
		}
		srv := serve(t, h)
		if strings.HasPrefix(name, "tls") {
			srv = serveTLS(t, h)
		}
		for _, tc := range append(append([]refusal{}, badHandshakes...), badTickets...) {
			if !strings.HasPrefix(name, tc.only) || tc.path == "-" && name != "plain" && name != "tls" { // ServeMux has no route without a path
				continue
			}
			t.Run(name+"/"+tc.name+" ("+tc.source+")", func(t *testing.T) {
				takes := b.store.takes.Load()
				f := b.fill(t)
				b.rec.Take()
				a := send(t, srv, f.Replace(tc.request))
				line := b.rec.Take()
				requireRefusal(t, tc, a, strings.HasPrefix(tc.request, "HEAD"))
				switch {
				case tc.code == "": // net/http's own answer
					assert.Empty(t, line)
				case tc.more == "" && tc.reason == "origin": // masked by the audit
					assert.Contains(t, line, `"reason":"origin"`)
				default:
					assert.Equal(t, auditLine(tc, f.Replace), line)
				}
				require.Equal(t, takes, b.store.takes.Load(), "the store was asked")
				for _, ticket := range []string{"{T}", "{U}"} {
					_, err := b.issuer.Consume(t.Context(), tickets.Ticket(f.Replace(ticket)))
					require.NoError(t, err, "the refusal has spent the ticket")
				}
			})
		}
	}
}

// requireRefusal holds an answer to the wire contract, byte for byte.
func requireRefusal(t *testing.T, tc refusal, a answer, head bool) {
	t.Helper()
	require.Equal(t, tc.status, a.Status, a)
	if tc.code == "" {
		return
	}
	if head {
		assert.Empty(t, a.Body)
	} else {
		assert.Equal(t, fmt.Sprintf(`{"error":"%s","detail":"%s"}`, tc.code, http.StatusText(tc.status)), a.Body)
	}
	want := map[string]string{
		"Cache-Control": "no-store", "Content-Type": "application/json; charset=utf-8",
		"Upgrade": "", "Sec-Websocket-Version": "", "Allow": "", "Retry-After": "",
		"Location": "", "Set-Cookie": "", "Sec-Websocket-Accept": "", "X-Reached": "",
	}
	switch tc.status {
	case http.StatusUpgradeRequired:
		want["Upgrade"] = "websocket"
		if tc.reason == "version" {
			want["Sec-Websocket-Version"] = "13"
		}
	case http.StatusMethodNotAllowed:
		want["Allow"] = "GET"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		want["Retry-After"] = a.Header.Get("Retry-After")
		assert.Regexp(t, `^[1-9][0-9]?$`, want["Retry-After"])
	}
	for name, value := range want {
		assert.Equal(t, value, a.Header.Get(name), name)
	}
}

// auditLine is the one line that a refusal must leave.
func auditLine(tc refusal, fill func(string) string) string {
	event, path := "ws_upgrade_refused", "/ws"
	switch tc.reason {
	case "no_ticket", "two_tickets", "unknown", "used", "expired", "revoked", "endpoint", "session", "store":
		event = "ws_ticket_rejected"
	}
	if tc.path != "" {
		path = strings.TrimPrefix(tc.path, "-")
	}
	more := tc.more
	if before, value, ok := strings.Cut(more, "{ID:"); ok {
		value, after, _ := strings.Cut(value, `}"`)
		more = before + ticketID(fill(value)) + `"` + after
	}
	return fmt.Sprintf(`{"event":"%s","reason":"%s","ip":"127.0.0.1","path":"%s"%s}`+"\n", event, tc.reason, path, more)
}

// Every way to say it that RFC 9110 and RFC 6455 allow.
func TestGuard_AdmitsEverySpelling(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	h := b.guard.Wrap(accepts)
	escaped := func(ticket string) string { return fmt.Sprintf("%%%02X", ticket[0]) + ticket[1:] }
	for name, srv := range map[string]*httptest.Server{"plain": serve(t, h), "tls": serveTLS(t, h)} {
		for _, tc := range []struct{ name, source, request, only string }{
			{name: "as browsers do", source: "RFC 6455 1.2", request: upgrade("GET", ws, "Connection: keep-alive, Upgrade", "Origin: https://app.example")},
			{name: "two Connection lines", source: "RFC 9110 5.3", request: upgrade("GET", ws, "Connection: keep-alive", "Connection: Upgrade")},
			{name: "tabs and case", source: "RFC 9110 5.6.3", request: upgrade("GET", ws, "Connection:\tkeep-alive\t,\tuPGRADE\t", "Upgrade:\tWebSocket\t", "Sec-WebSocket-Version:\t13\t")},
			{name: "empty list elements", source: "RFC 9110 5.6.1", request: upgrade("GET", ws, "Connection: , ,Upgrade,", "Upgrade: ,websocket")},
			{name: "nominated headers", source: "envoy#44525", request: upgrade("GET", ws, "Connection: Upgrade, Authorization, Origin, Sec-WebSocket-Key")},
			{name: "length 0", source: "RFC 9110 8.6", request: upgrade("GET", ws, "Content-Length: 0")},
			{name: "absolute form", source: "RFC 9112 3.2.2", request: upgrade("GET", "http://app.example"+ws)},
			{name: "name escaped", source: "RFC 3986 2.1", request: upgrade("GET", "/ws?%74ic%6bet={T}")},
			{name: "value escaped", source: "RFC 3986 2.1", request: upgrade("GET", "/ws?ticket={E}")},
			{name: "among others", source: "WHATWG URL 5.1", request: upgrade("GET", "/ws?room=1&&=&ticket={T}&TICKET=b&xticket=c&room=2")},
			{name: "2,048 bytes of query", source: "RFC 9110 15.5.15", request: upgrade("GET", "/ws?"+fullQuery(2048))},
			{name: "protocol", source: "RFC 6455 11.3.4", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: chat, ticket.{T}")},
			{name: "protocol, first", source: "RFC 6455 11.3.4", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: ticket.{T},chat")},
			{name: "protocol, tabs", source: "RFC 9110 5.6.1", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol:\t,chat\t,\tticket.{T}\t,")},
			{name: "protocol, two lines", source: "RFC 6455 11.3.4", request: upgrade("GET", "/ws", "Sec-WebSocket-Protocol: ticket.{T}", "Sec-WebSocket-Protocol: chat")},
			{name: "no Origin", source: "RFC 6455 4.2.1: not a browser", request: upgrade("GET", ws)},
			{name: "Origin in capitals", source: "golang/go CrossOriginProtection compares bytes", request: upgrade("GET", ws, "Origin: HTTPS://APP.example")},
			{name: "default port", source: "RFC 6454 4", request: upgrade("GET", ws, "Origin: https://app.example:443")},
			{name: "default port in Host", source: "RFC 9110 4.2.3", request: strings.Replace(upgrade("GET", ws, "Origin: https://app.example"), "Host: app", "Host: APP", 1)},
			{name: "TLS ended in front", source: "RFC 6454 4", only: "plain", request: upgrade("GET", ws, "Origin: http://app.example")},
		} {
			if tc.only != "" && tc.only != name {
				continue
			}
			t.Run(name+"/"+tc.name+" ("+tc.source+")", func(t *testing.T) {
				f, ticket := b.fill(t), b.mint(t)
				request := strings.ReplaceAll(f.Replace(tc.request), "{E}", escaped(ticket))
				a := send(t, srv, request)
				require.Equal(t, http.StatusSwitchingProtocols, a.Status, a)
				require.Equal(t, "ann", a.reached())
				a = send(t, srv, request)
				require.Equal(t, http.StatusUnauthorized, a.Status, "the ticket was good twice")
			})
		}
	}
}

// What a client sends behind its handshake, without waiting for the answer, is
// the WebSocket library's (RFC 6455 section 4.1 forbids it; some do it).
func TestGuard_LeavesPipelinedBytes(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	const frame = "\x81\x85\x01\x02\x03\x04igoh{" // masked text
	for _, hijack := range []struct {
		name string
		by   func(http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error)
	}{
		{"http.Hijacker", func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) { return w.(http.Hijacker).Hijack() }},
		{"http.ResponseController", func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
			return http.NewResponseController(w).Hijack()
		}},
	} {
		t.Run(hijack.name, func(t *testing.T) {
			srv := serve(t, b.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, rw, err := hijack.by(w)
				if !assert.NoError(t, err) {
					return
				}
				defer conn.Close()
				got := make([]byte, len(frame)+1)
				_, err = io.ReadFull(rw, got)
				assert.NoError(t, err)
				fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Got: %x\r\n\r\n", got)
				assert.NoError(t, rw.Flush())
			})))
			conn := dial(t, srv)
			request := upgrade("GET", "/ws?ticket="+b.mint(t))
			_, err := io.WriteString(conn, request+frame)
			require.NoError(t, err)
			_, err = io.WriteString(conn, "\x89") // and one more that may come later
			require.NoError(t, err)
			a, _ := receive(t, conn, request)
			require.Equal(t, fmt.Sprintf("%x", frame+"\x89"), a.Header.Get("X-Got"))
		})
	}
}
