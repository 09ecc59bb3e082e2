package middleware_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/middleware"
)

func prefixes(list string) []netip.Prefix {
	var ps []netip.Prefix
	for p := range strings.FieldsSeq(list) {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

// forwarded is a request from peer with these lines of X-Forwarded-For.
type forwarded struct {
	name, source, trusted, peer string
	lines                       []string
	want                        string
}

// from makes the rows of one peer.
func from(trusted, peer string) func(name, source, want string, lines ...string) forwarded {
	return func(name, source, want string, lines ...string) forwarded {
		return forwarded{name, source, trusted, peer, lines, want}
	}
}

// proxied are rows that come from a trusted proxy.
var proxied = from("10.0.0.0/8", "10.0.0.1:1")

// direct are rows that come around the proxies.
var direct = from("10.0.0.0/8", "192.0.2.7:1")

// forwardedFor are requests and the address that each is from; the fuzz target
// starts from them too.
var forwardedFor = []forwarded{
	proxied("no header", "", "10.0.0.1"),
	proxied("one proxy", "", "203.0.113.9", "203.0.113.9"),
	proxied("two proxies", "", "203.0.113.9", "203.0.113.9, 10.0.0.2"),
	proxied("only proxies", "", "10.0.0.3", "10.0.0.3, 10.0.0.2"),
	proxied("what the client claims", "", "203.0.113.9", "198.51.100.1, 203.0.113.9"),
	proxied("the client claims to be a proxy", "",
		"203.0.113.9", "198.51.100.1, 10.0.0.9, 203.0.113.9, 10.0.0.2"),
	proxied("spaces and tabs", "", "203.0.113.9", " 198.51.100.1,\t203.0.113.9 ,10.0.0.2"),
	from("", "10.0.0.1:1")("nobody is trusted", "oauth2-proxy#3506", "10.0.0.1", "203.0.113.9"),
	direct("the peer is not trusted", "oauth2-proxy#3506", "192.0.2.7", "203.0.113.9"),
	direct("the peer is not trusted, and garbage", "", "192.0.2.7", "<script>"),
	proxied("several lines", "RFC 9110 5.3", "203.0.113.9", "198.51.100.1", "203.0.113.9",
		"10.0.0.2"),
	proxied("several lines, each a list", "RFC 9110 5.3",
		"203.0.113.9", "198.51.100.1, 203.0.113.9", "10.0.0.3, 10.0.0.2"),
	proxied("several lines, the last untrusted", "RFC 9110 5.3",
		"198.51.100.1", "203.0.113.9", "198.51.100.1"),
	proxied("garbage next to us", "fail closed", "", "203.0.113.9, garbage"),
	proxied("garbage behind a proxy", "fail closed", "", "203.0.113.9, garbage, 10.0.0.2"),
	proxied("garbage that nobody vouches for", "", "203.0.113.9", "garbage, 203.0.113.9"),
	proxied("garbage in another line", "", "203.0.113.9", "garbage", "203.0.113.9"),
	proxied("unknown", "RFC 7239 6.2", "", "unknown"),
	proxied("empty", "fail closed", "", ""),
	proxied("an empty line at the end", "fail closed", "", "203.0.113.9", ""),
	proxied("leading zeros", "CVE-2021-29923", "", "203.0.113.010"),
	proxied("a number", "", "", "3405803785"),
	proxied("a port that is none", "", "", "203.0.113.9:99999"),
	proxied("a name", "", "", "evil.example"),
	proxied("a zone that a stranger chose", "RFC 4007 11", "", "fe80::1%<script>"),
	proxied("a zone, bracketed with a port", "RFC 4007 11", "", "[2001:db8::1%x]:80"),
	proxied("with a port", "Azure Application Gateway writes it", "203.0.113.9",
		"203.0.113.9:4711"),
	proxied("IPv6", "", "2001:db8::1", "2001:DB8::1"),
	proxied("IPv6 in brackets", "RFC 7239 6", "2001:db8::1", "[2001:db8::1]"),
	proxied("IPv6 in brackets with a port", "RFC 7239 6", "2001:db8::1", "[2001:db8::1]:80"),
	from("fd00::/8", "[fd00::1]:1")("one client is one address", "RFC 5952",
		"2001:db8::1", "2001:0db8:0:0::0001"),
	from("fd00::/8 ::1/128", "[::1]:1")("IPv6 proxies", "", "2001:db8::1", "2001:db8::1, fd00::2"),
	from("10.0.0.0/8", "[::ffff:10.0.0.1]:1")("IPv4 in IPv6, the peer", "a dual-stack listener",
		"203.0.113.9", "203.0.113.9"),
	proxied("IPv4 in IPv6, the client", "", "203.0.113.9", "::ffff:203.0.113.9"),
	proxied("IPv4 in IPv6, a proxy on the way", "", "203.0.113.9", "203.0.113.9, ::ffff:10.0.0.2"),
	from("::ffff:10.0.0.0/104", "10.0.0.1:1")("IPv4 in IPv6, as trusted", "",
		"203.0.113.9", "203.0.113.9"),
	from("10.0.0.0/8", "[fe80::1%eth0]:1")("a zone of our own", "HOSTILE C5", "fe80::1"),
	from("fe80::/10", "[fe80::1%eth0]:1")("a trusted peer with a zone", "HOSTILE C5", "fe80::1"),
	from("fe80::/10", "[fe80::1%eth0]:1")("behind a trusted peer with a zone", "HOSTILE C5",
		"203.0.113.9", "203.0.113.9"),
	from("10.0.0.0/8", "[::ffff:10.0.0.1%eth0]:1")("a zone around IPv4", "HOSTILE C5",
		"203.0.113.9", "203.0.113.9"),
	proxied("0.0.0.0", "HOSTILE C5", "", "0.0.0.0"),
	proxied("0.0.0.0 with a port", "HOSTILE C5", "", "0.0.0.0:80"),
	proxied("::", "HOSTILE C5", "", "::"),
	proxied(":: in brackets", "HOSTILE C5", "", "[::]:80"),
	proxied("0.0.0.0 in IPv6", "HOSTILE C5", "", "::ffff:0.0.0.0"),
	from("0.0.0.0/0", "10.0.0.1:1")("0.0.0.0 on the way", "HOSTILE C5", "", "203.0.113.9, 0.0.0.0"),
	from("10.0.0.0/8", "@")("a Unix socket", "", "@", "203.0.113.9"),
	from("0.0.0.0/0", "")("no peer at all", "", "", "203.0.113.9"),
}

func TestForwardedFor_ReturnsTheAddressBeforeTrustedProxies(t *testing.T) {
	for _, c := range forwardedFor {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.lines}}
		if c.lines == nil {
			r.Header = http.Header{}
		}
		trusted := prefixes(c.trusted)
		clientIP := middleware.ForwardedFor(trusted...)
		for i := range trusted {
			trusted[i] = netip.MustParsePrefix("192.0.2.0/24") // what was given is copied
		}
		assert.Equal(t, c.want, clientIP(r), "%s (%s)", c.name, c.source)
	}
}

