package middleware_test

import (
	"cmp"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/middleware"
)

// hostilePaths are ways to write a path so that two readers of it disagree. The
// fuzz target starts from them too.
var hostilePaths = []struct {
	source, target string
	public         bool // the rest is protected
	h1             bool // HTTP/2 has no such request
}{
	{target: "/login", public: true},
	{target: "/login?next=/a", public: true},
	{target: "/login?", public: true},
	{target: "/public/", public: true},
	{target: "/public/a/b.js?v=/../x", public: true},
	{target: "/public/a%20b", public: true},
	{target: "/public/%C3%A9", public: true},
	{target: "/public/..a/b../.c", public: true},
	{target: "/foo/x/bar", public: true},
	{target: "/public/a%40b.png", public: true},
	{target: "/public/a(1).png", public: true},
	{target: "/public/%c3%a9", public: true},
	{target: "/foo/a%40b/bar", public: true},
	{source: "RFC 9112 3.2.2: path rule only", target: "http://evil.example/login", public: true,
		h1: true},

	{target: "/"},
	{target: "/admin"},
	{source: "no prefix without a boundary", target: "/public"},
	{source: "no prefix without a boundary", target: "/publicity"},
	{source: "no prefix without a boundary", target: "/login/"},
	{source: "no prefix without a boundary", target: "/login/x"},
	{source: "no prefix without a boundary", target: "/login.html"},
	{source: "no prefix without a boundary", target: "/loginx"},
	{source: "paths are compared with case", target: "/LOGIN"},
	{source: "paths are compared with case", target: "/Public/x"},

	{source: "CVE-2025-47910, ServeMux would redirect", target: "/public/../admin"},
	{source: "ServeMux would redirect", target: "//login"},
	{source: "ServeMux would redirect", target: "///login"},
	{source: "ServeMux would redirect", target: "/login/."},
	{source: "ServeMux would redirect", target: "/login/.."},
	{source: "ServeMux would redirect", target: "/./login"},
	{source: "ServeMux would redirect", target: "/public/./x"},
	{source: "ServeMux would redirect", target: "/public//x"},
	{source: "ServeMux would redirect", target: "/public//"},
	{source: "ServeMux would redirect", target: "/x/../login"},
	{source: "ServeMux would redirect", target: "/public/x/.."},
	{source: "ServeMux would redirect", target: "//"},
	{source: "RFC 9112 3.2.2", target: "http://evil.example//login", h1: true},
	{source: "RFC 9112 3.2.2", target: "http://evil.example/public/../admin", h1: true},
	{source: "RFC 9112 3.2.2", target: "http://app.example", h1: true},

	{source: "GHSA-xf64-8mw2-4gr2", target: "/public/%2e%2e/admin"},
	{source: "GHSA-xf64-8mw2-4gr2", target: "/public/%2E./admin"},
	{source: "GHSA-xf64-8mw2-4gr2", target: "/public/.%2e/admin"},
	{source: "GHSA-xf64-8mw2-4gr2", target: "/%2e%2e/login"},
	{source: "GHSA-xf64-8mw2-4gr2", target: "/%2e/login"},
	{source: "GHSA-xf64-8mw2-4gr2", target: "/public/a%2ejs"},
	{source: "GHSA-gm3x-23wp-hc2c", target: "/public%2f..%2fadmin"},
	{source: "GHSA-vrch-868g-9jx5", target: "/public/..%2fadmin"},
	{source: "GHSA-vrch-868g-9jx5", target: "/public/..%2Fadmin"},
	{source: "GHSA-vrch-868g-9jx5", target: "/%2flogin"},
	{source: "GHSA-vrch-868g-9jx5", target: "%2flogin", h1: true},
	{source: "GHSA-vrch-868g-9jx5", target: "/public/%2f"},
	{source: "GHSA-vrch-868g-9jx5", target: "/foo/x%2fy/bar"},
	{source: "backslashes of other systems", target: `/public/..\admin`},
	{source: "backslashes of other systems", target: "/public/..%5cadmin"},
	{source: "backslashes of other systems", target: "/public%5C..%5Cadmin"},
	{source: "overlong UTF-8, CVE-2000-0884", target: "/public/%c0%ae%c0%ae/admin"},
	{source: "overlong UTF-8, CVE-2000-0884", target: "/public/..%c0%afadmin"},
	{source: "overlong UTF-8, CVE-2008-2938", target: "/public/%e0%80%ae%e0%80%ae/admin"},
	{source: "path parameters, CVE-2020-5902", target: "/public/..;/admin"},
	{source: "path parameters, CVE-2020-5902", target: "/public/.;x=y/admin"},
	{source: "path parameters, CVE-2020-5902", target: "/public/..%3b/admin"},
	{source: "path parameters", target: "/login;jsessionid=1"},
	{source: "CWE-400", target: "/public/" + strings.Repeat("a", 8<<10)},

	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/%6cogin"},
	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/log%69n"},
	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/p%75blic/x"},
	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/p%75blic/admin"},
	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/public%2Fadmin"},
	{source: "HOSTILE G26: chi, echo and gin match RawPath", target: "/f%6fo/x/bar"},
	{source: "HOSTILE G26: escaped twice", target: "/public/%252e%252e/x"},
	{source: "HOSTILE G26: escaped twice", target: "/public/a%252Fb"},
	{source: "HOSTILE G26: escaped twice", target: "/public/..%255Cadmin"},
	{source: "HOSTILE G26: escaped twice", target: "/public/..%253bx/admin"},
	{source: "HOSTILE G26: escaped twice", target: "/public/%253Bx/admin"},
	{source: "HOSTILE G26: escaped three times", target: "/public/%25252e%25252e/x"},

	{source: "NUL cuts a C string", target: "/login%00"},
	{source: "NUL cuts a C string", target: "/public/%00"},
	{source: "NUL cuts a C string", target: "/public/x%00.js"},
	{source: "trimmed by others", target: "/login%20"},
	{source: "trimmed by others", target: "/login%09"},
	{source: "trimmed by others", target: "/public/.%09./admin"},
	{source: "CWE-113", target: "/login%0d%0aX-Injected:1"},
	{source: "CWE-113", target: "/public/%0d%0aX-Injected:1"},
	{source: "control characters", target: "/public/%7f"},
	{source: "control characters, C1", target: "/public/%c2%85"},

	{source: "GHSA-pxq7-h93f-9jrg", target: "/login#x", h1: true},
	{source: "GHSA-pxq7-h93f-9jrg", target: "/login%23x"},
	{source: "GHSA-pxq7-h93f-9jrg", target: "/login%3fx"},
	{source: "GHSA-pxq7-h93f-9jrg", target: "/admin#/../login", h1: true},
	{source: "GHSA-7rh7-c77v-6434", target: "/admin?x=/public/"},
	{source: "GHSA-7rh7-c77v-6434", target: "/admin?/login"},
	{source: "RFC 9112 3.2.4", target: "*"},
}

