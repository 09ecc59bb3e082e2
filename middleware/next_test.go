package middleware_test

import (
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/middleware"
)

// nextValues are values of next, and whether it may be followed; the fuzz target
// starts from them too.
var nextValues = []struct {
	source, value string
	local         bool
}{
	{value: "/", local: true},
	{value: "/a/b", local: true},
	{value: "/a/b/", local: true},
	{value: "/ok?x=1#f", local: true},
	{value: "/ok?x=//evil.example", local: true},
	{value: "/ok?next=https://evil.example", local: true},
	{value: "/ok#//evil.example", local: true},
	{value: "/a//b", local: true},
	{value: "/a:b", local: true},
	{value: "/@evil.example", local: true},
	{value: "/a b", local: true},
	{value: "/é", local: true},
	{value: "/.well-known/x", local: true},
	{value: "/..a/b..", local: true},
	{value: "/a?b=../..", local: true},
	{value: "/%2f/evil", local: true},
	{value: "/%09/evil", local: true},
	{value: "/%2f%2fevil.example", local: true},
	{value: "/ok%0d%0aSet-Cookie:a=b", local: true},
	{value: "/" + strings.Repeat("a", 2047), local: true},

	{source: "relative to the page", value: ""},
	{source: "relative to the page", value: "a"},
	{source: "relative to the page", value: "?a"},
	{source: "relative to the page", value: "#a"},
	{source: "relative to the page", value: " /a"},
	{source: "relative to the page", value: "login/../a"},
	{source: "RFC 3986 4.2", value: "//evil.example"},
	{source: "RFC 3986 4.2", value: "///evil.example"},
	{source: "RFC 3986 4.2", value: "////evil.example"},
	{source: "RFC 3986 4.2", value: "//"},
	{source: "RFC 3986 4.2", value: "//user@evil.example/"},
	{source: "WHATWG: \\ is /", value: `\/evil.example`},
	{source: "WHATWG: \\ is /", value: `\\evil.example`},
	{source: "WHATWG: \\ is /", value: `/\evil.example`},
	{source: "WHATWG: \\ is /", value: `/\/evil.example`},
	{source: "WHATWG: \\ is /", value: `/a\..\..\\evil.example`},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/\t/evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/\n/evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/\r/evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "\t//evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "\x01//evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/\\\tevil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/\x00/evil.example"},
	{source: "GHSA-j7px-6hwj-hpjg", value: "/a\x7f"},
	{source: "RFC 3986 5.2.4", value: "/.//evil.example"},
	{source: "RFC 3986 5.2.4", value: "/a/..//evil.example"},
	{source: "RFC 3986 5.2.4", value: "/a/../login"},
	{source: "WHATWG: %2e is .", value: "/%2e//evil.example"},
	{source: "WHATWG: %2e is .", value: "/a/%2E%2e//evil.example"},
	{source: "WHATWG: %2e is .", value: "/a/.%2e/b"},
	{source: "a reader that decodes", value: "/a/..%2f..%2fb"},
	{source: "another scheme", value: "https:evil.example"},
	{source: "another scheme", value: "HtTpS://evil.example"},
	{source: "another scheme", value: "https:///evil.example"},
	{source: "another scheme", value: `https:\\evil.example`},
	{source: "another scheme", value: "http:evil.example"},
	{source: "another scheme", value: "javascript:alert(1)"},
	{source: "another scheme", value: "java\tscript:alert(1)"},
	{source: "another scheme", value: "javascript://%0aalert(1)"},
	{source: "another scheme", value: "data:text/html,x"},
	{source: "another scheme", value: "file:///etc/passwd"},
	{source: "CWE-113", value: "/ok\r\nSet-Cookie: a=b"},
	{source: "not UTF-8", value: "/\xff"},
	{source: "a broken escape", value: "/%zz"},
	{source: "a broken escape", value: "/%"},
	{source: "too long", value: "/" + strings.Repeat("a", 2048)},
	{source: "the sign-in page", value: "/login"},
	{source: "the sign-in page", value: "/login?next=/login?next=/a"},
	{source: "the sign-in page", value: "/login?"},
	{source: "the sign-in page", value: "/login#x"},
	{source: "WHATWG URL 4.4 step 1: spaces at the end go", value: "/login "},
	{source: "the sign-in page", value: "/%6cogin"},
}

// serveNext answers with what Next returns, in the body and as a redirect.
func serveNext(t *testing.T) func(request string) answer {
	srv := serve(t, answersNext)
	return func(request string) answer { return send(t, srv, request) }
}

var answersNext = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	next := middleware.Next(r)
	w.Header().Set("Location", next)
	w.WriteHeader(http.StatusSeeOther)
	_, _ = io.WriteString(w, next)
})

func postForm(target, body string, lines ...string) string {
	lines = append(lines, "Content-Type: application/x-www-form-urlencoded",
		"Content-Length: "+strconv.Itoa(len(body)))
	return rawRequest("POST", target, lines...) + body
}

