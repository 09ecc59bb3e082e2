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

// forwardedFor are requests and the address that each is from; the fuzz target
// starts from them too.
var forwardedFor = []struct {
	name, source string
	trusted      string
	peer         string
	lines        []string
	want         string
}{
	{name: "no header", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", want: "10.0.0.1"},
	{name: "one proxy", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9"}, want: "203.0.113.9"},
	{name: "two proxies", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9, 10.0.0.2"}, want: "203.0.113.9"},
	{name: "only proxies", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"10.0.0.3, 10.0.0.2"}, want: "10.0.0.3"},
	{name: "what the client claims", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"198.51.100.1, 203.0.113.9"}, want: "203.0.113.9"},
	{name: "the client claims to be a proxy", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"198.51.100.1, 10.0.0.9, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9"},
	{name: "spaces and tabs", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{" 198.51.100.1,\t203.0.113.9 ,10.0.0.2"}, want: "203.0.113.9"},

	{name: "nobody is trusted", source: "oauth2-proxy#3506", peer: "10.0.0.1:1", lines: []string{"203.0.113.9"}, want: "10.0.0.1"},
	{name: "the peer is not trusted", source: "oauth2-proxy#3506", trusted: "10.0.0.0/8", peer: "192.0.2.7:1", lines: []string{"203.0.113.9"}, want: "192.0.2.7"},
	{name: "the peer is not trusted, and garbage", trusted: "10.0.0.0/8", peer: "192.0.2.7:1", lines: []string{"<script>"}, want: "192.0.2.7"},

	{name: "several lines", source: "RFC 9110 section 5.3", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"198.51.100.1", "203.0.113.9", "10.0.0.2"}, want: "203.0.113.9"},
	{name: "several lines, each a list", source: "RFC 9110 section 5.3", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"198.51.100.1, 203.0.113.9", "10.0.0.3, 10.0.0.2"}, want: "203.0.113.9"},
	{name: "several lines, the last untrusted", source: "RFC 9110 section 5.3", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9", "198.51.100.1"}, want: "198.51.100.1"},

	{name: "garbage next to us", source: "fail closed", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9, garbage"}, want: ""},
	{name: "garbage behind a proxy", source: "fail closed", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9, garbage, 10.0.0.2"}, want: ""},
	{name: "garbage that nobody vouches for", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"garbage, 203.0.113.9"}, want: "203.0.113.9"},
	{name: "garbage in another line", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"garbage", "203.0.113.9"}, want: "203.0.113.9"},
	{name: "unknown", source: "RFC 7239 section 6.2", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"unknown"}, want: ""},
	{name: "empty", source: "fail closed", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{""}, want: ""},
	{name: "an empty line at the end", source: "fail closed", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9", ""}, want: ""},
	{name: "leading zeros", source: "CVE-2021-29923", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.010"}, want: ""},
	{name: "a number", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"3405803785"}, want: ""},
	{name: "a port that is none", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9:99999"}, want: ""},
	{name: "a name", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"evil.example"}, want: ""},
	{name: "a zone that a stranger chose", source: "RFC 4007 section 11", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"fe80::1%<script>"}, want: ""},
	{name: "a zone, bracketed with a port", source: "RFC 4007 section 11", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"[2001:db8::1%x]:80"}, want: ""},

	{name: "with a port", source: "Azure Application Gateway writes it", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9:4711"}, want: "203.0.113.9"},
	{name: "IPv6", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"2001:DB8::1"}, want: "2001:db8::1"},
	{name: "IPv6 in brackets", source: "RFC 7239 section 6", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"[2001:db8::1]"}, want: "2001:db8::1"},
	{name: "IPv6 in brackets with a port", source: "RFC 7239 section 6", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"[2001:db8::1]:80"}, want: "2001:db8::1"},
	{name: "one client is one address", source: "RFC 5952", trusted: "fd00::/8", peer: "[fd00::1]:1", lines: []string{"2001:0db8:0:0::0001"}, want: "2001:db8::1"},
	{name: "IPv6 proxies", trusted: "fd00::/8 ::1/128", peer: "[::1]:1", lines: []string{"2001:db8::1, fd00::2"}, want: "2001:db8::1"},
	{name: "IPv4 in IPv6, the peer", source: "a dual-stack listener", trusted: "10.0.0.0/8", peer: "[::ffff:10.0.0.1]:1", lines: []string{"203.0.113.9"}, want: "203.0.113.9"},
	{name: "IPv4 in IPv6, the client", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"::ffff:203.0.113.9"}, want: "203.0.113.9"},
	{name: "IPv4 in IPv6, a proxy on the way", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"203.0.113.9, ::ffff:10.0.0.2"}, want: "203.0.113.9"},
	{name: "IPv4 in IPv6, as trusted", trusted: "::ffff:10.0.0.0/104", peer: "10.0.0.1:1", lines: []string{"203.0.113.9"}, want: "203.0.113.9"},
	{name: "a zone of our own", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "[fe80::1%eth0]:1", want: "fe80::1"},
	{name: "a trusted peer with a zone", source: "HOSTILE C5", trusted: "fe80::/10", peer: "[fe80::1%eth0]:1", want: "fe80::1"},
	{name: "behind a trusted peer with a zone", source: "HOSTILE C5", trusted: "fe80::/10", peer: "[fe80::1%eth0]:1", lines: []string{"203.0.113.9"}, want: "203.0.113.9"},
	{name: "a zone around IPv4", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "[::ffff:10.0.0.1%eth0]:1", lines: []string{"203.0.113.9"}, want: "203.0.113.9"},
	{name: "0.0.0.0", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"0.0.0.0"}, want: ""},
	{name: "0.0.0.0 with a port", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"0.0.0.0:80"}, want: ""},
	{name: "::", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"::"}, want: ""},
	{name: ":: in brackets", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"[::]:80"}, want: ""},
	{name: "0.0.0.0 in IPv6", source: "HOSTILE C5", trusted: "10.0.0.0/8", peer: "10.0.0.1:1", lines: []string{"::ffff:0.0.0.0"}, want: ""},
	{name: "0.0.0.0 on the way", source: "HOSTILE C5", trusted: "0.0.0.0/0", peer: "10.0.0.1:1", lines: []string{"203.0.113.9, 0.0.0.0"}, want: ""},
	{name: "a Unix socket", trusted: "10.0.0.0/8", peer: "@", lines: []string{"203.0.113.9"}, want: "@"},
	{name: "no peer at all", trusted: "0.0.0.0/0", peer: "", lines: []string{"203.0.113.9"}, want: ""},
}

