package middleware_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// The answers of badHandshakes and badTickets.
var (
	noUpgrade  = refused(426, "upgrade_required", "not_upgrade")
	ambiguous  = refused(400, "bad_request", "not_upgrade")
	badMethod  = refused(405, "method_not_allowed", "method")
	badHTTP    = refused(505, "http_version_not_supported", "version")
	badVersion = refused(426, "upgrade_required", "version")
	badKey     = refused(400, "bad_request", "key")
	badQuery   = refused(400, "bad_request", "query")
	longQuery  = refused(414, "uri_too_long", "query")
	badBody    = refused(400, "bad_request", "body")
	badOrigin  = refused(403, "forbidden", "origin")
	noTicket   = refused(401, "ticket_rejected", "no_ticket")
	twoTickets = refused(400, "bad_request", "two_tickets")
	notMinted  = refused(401, "ticket_rejected", "unknown")

	// What net/http answers by itself; a guard must never see these.
	notParsed, badCoding = refused(400, "", ""), refused(501, "", "")
)

// foreign is a handshake of a page of these origins. The audit has them.
func foreign(name, source string, origins ...string) refusal {
	var lines []string
	for _, o := range origins {
		lines = append(lines, strings.TrimRight("Origin: "+o, " "))
	}
	row := badOrigin(name, source, opening(lines...))
	row.more = `,"origin":"` + strings.Join(origins, ", ") + `"`
	return row
}

// malformed is an upgrade with a malformed ticket.
func malformed(escaped, value, name string) refusal {
	row := notMinted(name, "RFC 4648 5", upgrade("GET", "/ws?ticket="+escaped))
	row.more = `,"ticket_id":"{ID:` + value + `}"`
	return row
}

// fullQuery is a good query of so many bytes.
func fullQuery(size int) string {
	const start = "ticket={T}&a=" // of which the ticket will take 43
	return start + strings.Repeat("x", size-(len(start)-len("{T}")+43))
}

// refusals are all requests that a guard refuses before it asks the store.
var refusals = slices.Concat(badHandshakes, badTickets)

