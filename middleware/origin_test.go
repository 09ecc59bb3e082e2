package middleware_test

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// originRow is a request of a page with these Origin lines.
type originRow struct {
	name, source string
	host         string // "": app.example
	origins      []string
	listed       bool // allowed where there is a list
	plain        bool // allowed without a list, over HTTP
	tls          bool // allowed without a list, over TLS
}

// allowed makes the rows of one verdict.
func allowed(listed, plain, tls bool) func(name, source, host string, origins ...string) originRow {
	return func(name, source, host string, origins ...string) originRow {
		return originRow{name, source, host, origins, listed, plain, tls}
	}
}

var (
	always       = allowed(true, true, true)
	never        = allowed(false, false, false)
	ifListed     = allowed(true, false, false)
	ifSame       = allowed(false, true, true)
	overHTTP     = allowed(false, true, false)
	listedOrHTTP = allowed(true, true, false)
)

// originRows are Origin lines, and whether they may mint and open: with the list
// https://app.example and http://dev.example:8080, and without a list, for the same origin
// only. The fuzz target starts from them too.
var originRows = []originRow{
	always("absent: not a browser", "", ""),
	always("the page's own", "", "", "https://app.example"),
	always("the page's own, capitals", "RFC 6454 4", "", "HTTPS://APP.Example"),
	always("the page's own, default port", "RFC 6454 4", "", "https://app.example:443"),
	always("Host with the default port", "RFC 9110 4.2.3", "APP.example:443",
		"https://app.example"),
	overHTTP("over HTTP", "a page that was not encrypted", "", "http://app.example"),
	overHTTP("over HTTP, default ports", "", "app.example:80", "http://app.example"),
	never("the other one's default port", "", "", "https://app.example:80"),
	ifListed("the other one's default port, as Host", "", "app.example:80", "https://app.example"),
	ifListed("listed", "", "", "http://dev.example:8080"),
	listedOrHTTP("own port", "", "dev.example:8080", "http://dev.example:8080"),
	ifSame("a list is the whole list", "", "other.example", "https://other.example"),
	ifSame("IPv6", "", "[2001:db8::1]:8443", "https://[2001:DB8::1]:8443"),
	ifListed("trailing dot is another host", "RFC 6454 4", "app.example.", "https://app.example"),
	never("null", "CVE-2026-34403, ASVS 4.4.2", "", "null"),
	never("null, capitals", "", "", "NULL"),
	never("empty", "", "", ""),
	never("another port", "ASVS 4.4.2", "", "https://app.example:8443"),
	ifListed("another port, own on Host", "", "app.example:8443", "https://app.example"),
	never("a longer name", "ASVS 4.4.2", "", "https://app.example.evil"),
	never("a longer name in front", "ASVS 4.4.2", "", "https://evilapp.example"),
	never("a subdomain", "", "", "https://x.app.example"),
	ifListed("a parent", "", "x.app.example", "https://app.example"),
	never("two", "RFC 6454 7.3", "", "https://app.example", "https://app.example"),
	never("two in one", "RFC 6454 7.1", "", "https://app.example https://evil.example"),
	never("two in one, comma", "", "", "https://app.example,https://evil.example"),
	never("userinfo", "ASVS 4.4.2", "", "https://app.example@evil.example"),
	never("userinfo before the right one", "", "", "https://evil@app.example"),
	never("a path", "RFC 6454 6.2", "", "https://app.example/"),
	never("a query", "", "", "https://app.example?"),
	never("a fragment", "", "", "https://app.example#"),
	never("no scheme", "", "", "app.example"),
	never("no host", "", "", "https://"),
	never("no slashes", "", "", "https:app.example"),
	never("no slashes, short", "", "", "http:a"),
	ifSame("the last port", "", "app.example:65535", "https://app.example:65535"),
	never("a port beyond the last", "", "app.example:65536", "https://app.example:65536"),
	never("a backslash", "", "", `https:\\app.example`),
	never("another scheme", "", "", "ftp://app.example"),
	never("an extension", "", "", "chrome-extension://app.example"),
	never("a WebSocket's scheme", "RFC 6454 4: it is the page's", "", "wss://app.example"),
	never("a port that is none", "", "app.example:99999", "https://app.example:99999"),
	never("an empty port", "", "app.example:", "https://app.example:"),
	never("leading zero in the port", "", "", "https://app.example:0443"),
	never("an escape", "", "", "https://app%2eexample"),
	never("a wildcard", "", "", "https://*.example"),
	never("not ASCII", "", "", "https://\xc3\xa4pp.example"),
}