func TestNext_IsALocalPath(t *testing.T) {
	ask := serveNext(t)
	mux := http.NewServeMux()
	mux.Handle("/login", answersNext)
	overTLS := serveTLS(t, mux)
	for _, c := range nextValues {
		want := "/"
		if c.local {
			want = c.value
		}
		query := "next=" + url.QueryEscape(c.value)
		a := sendH2(t, overTLS, "GET", "/login?"+query)
		assert.Equal(t, want, a.Body, "%.80q (%s) over h2, behind ServeMux", c.value, c.source)
		for _, request := range []string{get("/login?" + query), postForm("/login", query)} {
			a := ask(request)
			assert.Equal(t, want, a.Body, "%.80q (%s)", c.value, c.source)
			assert.NotContains(t, a.Header, "Set-Cookie", "%.80q (%s)", c.value, c.source)
			assert.Len(t, a.Header["Location"], 1)
		}
		if c.local {
			assert.True(t, staysHere(c.value),
				"the table or the browser is wrong about %.80q", c.value)
		}
	}
}

func TestNext_FormIsBeforeQuery(t *testing.T) {
	ask := serveNext(t)
	of := func(contentType, body string) string {
		return rawRequest("POST", "/login?next=/q", "Content-Type: "+contentType,
			"Content-Length: "+strconv.Itoa(len(body))) + body
	}
	multipart := "--x\r\nContent-Disposition: form-data; name=next\r\n\r\n/form\r\n--x--\r\n"
	for _, c := range []struct{ name, request, want string }{
		{"none", get("/login"), "/"},
		{"query", get("/login?a=b&next=/q"), "/q"},
		{"query, HEAD", rawRequest("HEAD", "/login?next=/q"), ""},
		{"query, of a POST", postForm("/login?next=/q", "user=ann"), "/q"},
		{"form", postForm("/login", "user=ann&next=/form"), "/form"},
		{"form before query", postForm("/login?next=/q", "next=/form"), "/form"},
		{"form, PUT", strings.Replace(postForm("/login", "next=/form"), "POST", "PUT", 1), "/form"},
		{"a bad form is not mended by the query", postForm("/login?next=/q", "next=//evil.example"),
			"/"},
		{"an empty form is not mended by the query", postForm("/login?next=/q", "next="), "/"},
		{"two in the query", get("/login?next=/a&next=/b"), "/"},
		{"two, one spelt differently", get("/login?next=/a&%6eext=/b"), "/"},
		{"two in the form", postForm("/login", "next=/a&next=/b"), "/"},
		{"name in another case", get("/login?Next=/a"), "/"},
		{"a semicolon", get("/login?next=/a;next=/b"), "/"},
		{"a query that does not parse", get("/login?next=/a&%zz"), "/"},
		{"a form that does not parse", postForm("/login?next=/q", "%zz"), "/"},
		{"a form that is too large", postForm("/login", "next=/a&x="+strings.Repeat("x", 9<<10)),
			"/"},
		{"another Content-Type", of("application/json", "next=/form"), "/q"},
		{"multipart is not read", of("multipart/form-data; boundary=x", multipart), "/q"},
		{"a header", get("/login", "X-Next: /a", "Referer: http://app.example/a"), "/"},
	} {
		assert.Equal(t, c.want, ask(c.request).Body, c.name)
	}
}

// Behind StripPrefix the sign-in page is the path that the browser asked for.
func TestNext_InsideStripPrefixIsNotTheSignInPage(t *testing.T) {
	srv := serve(t, http.StripPrefix("/app", answersNext))
	assert.Equal(t, "/", send(t, srv, get("/app/login?next=/app/login")).Body)
	assert.Equal(t, "/login", send(t, srv, get("/app/login?next=/login")).Body,
		"that is another page")
}

// staysHere follows a Location as browsers do (the URL standard's basic parser,
// so far as it decides about the host), from pages over HTTP and HTTPS.
func staysHere(location string) bool {
	for _, scheme := range []string{"http", "https"} {
		host, _ := follow(scheme, "app.example", location)
		if host != "app.example" {
			return false
		}
	}
	return true
}

// follow resolves location against scheme://host/dir/page. The host is "" where
// the browser leaves for something that is no web page.
func follow(scheme, host, location string) (newHost, path string) {
	s := strings.TrimFunc(location, func(r rune) bool { return r <= ' ' })
	s = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(s)
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	slashes := func(s string) string { return strings.ReplaceAll(s, `\`, "/") }
	if i := strings.IndexByte(s, ':'); i > 0 && isScheme(s[:i]) {
		named := strings.ToLower(s[:i])
		switch s = s[i+1:]; {
		case named != "http" && named != "https":
			return "", ""
		case named != scheme || strings.HasPrefix(slashes(s), "//"):
			s = "//" + strings.TrimLeft(slashes(s), "/")
		}
	}
	s = slashes(s)
	if strings.HasPrefix(s, "//") {
		authority, rest, _ := strings.Cut(strings.TrimLeft(s, "/"), "/")
		if i := strings.LastIndexByte(authority, '@'); i >= 0 {
			authority = authority[i+1:]
		}
		return strings.ToLower(authority), squeeze("/" + rest)
	}
	if !strings.HasPrefix(s, "/") {
		s = "/dir/" + s
	}
	return host, squeeze(s)
}

func isScheme(s string) bool {
	return regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*$`).MatchString(s)
}

// squeeze takes dot segments out of a path, escaped or not.
func squeeze(path string) string {
	var kept []string
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		dots := strings.ReplaceAll(strings.ToLower(segment), "%2e", ".")
		if dots != "." && dots != ".." {
			kept = append(kept, segment)
			continue
		}
		if dots == ".." && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		if i == len(segments)-1 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}