// badHandshakes are refused before any ticket is looked at.
var badHandshakes = []refusal{
	noUpgrade("plain GET", "RFC 6455 4.2.1", get(ws)),
	noUpgrade("only Connection", "headroom#3281", opening("-Upgrade")),
	noUpgrade("only Upgrade", "traefik-modsecurity-plugin#6", opening("-Connection")),
	noUpgrade("Connection: not-upgrade", "x/net and gws answer 101",
		opening("Connection: not-upgrade")),
	noUpgrade("Connection: upgraded", "like not-upgrade",
		opening("Connection: upgraded, keep-alive")),
	noUpgrade("Connection in quotes", "RFC 9110 5.6.2", opening(`Connection: "upgrade"`)),
	noUpgrade("Upgrade: websockets", "RFC 6455 4.2.1", opening("Upgrade: websockets")),
	noUpgrade("Upgrade: websocket/13", "RFC 9110 7.8", opening("Upgrade: websocket/13")),
	noUpgrade("Upgrade: h2c", "RFC 7540 3.2", opening("Upgrade: h2c")),
	ambiguous("Upgrade: websocket, h2c", "HOSTILE W31: Traefik CVE-2026-88008",
		opening("Upgrade: websocket, h2c")),
	ambiguous("Upgrade: h2c, websocket", "HOSTILE W31: nginx#1472",
		opening("Upgrade: h2c,websocket")),
	ambiguous("Upgrade on two lines", "HOSTILE W31", opening("Upgrade: websocket", "Upgrade: h2c")),
	ambiguous("Upgrade on two lines, h2c first", "HOSTILE W31",
		opening("Upgrade: h2c", "Upgrade: websocket")),
	ambiguous("Upgrade: websocket, websocket", "RFC 6455 4.2.1",
		opening("Upgrade: websocket, websocket")),
	ambiguous("HTTP2-Settings beside it", "HOSTILE W31: RFC 7540 3.2.1",
		opening("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")),
	ambiguous("empty HTTP2-Settings", "HOSTILE W31", opening("HTTP2-Settings:")),
	noUpgrade("Upgrade is empty", "taOS#636", opening("Upgrade:")),
	noUpgrade("CONNECT to a host", "RFC 9110 9.3.6",
		rawRequest("CONNECT", "app.example:443")).at("-"),
	notParsed("CONNECT with a path", "RFC 8441 over HTTP/1.1",
		rawRequest("CONNECT", ws, ":protocol: websocket")),
	badMethod("CONNECT upgrade", "RFC 6455 4.2.1", upgrade("CONNECT", ws)),
	badMethod("POST", "RFC 6455 4.1", upgrade("POST", ws)),
	badMethod("HEAD", "RFC 6455 4.1", upgrade("HEAD", ws)),
	badMethod("OPTIONS", "RFC 6455 4.1", upgrade("OPTIONS", ws)),
	badMethod("get", "RFC 9110 9.1", upgrade("get", ws)),
	badHTTP("HTTP/1.0", "RFC 9110 7.8", strings.Replace(opening(), "HTTP/1.1", "HTTP/1.0", 1)),
	badVersion("version 8", "RFC 6455 4.4", opening("Sec-WebSocket-Version: 8")),
	badVersion("no version", "RFC 6455 4.4", opening("-Sec-WebSocket-Version")),
	badVersion("version 13, 8", "RFC 6455 4.4", opening("Sec-WebSocket-Version: 13, 8")),
	badVersion("two versions", "RFC 6455 11.3.5",
		opening("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13")),
	badKey("no key", "RFC 6455 4.2.1", opening("-Sec-WebSocket-Key")),
	badKey("empty key", "RFC 6455 4.2.1", opening("Sec-WebSocket-Key:")),
	badKey("two keys", "RFC 6455 11.3.1", opening(goodKey, goodKey)),
	badKey("key of 15 bytes", "RFC 6455 4.1", opening("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j")),
	badKey("key of 17 bytes", "RFC 6455 4.1",
		opening("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXM=")),
	badKey("key of 24 characters and no base64", "RFC 6455 4.1",
		opening("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!!==")),
	badQuery("semicolon", "golang/go#25192", upgrade("GET", "/ws?ticket={T};ticket=b")),
	badQuery("semicolon behind", "golang/go#25192", upgrade("GET", ws+"&a;b")),
	badQuery("bad escape", "RFC 3986 2.1", upgrade("GET", ws+"&a=%zz")),
	badQuery("cut escape", "RFC 3986 2.1", upgrade("GET", ws+"%")),
	longQuery("2,049 bytes of query", "RFC 9110 15.5.15", upgrade("GET", "/ws?"+fullQuery(2049))),
	longQuery("10,001 parameters", "GODEBUG urlmaxqueryparams",
		upgrade("GET", ws+strings.Repeat("&a", 10_000))),
	longQuery("900 KB of query", "RFC 9110 15.5.15",
		upgrade("GET", ws+"&a="+strings.Repeat("x", 900<<10))),
	badBody("body", "RFC 9110 9.3.1", opening("Content-Length: 5")+"hello"),
	badBody("body that never comes", "RFC 9110 9.3.1",
		opening("Content-Length: 5", "Expect: 100-continue")),
	badBody("chunked body", "RFC 9112 7.1", opening(chunked)+"5\r\nhello\r\n0\r\n\r\n"),
	badBody("empty chunked body", "RFC 9112 7.1", opening(chunked)+"0\r\n\r\n"),
	badBody("length and chunks", "RFC 9112 6.3", opening("Content-Length: 5", chunked)+"0\r\n\r\n"),
	notParsed("two lengths", "RFC 9112 6.3", opening("Content-Length: 5, 6")),
	notParsed("signed length", "RFC 9112 6.3", opening("Content-Length: +5")),
	notParsed("space before the colon", "RFC 9112 5.1", opening("Transfer-Encoding : chunked")),
	badCoding("xchunked", "RFC 9112 6.1", opening("Transfer-Encoding: xchunked")),
	notParsed("NUL in a header", "RFC 9110 5.5", opening("X-A: a\x00b")),
	notParsed("bare CR in a header", "RFC 9110 5.5", opening("X-A: a\rOrigin: b")),
	badCoding("folded line", "RFC 9112 5.2", opening("Transfer-Encoding: chunked\r\n , gzip")),
	notParsed("folded first line", "RFC 9112 2.2",
		strings.Replace(opening(), "Host:", " Host:", 1)),
	badBody("lines that end in LF alone, and a body", "RFC 9112 2.2",
		strings.ReplaceAll(opening("Content-Length: 5"), "\r\n", "\n")+"hello"),
	notParsed("userinfo in Host", "RFC 9110 4.2.4", opening()).to("h@evil.example"),
	notParsed("two hosts", "RFC 9112 3.2", opening("Host: b.example")),
	notParsed("host with a space", "RFC 9112 3.2", opening()).to("a b"),
	foreign("Origin: null", "ASVS 4.4.2", "null"),
	foreign("empty Origin", "ASVS 4.4.2", ""),
	foreign("another host", "CVE-2026-34403", "https://evil.example"),
	foreign("host with a suffix", "CVE-2026-34403", "https://app.example.evil"),
	foreign("host with a prefix", "CVE-2026-34403", "https://evilapp.example"),
	foreign("another port", "RFC 6454 4", "https://app.example:8443"),
	foreign("two Origins", "RFC 6454 7.3", "https://app.example", "https://evil.example"),
	badOrigin("userinfo", "RFC 6454 6.2", opening("Origin: https://app.example@evil.example")),
	foreign("http on TLS", "RFC 6454 4", "http://app.example").over("tls"),
	foreign("port out of range", "net/http accepts it in Host", "https://h:99999").to("h:99999"),
	badKey("the ticket's protocol alone", "RFC 6455 4.1", offering("ticket.{T}")),
}