// eachFromElsewhere gives each request an address of its own: the audit
// suppresses many refusals of one address.
func eachFromElsewhere() func(*http.Request) string {
	var n atomic.Uint32
	return func(*http.Request) string {
		i := n.Add(1)
		return fmt.Sprintf("10.0.%d.%d", i>>8, i&255)
	}
}

// The same check at the guard and at the mint, over both protocols of a browser.
func TestOrigins_AreCheckedAtGuardAndMint(t *testing.T) {
	list := []string{"https://app.example", "http://dev.example:8080"}
	for _, listed := range []bool{true, false} {
		var origins []string
		if listed {
			origins = list
		}
		log, rec := newAudit()
		issuer := newIssuer(t)
		guard := must(middleware.NewGuard(issuer, &middleware.GuardOptions{
			Origins: origins, Audit: log, ClientIP: eachFromElsewhere(),
		}))
		strict := must(middleware.NewGuard(issuer, &middleware.GuardOptions{
			Origins: origins, RequireOrigin: true, Audit: log, ClientIP: eachFromElsewhere(),
		}))
		mint := must(middleware.NewMint(issuer, &middleware.MintOptions{
			Origins: origins, Audit: log, ClientIP: eachFromElsewhere(),
		}))
		mux := http.NewServeMux()
		mux.Handle("/ws", guard.Wrap(whoami))
		mux.Handle("/strict", strict.Wrap(whoami))
		mux.HandleFunc("/mint", func(w http.ResponseWriter, r *http.Request) {
			// Each row is a session of its own: it has a share of tickets.
			s := &middleware.Session{ID: r.Header.Get("X-Row"), UserID: "ann"}
			mint.ServeHTTP(w, r.WithContext(middleware.WithSession(r.Context(), s)))
		})
		plain, tls := serve(t, mux), serveTLS(t, mux)
		for _, c := range originRows {
			host := cmp.Or(c.host, "app.example")
			lines := []string{"X-Row: " + c.name}
			for _, o := range c.origins {
				lines = append(lines, "Origin: "+o)
			}
			for _, over := range []string{"HTTP", "TLS"} {
				srv, allowed := plain, c.plain
				if over == "TLS" {
					srv, allowed = tls, c.tls
				}
				if listed {
					allowed = c.listed
				}
				name := c.name + " over " + over
				rec.Take()
				for _, path := range []string{"/ws", "/strict"} {
					if path == "/strict" && c.origins != nil {
						continue // RequireOrigin is about its absence
					}
					a := send(t, srv, toHost(host, handshake(path, lines...)))
					want := http.StatusUnauthorized // no ticket: the next question
					if !allowed || path == "/strict" {
						want = http.StatusForbidden
					}
					assert.Equal(t, want, a.Status,
						"%s: guard, listed: %v (%s)", name, listed, c.source)
					if lines := rec.Lines(t); want == http.StatusForbidden &&
						assert.Len(t, lines, 1) {
						assert.Equal(t, `{"error":"forbidden","detail":"Forbidden"}`, a.Body)
						assert.Equal(t, "ws_upgrade_refused", lines[0]["event"])
						assert.Equal(t, "origin", lines[0]["reason"])
						// The audit masks userinfo.
						if c.origins != nil && !strings.Contains(c.origins[0], "@") {
							assert.Equal(t, strings.Join(c.origins, ", "), lines[0]["origin"],
								"the operator wants to know whose page it was")
						}
					}
					rec.Take()
				}
				mint := rawRequest("POST", "/mint", append(lines, "Content-Length: 0")...)
				a := send(t, srv, toHost(host, mint))
				want := http.StatusOK
				if !allowed {
					want = http.StatusForbidden
				}
				assert.Equal(t, want, a.Status, "%s: mint, listed: %v (%s)", name, listed, c.source)
				assert.Equal(t, allowed, strings.Contains(a.Body, `"ticket"`), name)
			}
		}
	}
}

