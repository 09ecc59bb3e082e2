package middleware_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func newIssuer(t testing.TB) *tickets.Issuer {
	t.Helper()
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, issuer.Close()) })
	return issuer
}

// originRows are what a page's browser says of it, and whether the page may mint
// and open: with the list https://app.example and http://dev.example:8080, and
// with none, which is the same origin. The fuzz target starts from them too.
var originRows = []struct {
	name, source string
	host         string // app.example, unless it is set
	origins      []string
	listed       bool // allowed where there is a list
	plain        bool // allowed without one, over HTTP
	tls          bool // allowed without one, over TLS
}{
	{name: "absent: not a browser", listed: true, plain: true, tls: true},
	{name: "the page's own", origins: []string{"https://app.example"}, listed: true, plain: true, tls: true},
	{name: "the page's own, capitals", source: "RFC 6454 section 4", origins: []string{"HTTPS://APP.Example"}, listed: true, plain: true, tls: true},
	{name: "the page's own, default port", source: "RFC 6454 section 4", origins: []string{"https://app.example:443"}, listed: true, plain: true, tls: true},
	{name: "Host with the default port", source: "RFC 9110 section 4.2.3", host: "APP.example:443", origins: []string{"https://app.example"}, listed: true, plain: true, tls: true},
	{name: "over HTTP", source: "a page that was not encrypted", origins: []string{"http://app.example"}, plain: true},
	{name: "over HTTP, default ports", host: "app.example:80", origins: []string{"http://app.example"}, plain: true},
	{name: "the other one's default port", origins: []string{"https://app.example:80"}},
	{name: "the other one's default port, as Host", host: "app.example:80", origins: []string{"https://app.example"}, listed: true},
	{name: "listed", origins: []string{"http://dev.example:8080"}, listed: true},
	{name: "own port", host: "dev.example:8080", origins: []string{"http://dev.example:8080"}, listed: true, plain: true},
	{name: "a list is the whole list", host: "other.example", origins: []string{"https://other.example"}, plain: true, tls: true},
	{name: "IPv6", host: "[2001:db8::1]:8443", origins: []string{"https://[2001:DB8::1]:8443"}, plain: true, tls: true},
	{name: "trailing dot is another host", source: "RFC 6454 section 4", host: "app.example.", origins: []string{"https://app.example"}, listed: true},

	{name: "null", source: "CVE-2026-34403, ASVS 4.4.2", origins: []string{"null"}},
	{name: "null, capitals", origins: []string{"NULL"}},
	{name: "empty", origins: []string{""}},
	{name: "another port", source: "ASVS 4.4.2", origins: []string{"https://app.example:8443"}},
	{name: "another port, own on Host", host: "app.example:8443", origins: []string{"https://app.example"}, listed: true},
	{name: "a longer name", source: "ASVS 4.4.2", origins: []string{"https://app.example.evil"}},
	{name: "a longer name in front", source: "ASVS 4.4.2", origins: []string{"https://evilapp.example"}},
	{name: "a subdomain", origins: []string{"https://x.app.example"}},
	{name: "a parent", host: "x.app.example", origins: []string{"https://app.example"}, listed: true},
	{name: "two", source: "RFC 6454 section 7.3", origins: []string{"https://app.example", "https://app.example"}},
	{name: "two in one", source: "RFC 6454 section 7.1", origins: []string{"https://app.example https://evil.example"}},
	{name: "two in one, comma", origins: []string{"https://app.example,https://evil.example"}},
	{name: "userinfo", source: "ASVS 4.4.2", origins: []string{"https://app.example@evil.example"}},
	{name: "userinfo before the right one", origins: []string{"https://evil@app.example"}},
	{name: "a path", source: "RFC 6454 section 6.2", origins: []string{"https://app.example/"}},
	{name: "a query", origins: []string{"https://app.example?"}},
	{name: "a fragment", origins: []string{"https://app.example#"}},
	{name: "no scheme", origins: []string{"app.example"}},
	{name: "no host", origins: []string{"https://"}},
	{name: "no slashes", origins: []string{"https:app.example"}},
	{name: "no slashes, short", origins: []string{"http:a"}},
	{name: "the last port", host: "app.example:65535", origins: []string{"https://app.example:65535"}, plain: true, tls: true},
	{name: "a port beyond the last", host: "app.example:65536", origins: []string{"https://app.example:65536"}},
	{name: "a backslash", origins: []string{`https:\\app.example`}},
	{name: "another scheme", origins: []string{"ftp://app.example"}},
	{name: "an extension", origins: []string{"chrome-extension://app.example"}},
	{name: "a WebSocket's scheme", source: "RFC 6454 section 4: it is the page's", origins: []string{"wss://app.example"}},
	{name: "a port that is none", host: "app.example:99999", origins: []string{"https://app.example:99999"}},
	{name: "an empty port", host: "app.example:", origins: []string{"https://app.example:"}},
	{name: "leading zero in the port", origins: []string{"https://app.example:0443"}},
	{name: "an escape", origins: []string{"https://app%2eexample"}},
	{name: "a wildcard", origins: []string{"https://*.example"}},
	{name: "not ASCII", origins: []string{"https://\xc3\xa4pp.example"}},
}