// The same rows over the wire. The peer is this machine, trusted if the row's peer is.
func TestForwardedFor_IsTheSameOverTheWire(t *testing.T) {
	for _, c := range forwardedFor {
		if c.peer != "10.0.0.1:1" && c.peer != "192.0.2.7:1" {
			continue
		}
		trusted := prefixes(c.trusted)
		want := strings.Replace(c.want, strings.TrimSuffix(c.peer, ":1"), "127.0.0.1", 1)
		if c.peer == "10.0.0.1:1" && len(trusted) > 0 {
			trusted = append(trusted, netip.MustParsePrefix("127.0.0.1/32"))
		}
		gate, rec := newGate(t,
			middleware.GateOptions{ClientIP: middleware.ForwardedFor(trusted...)})
		mux := http.NewServeMux()
		mux.Handle("/", gate.Wrap(whoami))
		lines := []string{sid(deadCookie)}
		for _, line := range c.lines {
			lines = append(lines, "X-Forwarded-For: "+line)
		}
		for _, over := range overBoth(t, mux) {
			over.send(t, "GET", "/a", lines...)
			assert.Equal(t, want, rec.Lines(t)[0]["ip"],
				"%s (%s) over %s", c.name, c.source, over.name)
			rec.Take()
		}
	}
}

// No header is trusted by default.
func TestClientIP_NoProxyIsTrustedByDefault(t *testing.T) {
	gate, gateRec := newGate(t, middleware.GateOptions{})
	b := newBed(t, middleware.GuardOptions{})
	minting := newMintBed(t, middleware.MintOptions{}, nil)
	lines := []string{sid(deadCookie), "X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9",
		"Forwarded: for=203.0.113.9"}
	for name, door := range map[string]struct {
		handler http.Handler
		rec     *recorder
	}{
		"gate":  {gate.Wrap(whoami), gateRec},
		"guard": {b.guard.Wrap(accepts), b.rec},
		"mint":  {minting.handler, minting.rec},
	} {
		for _, over := range overBoth(t, door.handler) {
			over.send(t, "GET", "/a", lines...)
			assert.Contains(t, door.rec.Take(), `"ip":"127.0.0.1"`,
				"%s over %s (oauth2-proxy#3506)", name, over.name)
		}
	}
}

// Headers other than X-Forwarded-For are ignored.
func TestForwardedFor_ReadsNoOtherHeader(t *testing.T) {
	clientIP := middleware.ForwardedFor(prefixes("127.0.0.1/32")...)
	gate, rec := newGate(t, middleware.GateOptions{ClientIP: clientIP})
	srv := serve(t, gate.Wrap(whoami))
	for _, c := range []struct {
		want  string
		lines []string
	}{
		{"127.0.0.1", []string{
			"X-Real-IP: 198.51.100.1", "Forwarded: for=198.51.100.1",
			"True-Client-IP: 198.51.100.1", "X-Client-IP: 198.51.100.1",
			"CF-Connecting-IP: 198.51.100.1"}},
		{"203.0.113.9", []string{"x-forwarded-for: 198.51.100.1", "X-FORWARDED-FOR: 203.0.113.9",
			"X_Forwarded_For: 198.51.100.2"}},
	} {
		send(t, srv, get("/a", append(c.lines, sid(deadCookie))...))
		assert.Contains(t, rec.Take(), `"ip":"`+c.want+`"`)
	}
}