// badTickets never reach the store.
var badTickets = []refusal{
	noTicket("no ticket", "RFC 9110 15.5.2", upgrade("GET", "/ws")),
	noTicket("empty", "no value is no ticket", upgrade("GET", "/ws?ticket=")),
	noTicket("name alone", "like empty", upgrade("GET", "/ws?ticket")),
	noTicket("empty protocol", "like empty", offering("chat, ticket.")),
	noTicket("TICKET", "RFC 3986 6.2.2.1", upgrade("GET", "/ws?TICKET={T}")),
	noTicket("ticket[]", "PHP's and Rails' arrays", upgrade("GET", "/ws?ticket[]={T}")),
	noTicket("??", "RFC 3986 3.4", upgrade("GET", "/ws??ticket={T}")),
	noTicket("escaped twice", "CWE-174", upgrade("GET", "/ws?%2574icket={T}")),
	noTicket("Ticket. in the protocol", "RFC 6455 4.1: case matters", offering("chat, Ticket.{T}")),
	noTicket("in other places", "no ambient credential", upgrade("GET", "/ws",
		"Cookie: ticket={T}", "X-Ticket: {T}", "Ticket: {T}", "Authorization: Bearer {T}",
		"Referer: https://app.example/?ticket={T}")),
	twoTickets("two", "CWE-235", upgrade("GET", "/ws?ticket={T}&ticket={U}")),
	twoTickets("twice the same", "CWE-235", upgrade("GET", "/ws?ticket={T}&ticket={T}")),
	twoTickets("two, one escaped", "CWE-235", upgrade("GET", "/ws?ticket={T}&%74icket={U}")),
	twoTickets("two, one empty", "CWE-235", upgrade("GET", "/ws?ticket=&ticket={T}")),
	twoTickets("two in the protocol", "CWE-235", offering("ticket.{T}, chat, ticket.{U}")),
	twoTickets("two protocol lines", "CWE-235", offering("chat, ticket.{T}", "ticket.{U}")),
	twoTickets("one of each", "CWE-235", opening("Sec-WebSocket-Protocol: chat, ticket.{T}")),
	twoTickets("one of each, one empty", "CWE-235",
		opening("Sec-WebSocket-Protocol: chat, ticket.")),
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
	malformed(strings.Repeat("%0A", 43), strings.Repeat("\n", 43),
		"line breaks, which decoders skip"),
	malformed("a#b", "a#b", "fragment"),
	malformed("a%26ticket={T}", "a&ticket={T}", "escaped &"),
	malformed("{T}%2C{U}", "{T},{U}", "list"),
	malformed("{T2}", "{T2}", "another spelling of the same bytes"),
}