// Public is decided by the path as it was sent, with a mux in front, behind, or
// without one. What is protected is still there for a session.
func TestPublic_AmbiguousPathsAreProtected(t *testing.T) {
	opts := middleware.GateOptions{LoginURL: "/login", Public: []string{"/public/", "/foo/{x}/bar"}}
	for place, wrap := range map[string]func(*middleware.Gate) http.Handler{
		"alone": func(g *middleware.Gate) http.Handler { return g.Wrap(whoami) },
		"before a mux": func(g *middleware.Gate) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/", whoami)
			return g.Wrap(mux)
		},
		"behind a mux": func(g *middleware.Gate) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/", g.Wrap(whoami))
			mux.Handle("/public/", g.Wrap(whoami))
			mux.Handle("/login", g.Wrap(whoami))
			return mux
		},
	} {
		gate, rec := newGate(t, opts)
		for _, over := range overBoth(t, wrap(gate)) {
			t.Run(place+" over "+over.name, func(t *testing.T) {
				for _, c := range hostilePaths {
					if c.h1 && over.name == "h2" {
						continue
					}
					a := over.send(t, "GET", c.target)
					assert.Equal(t, c.public, a.reached() == "nobody",
						"%s (%s)", c.target, c.source)
					assert.Equal(t, c.public, a.Status == 200, "%s (%s)", c.target, c.source)
					assert.NotContains(t, a.Header, "X-Injected")
					if place == "alone" && a.Status != http.StatusBadRequest {
						assert.Equal(t, "ann",
							over.send(t, "GET", c.target, sid(goodCookie)).reached(), c.target)
					}
				}
				assert.Empty(t, rec.Text(), "no credential was presented")
			})
		}
	}
}