func TestForwardedFor(t *testing.T) {
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

// The same rows over the wire, where the peer is this machine: trusted where the row's is.
func TestForwardedForOverTheWire(t *testing.T) {
	for _, c := range forwardedFor {
		if c.peer != "10.0.0.1:1" && c.peer != "192.0.2.7:1" {
			continue
		}
		trusted, want := prefixes(c.trusted), strings.Replace(c.want, strings.TrimSuffix(c.peer, ":1"), "127.0.0.1", 1)
		if c.peer == "10.0.0.1:1" && len(trusted) > 0 {
			trusted = append(trusted, netip.MustParsePrefix("127.0.0.1/32"))
		}
		gate, rec := newGate(t, middleware.GateOptions{ClientIP: middleware.ForwardedFor(trusted...)})
		mux := http.NewServeMux()
		mux.Handle("/", gate.Wrap(whoami))
		lines := []string{sid(deadCookie)}
		for _, line := range c.lines {
			lines = append(lines, "X-Forwarded-For: "+line)
		}
		for _, over := range overBoth(t, mux) {
			over.send(t, "GET", "/a", lines...)
			assert.Equal(t, want, rec.Lines(t)[0]["ip"], "%s (%s) over %s", c.name, c.source, over.name)
			rec.Take()
		}
	}
}

// Without a named proxy none is trusted: no door believes a header by default.
func TestClientIP_NoProxyIsTrustedByDefault(t *testing.T) {
	gate, gateRec := newGate(t, middleware.GateOptions{})
	b := newBed(t, middleware.GuardOptions{})
	minting := newMintBed(t, middleware.MintOptions{}, nil)
	lines := []string{sid(deadCookie), "X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9"}
	for name, door := range map[string]struct {
		handler http.Handler
		rec     *recorder
	}{"gate": {gate.Wrap(whoami), gateRec}, "guard": {b.guard.Wrap(accepts), b.rec}, "mint": {minting.handler, minting.rec}} {
		for _, over := range overBoth(t, door.handler) {
			over.send(t, "GET", "/a", lines...)
			assert.Contains(t, door.rec.Take(), `"ip":"127.0.0.1"`, "%s over %s (oauth2-proxy#3506)", name, over.name)
		}
	}
}

// Other headers are anybody's to set.
func TestForwardedFor_ReadsNoOtherHeader(t *testing.T) {
	gate, rec := newGate(t, middleware.GateOptions{ClientIP: middleware.ForwardedFor(prefixes("127.0.0.1/32")...)})
	srv := serve(t, gate.Wrap(whoami))
	for _, c := range []struct {
		want  string
		lines []string
	}{
		{"127.0.0.1", []string{"X-Real-IP: 198.51.100.1", "Forwarded: for=198.51.100.1", "True-Client-IP: 198.51.100.1", "X-Client-IP: 198.51.100.1", "CF-Connecting-IP: 198.51.100.1"}},
		{"203.0.113.9", []string{"x-forwarded-for: 198.51.100.1", "X-FORWARDED-FOR: 203.0.113.9", "X_Forwarded_For: 198.51.100.2"}},
	} {
		send(t, srv, get("/a", append(c.lines, sid(deadCookie))...))
		assert.Contains(t, rec.Take(), `"ip":"`+c.want+`"`)
	}
}