func TestGuard_RefusalLeavesTicketValid(t *testing.T) {
	for _, name := range []string{"plain", "tls", "plain behind ServeMux", "tls behind ServeMux"} {
		b := newBed(t, middleware.GuardOptions{}) // an audit of its own: it suppresses repeats
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
		for _, tc := range refusals {
			// A ServeMux routes by the path.
			noRoute := tc.path == "-" && strings.HasSuffix(name, "ServeMux")
			if noRoute || !strings.HasPrefix(name, tc.only) {
				continue
			}
			t.Run(name+"/"+tc.name+" ("+tc.source+")", func(t *testing.T) {
				takes := b.store.takes.Load()
				f := b.fill(t)
				b.rec.Take()
				a := send(t, srv, f.Replace(tc.request))
				line := b.rec.Take()
				requireRefusal(t, tc, a)
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

// Every spelling of a handshake that RFC 9110 and RFC 6455 allow is admitted.
func TestGuard_AdmitsEverySpelling(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	h := b.guard.Wrap(accepts)
	ok := refused(101, "", "")
	escaped := func(ticket string) string { return fmt.Sprintf("%%%02X", ticket[0]) + ticket[1:] }
	for name, srv := range map[string]*httptest.Server{
		"plain": serve(t, h), "tls": serveTLS(t, h),
	} {
		for _, tc := range []refusal{
			ok("as browsers do", "RFC 6455 1.2",
				opening("Connection: keep-alive, Upgrade", "Origin: https://app.example")),
			ok("two Connection lines", "RFC 9110 5.3",
				opening("Connection: keep-alive", "Connection: Upgrade")),
			ok("tabs and case", "RFC 9110 5.6.3", opening("Connection:\tkeep-alive\t,\tuPGRADE\t",
				"Upgrade:\tWebSocket\t", "Sec-WebSocket-Version:\t13\t")),
			ok("empty list elements", "RFC 9110 5.6.1",
				opening("Connection: , ,Upgrade,", "Upgrade: ,websocket")),
			ok("nominated headers", "envoy#44525",
				opening("Connection: Upgrade, Authorization, Origin, Sec-WebSocket-Key")),
			ok("length 0", "RFC 9110 8.6", opening("Content-Length: 0")),
			ok("absolute form", "RFC 9112 3.2.2", upgrade("GET", "http://app.example"+ws)),
			ok("name escaped", "RFC 3986 2.1", upgrade("GET", "/ws?%74ic%6bet={T}")),
			ok("value escaped", "RFC 3986 2.1", upgrade("GET", "/ws?ticket={E}")),
			ok("among others", "WHATWG URL 5.1",
				upgrade("GET", "/ws?room=1&&=&ticket={T}&TICKET=b&xticket=c&room=2")),
			ok("2,048 bytes of query", "RFC 9110 15.5.15", upgrade("GET", "/ws?"+fullQuery(2048))),
			ok("protocol", "RFC 6455 11.3.4", offering("chat, ticket.{T}")),
			ok("protocol, first", "RFC 6455 11.3.4", offering("ticket.{T},chat")),
			ok("protocol, tabs", "RFC 9110 5.6.1",
				upgrade("GET", "/ws", "Sec-WebSocket-Protocol:\t,chat\t,\tticket.{T}\t,")),
			ok("protocol, two lines", "RFC 6455 11.3.4", offering("ticket.{T}", "chat")),
			ok("no Origin", "RFC 6455 4.2.1: not a browser", opening()),
			ok("Origin in capitals", "golang/go CrossOriginProtection compares bytes",
				opening("Origin: HTTPS://APP.example")),
			ok("default port", "RFC 6454 4", opening("Origin: https://app.example:443")),
			ok("default port in Host", "RFC 9110 4.2.3",
				strings.Replace(opening("Origin: https://app.example"),
					"Host: app", "Host: APP", 1)),
			ok("TLS ended in front", "RFC 6454 4",
				opening("Origin: http://app.example")).over("plain"),
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

// Bytes behind a handshake are left for the WebSocket library. RFC 6455 section 4.1 forbids
// them, and some clients send them.
func TestGuard_LeavesPipelinedBytes(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	const frame = "\x81\x85\x01\x02\x03\x04igoh{" // masked text
	for name, hijacker := range map[string]func(http.ResponseWriter) http.Hijacker{
		"http.Hijacker": func(w http.ResponseWriter) http.Hijacker { return w.(http.Hijacker) },
		"http.ResponseController": func(w http.ResponseWriter) http.Hijacker {
			return http.NewResponseController(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, rw, err := hijacker(w).Hijack()
				if !assert.NoError(t, err) {
					return
				}
				defer conn.Close()
				got := make([]byte, len(frame)+1)
				_, err = io.ReadFull(rw, got)
				assert.NoError(t, err)
				fmt.Fprintf(rw, switching+"X-Got: %x\r\n\r\n", got)
				assert.NoError(t, rw.Flush())
			})
			srv := serve(t, b.guard.Wrap(h))
			conn := dial(t, srv)
			request := upgrade("GET", "/ws?ticket="+b.mint(t))
			write(t, conn, request+frame)
			write(t, conn, "\x89") // and one more that may come later
			a, _ := receive(t, conn, request)
			require.Equal(t, fmt.Sprintf("%x", frame+"\x89"), a.Header.Get("X-Got"))
		})
	}
}