// Origins that no browser sends are refused at construction.
func TestOrigins_UnusableAreRefused(t *testing.T) {
	issuer := newIssuer(t)
	bad := []struct{ origin, want string }{
		{"https://App.Example", `write that`},
		{"https://app.example:443", `"https://app.example"`},
		{"http://app.example:80", `"http://app.example"`},
		{"HTTPS://app.example", `"https://app.example"`},
		{"https://*.example", "wildcard"},
		{"*", "such as https://app.example"},
		{"null", "such as https://app.example"},
		{"", "such as https://app.example"},
		{"app.example", "such as https://app.example"},
		{"//app.example", "such as https://app.example"},
		{"https://a@b", "such as https://app.example"},
		{"https://app.example/", "such as https://app.example"},
		{"https://app.example/path", "such as https://app.example"},
		{"wss://app.example", "such as https://app.example"},
		{"https://app.example:", "such as https://app.example"},
		{"https://app.example:99999", "such as https://app.example"},
		{" https://app.example", "such as https://app.example"},
		{"https://b\xc3\xbccher.example", "xn--"},
		{"https://[fe80::1%25eth0]", "such as https://app.example"},
	}
	origins := []string{"https://fine.example"}
	for _, c := range bad {
		origins = append(origins, c.origin)
	}
	_, guardErr := middleware.NewGuard(issuer, &middleware.GuardOptions{Origins: origins})
	_, mintErr := middleware.NewMint(issuer, &middleware.MintOptions{Origins: origins})
	for _, err := range []error{guardErr, mintErr} {
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "fine.example")
		lines := strings.Split(err.Error(), "\n")
		require.Len(t, lines, len(bad), "one line for each")
		for i, c := range bad {
			assert.Contains(t, lines[i], c.want)
		}
	}
}

// An origin that does not parse is never the request's own, whatever its Host says.
func TestOrigins_HostOfTheSameFormAllowsNothing(t *testing.T) {
	issuer := newIssuer(t)
	log, _ := newAudit()
	opts := &middleware.GuardOptions{Audit: log, ClientIP: eachFromElsewhere()}
	guard, err := middleware.NewGuard(issuer, opts)
	require.NoError(t, err)
	srv := serve(t, guard.Wrap(whoami))
	for _, c := range []struct {
		name, host, origin string
		status             int // 401: allowed, and without a ticket
	}{
		{"the first port", "app.example:1", "http://app.example:1", 401},
		{"leading zero in the port", "app.example:0443", "http://app.example:0443", 403},
		{"port zero", "app.example:0", "http://app.example:0", 403},
		{"no Host, null", "", "null", 403},
		{"no Host, empty", "", "", 403},
		{"no Host, no host", "", "http://", 403},
	} {
		request := handshake("/ws", "Origin: "+c.origin)
		request = strings.Replace(request, "Host: app.example", "Host: "+c.host, 1)
		assert.Equal(t, c.status, send(t, srv, request).Status, c.name)
	}
	for origin, valid := range map[string]bool{
		"https://app.example:1":     true,
		"https://app.example:65535": true,
		"https://app.example:0":     false,
		"https://app.example:0443":  false,
	} {
		_, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Origins: []string{origin}})
		assert.Equal(t, valid, err == nil, "%s: %v", origin, err)
	}
}