// A pattern means the same as in http.ServeMux. Hosts are compared as hosts.
func TestPublic_PatternsMeanTheSameAsInServeMux(t *testing.T) {
	type row struct {
		name, source, pattern string
		request               string // method, target
		host                  string // "": any.example
		public                bool
	}
	public := func(name, source, pattern, request, host string) row {
		return row{name, source, pattern, request, host, true}
	}
	private := func(name, source, pattern, request, host string) row {
		return row{name, source, pattern, request, host, false}
	}
	for _, c := range []row{
		public("method", "", "GET /healthz", "GET /healthz", ""),
		public("GET means HEAD too", "", "GET /healthz", "HEAD /healthz", ""),
		private("another method", "", "GET /healthz", "POST /healthz", ""),
		private("method in lower case", "RFC 9110 9.1", "GET /healthz", "get /healthz", ""),
		public("a tab behind the method", "net/http's syntax", "GET\t/healthz", "GET /healthz", ""),
		public("tab, and a host", "net/http's syntax",
			"GET \t App.Example/healthz", "GET /healthz", "app.example"),
		public("every method", "", "/hook", "PATCH /hook", ""),
		public("prefix", "", "/static/", "GET /static/a/b", ""),
		private("the folder without its slash", "CVE-2025-47910", "/static/", "GET /static", ""),
		private("exact", "", "/static", "GET /static/", ""),
		public("only the root", "", "/{$}", "GET /", ""),
		private("not only the root", "", "/{$}", "GET /a", ""),
		public("one segment", "", "/u/{id}/avatar", "GET /u/7/avatar", ""),
		private("two segments", "", "/u/{id}/avatar", "GET /u/7/8/avatar", ""),
		private("an escaped slash in a segment", "GHSA-vrch-868g-9jx5",
			"/u/{id}/avatar", "GET /u/7%2f8/avatar", ""),
		public("the rest", "", "/f/{path...}", "GET /f/a/b", ""),
		private("the rest, upwards", "", "/f/{path...}", "GET /f/a/../../b", ""),
		private("CONNECT, by name", "RFC 9110 9.3.6", "CONNECT /", "CONNECT /x", ""),
		public("host", "", "app.example/a", "GET /a", "app.example"),
		private("another host", "", "app.example/a", "GET /a", "evil.example"),
		public("host in capitals", "GHSA-328g-jx67-v94g", "app.example/a", "GET /a", "APP.Example"),
		public("pattern in capitals", "GHSA-328g-jx67-v94g",
			"GET App.EXAMPLE/a", "GET /a", "app.example"),
		public("port", "GHSA-328g-jx67-v94g", "app.example/a", "GET /a", "app.example:443"),
		public("trailing dot", "GHSA-328g-jx67-v94g", "app.example/a", "GET /a", "app.example."),
		public("trailing dot and port", "GHSA-328g-jx67-v94g",
			"app.example/a", "GET /a", "app.example.:443"),
		private("host as a prefix", "", "app.example/a", "GET /a", "app.example.evil"),
		private("two trailing dots", "", "app.example/a", "GET /a", "app.example.."),
		private("absolute form names another host", "RFC 9112 3.2.2",
			"app.example/a", "GET http://evil.example/a", "app.example"),
		public("absolute form names the host", "RFC 9112 3.2.2",
			"app.example/a", "GET http://App.Example/a", "evil.example"),
		private("X-Forwarded-Host", "GHSA-7x63-xv5r-3p2x",
			"app.example/a", "GET /a", "evil.example\r\nX-Forwarded-Host: app.example"),
	} {
		gate, _ := newGate(t, middleware.GateOptions{Public: []string{c.pattern}})
		request := c.request + " HTTP/1.1\r\nHost: " + cmp.Or(c.host, "any.example") + "\r\n\r\n"
		a := send(t, serve(t, gate.Wrap(whoami)), request)
		assert.Equal(t, c.public, a.reached() != "", "%s (%s)", c.name, c.source)
	}
}

// Where a pattern has a host, handlers behind the gate see the host in the same form.
// The port stays.
func TestPublic_HostIsCanonicalBehindTheGate(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{Public: []string{"app.example/a"}})
	srv := serve(t, gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host)
	})))
	for sent, want := range map[string]string{
		"APP.Example": "app.example", "App.example.:8443": "app.example:8443",
		"app.example:8443": "app.example:8443",
	} {
		assert.Equal(t, want, send(t, srv, "GET /a HTTP/1.1\r\nHost: "+sent+"\r\n\r\n").Body,
			"GHSA-328g-jx67-v94g")
	}
}

// On a public route a session is used if there is one, and never required.
func TestPublic_SessionIsOptional(t *testing.T) {
	for _, c := range []struct{ name, cookie, reached string }{
		{"recognised", goodCookie, "ann"},
		{"none", "", "nobody"},
		{"dead", deadCookie, "nobody"},
		{"unknown", unknownCookie, "nobody"},
		{"over", endedCookie, "nobody"},
		{"cannot be decided", downCookie, "nobody"},
	} {
		gate, _ := newGate(t,
			middleware.GateOptions{LoginURL: "/login", Public: []string{"/public/"}})
		for _, over := range overBoth(t, gate.Wrap(whoami)) {
			for _, target := range []string{"/public/x", "/login"} {
				assert.Equal(t, c.reached, over.send(t, "GET", target, sid(c.cookie)).reached(),
					"%s %s", c.name, target)
			}
		}
	}
}

// A sign-in page elsewhere makes nothing public here.
func TestPublic_ForeignLoginURLIsNotPublic(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{LoginURL: "https://sso.example/"})
	srv := serve(t, gate.Wrap(whoami))
	assert.Empty(t, send(t, srv, get("/")).reached())
	assert.Empty(t, send(t, srv, get("https://sso.example/")).reached())
}