// One check for both doors, over both protocols that a browser may use.
// eachFromElsewhere gives each request an address of its own: the audit
// suppresses many refusals of one address.
func eachFromElsewhere() func(*http.Request) string {
	var n atomic.Uint32
	return func(*http.Request) string {
		i := n.Add(1)
		return fmt.Sprintf("10.0.%d.%d", i>>8, i&255)
	}
}

func TestOrigins(t *testing.T) {
	list := []string{"https://app.example", "http://dev.example:8080"}
	for _, listed := range []bool{true, false} {
		var origins []string
		if listed {
			origins = list
		}
		log, rec := newAudit()
		issuer := newIssuer(t)
		guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{
			Origins: origins, Audit: log, ClientIP: eachFromElsewhere(),
		})
		require.NoError(t, err)
		strict, err := middleware.NewGuard(issuer, &middleware.GuardOptions{
			Origins: origins, RequireOrigin: true, Audit: log, ClientIP: eachFromElsewhere(),
		})
		require.NoError(t, err)
		mint, err := middleware.NewMint(issuer, &middleware.MintOptions{
			Origins: origins, Audit: log, ClientIP: eachFromElsewhere(),
		})
		require.NoError(t, err)
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
			host := "app.example"
			if c.host != "" {
				host = c.host
			}
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
					a := send(t, srv, strings.Replace(handshake(path, lines...), "app.example", host, 1))
					want := http.StatusUnauthorized // no ticket: the next question
					if !allowed || path == "/strict" {
						want = http.StatusForbidden
					}
					assert.Equal(t, want, a.Status, "%s: guard, listed: %v (%s)", name, listed, c.source)
					if lines := rec.Lines(t); want == http.StatusForbidden && assert.Len(t, lines, 1) {
						assert.Equal(t, `{"error":"forbidden","detail":"Forbidden"}`, a.Body)
						assert.Equal(t, "ws_upgrade_refused", lines[0]["event"])
						assert.Equal(t, "origin", lines[0]["reason"])
						if c.origins != nil && !strings.Contains(c.origins[0], "@") { // the audit masks userinfo
							assert.Equal(t, strings.Join(c.origins, ", "), lines[0]["origin"], "the operator wants to know whose page it was")
						}
					}
					rec.Take()
				}
				a := send(t, srv, strings.Replace(rawRequest("POST", "/mint", append(lines, "Content-Length: 0")...), "app.example", host, 1))
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

// What no browser sends is refused at construction, with what it sends.
func TestOriginsConfiguration(t *testing.T) {
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
