package middleware_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/middleware"
)

// FuzzGatePaths: what http.ServeMux would not serve as written is never public,
// what is written plainly and served always is, and no way back leads away.
func FuzzGatePaths(f *testing.F) {
	for _, c := range hostilePaths {
		f.Add("GET", c.target)
	}
	f.Add("HEAD", "/healthz")
	f.Add("POST", "/healthz")
	f.Add("CONNECT", "/login")
	patterns := []string{"/public/", "GET /healthz", "/foo/{x}/bar", "/f/{path...}", "/only/{$}"}
	opts := middleware.GateOptions{LoginURL: "/login", Public: patterns, Audit: quiet}
	gate, err := middleware.NewGate(cookies(), &opts)
	if err != nil {
		f.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, p := range append(patterns, "/login") {
		mux.Handle(p, whoami)
	}
	plain := regexp.MustCompile(`^(/[a-z0-9_-]+)+/?$`)
	f.Fuzz(func(t *testing.T, method, target string) {
		r := readRequest(rawRequest(method, target, "Accept: text/html"))
		if r == nil || strings.ContainsAny(method+target, "\r\n") {
			return
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		served := w.Header().Get("X-Reached") != ""

		s, rej := gate.Authenticate(httptest.NewRecorder(), r)
		if s != nil {
			t.Fatalf("a session out of nothing: %v", s)
		}
		if rej == nil {
			switch {
			case !served:
				t.Errorf("public, though ServeMux does not serve it: %d", w.Code)
			case !readsAsOne(r.URL):
				t.Errorf("public, though readers disagree on %q", r.URL.Path)
			case r.URL.RawPath != "":
				w, literal := httptest.NewRecorder(), *r
				literal.URL = &url.URL{Path: r.URL.RawPath}
				if mux.ServeHTTP(w, &literal); w.Header().Get("X-Reached") == "" {
					t.Errorf("public, though not to a router that matches %q", r.URL.RawPath)
				}
			}
			return
		}
		if served && method != http.MethodConnect && plain.MatchString(r.URL.EscapedPath()) {
			t.Errorf("protected, though it is written plainly: %q", r.URL.Path)
		}
		w = httptest.NewRecorder()
		rej.ServeHTTP(w, r)
		location := w.Header().Get("Location")
		if location == "" {
			return
		}
		login, err := url.Parse(location)
		if err != nil || login.Path != "/login" || login.Host != "" {
			t.Fatalf("a redirect to %q", location)
		}
		if next := login.Query().Get("next"); next != "" && !staysHere(next) {
			t.Errorf("the way back is %q", next)
		}
	})
}

// readsAsOne reports whether a path names the same thing to those who decode it,
// to those who do not, to those who take \ for / and to those who drop what
// follows a ; in a segment.
func readsAsOne(u *url.URL) bool {
	drop := regexp.MustCompile(`;[^/]*`)
	for _, reading := range []string{
		u.Path, u.EscapedPath(), strings.ReplaceAll(u.Path, `\`, "/"), drop.ReplaceAllString(u.Path, ""),
	} {
		clean := path.Clean(reading)
		if !strings.HasPrefix(reading, "/") || reading != clean && (reading == "//" || reading != clean+"/") {
			return false
		}
	}
	escaped := strings.ToLower(u.EscapedPath())
	return utf8.ValidString(u.Path) && !strings.ContainsAny(u.Path, "\\\x00\t\r\n") &&
		!strings.Contains(escaped, "%2f") && !strings.Contains(escaped, "%2e")
}

// FuzzNext: what is returned is local to every browser, and not the page that
// asks; what is returned was given.
func FuzzNext(f *testing.F) {
	for _, c := range nextValues {
		if len(c.value) < 100 { // the fuzzer would spend its time on shortening the others
			f.Add(c.value)
		}
	}
	plain := regexp.MustCompile(`^(/[a-z0-9_-]+)+/?(\?[a-z0-9=&]*)?$`)
	f.Fuzz(func(t *testing.T, value string) {
		query := "next=" + url.QueryEscape(value)
		r := httptest.NewRequest("GET", "/login?"+query, nil)
		next := middleware.Next(r)
		if next != "/" && next != value {
			t.Fatalf("%q out of %q", next, value)
		}
		for _, scheme := range []string{"http", "https"} {
			host, to := follow(scheme, "app.example", next)
			if host != "app.example" {
				t.Errorf("%q leads to %q", next, host)
			}
			if to == "/login" {
				t.Errorf("%q leads to the sign-in page", next)
			}
		}
		if strings.ContainsFunc(next, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }) {
			t.Errorf("a control character or a backslash in %q", next)
		}
		isPlain := len(value) < 2048 && plain.MatchString(value) && !strings.HasPrefix(value, "/login")
		if next != value && isPlain {
			t.Errorf("%q is refused, though it is plain", value)
		}
		form := httptest.NewRequest("POST", "/login?next=/other", strings.NewReader(query))
		form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if got := middleware.Next(form); got != next {
			t.Errorf("%q from a form, %q from a query", got, next)
		}
	})
}

// FuzzCookies: against http.Request.CookiesNamed. What it does not see is never
// looked up, and where there is no doubt about what it sees, that is.
func FuzzCookies(f *testing.F) {
	for _, seed := range []string{
		"sid=a", "a=b; sid=c", `sid="a"`, "sid=a; sid=b", "sid=a\nsid=a", "sid=;sid=a", `sid=a; sid="a"`,
		"sid", "=a", "sid=a;", "\tsid = a", "sid=a b", "sid=a\tb", `sid="a`, `sid=a\`, "sid=\xc3\xa9",
		" ; ;sid=a", `sid="a;b"`, "sid==", "$sid=a",
		strings.Repeat("a;", 2999) + "sid=a", strings.Repeat("a;", 3000) + "sid=a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		control := func(r rune) bool { return r < 0x20 && r != '\t' && r != '\n' || r == 0x7f }
		if strings.ContainsFunc(header, control) {
			return // net/http lets no such header in
		}
		lines := strings.Split(header, "\n")
		r := &http.Request{Header: http.Header{"Cookie": lines}}
		asked, value := false, ""
		a := middleware.CookieSessions("sid", func(_ context.Context, v string) (*middleware.Session, error) {
			asked, value = true, v
			return &middleware.Session{}, nil
		})
		_, err := a.Authenticate(nil, r)

		named := r.CookiesNamed("sid")
		agree := len(named) > 0 && named[0].Value != ""
		for _, c := range named {
			agree = agree && c.Value == named[0].Value
		}
		mentioned := 0
		for _, line := range lines {
			for pair := range strings.SplitSeq(line, ";") {
				if name, _, _ := strings.Cut(pair, "="); strings.Trim(name, " \t") == "sid" {
					mentioned++
				}
			}
		}
		switch {
		case asked && (!agree || value != named[0].Value):
			t.Errorf("looked up %q, net/http sees %v", value, named)
		case asked != (err == nil),
			!asked && !errors.Is(err, middleware.ErrNoSession) && !errors.Is(err, middleware.ErrSessionExpired):
			t.Errorf("asked: %v, error: %v", asked, err)
		case agree && mentioned == 1 && !asked:
			t.Errorf("not looked up: %v", named)
		case mentioned == 0 && !errors.Is(err, middleware.ErrNoSession):
			t.Errorf("no such cookie: %v", err)
		}
	})
}

// FuzzBearer: exactly what RFC 6750 section 2.1 calls credentials is looked up.
func FuzzBearer(f *testing.F) {
	for _, seed := range []string{
		"Bearer a", "bearer  a==", "Bearer", "Bearer =", "Bearer a=b", "Basic a", "Bearer a\nBearer a",
		"Bearer\ta", "Bearer a ",
	} {
		f.Add(seed)
	}
	credentials := regexp.MustCompile(`^(?i:bearer) +([A-Za-z0-9\-._~+/]+=*)$`)
	f.Fuzz(func(t *testing.T, header string) {
		lines := strings.Split(header, "\n")
		want := ""
		if m := credentials.FindStringSubmatch(lines[0]); m != nil && len(lines) == 1 {
			want = m[1]
		}
		got := ""
		a := middleware.BearerSessions(func(_ context.Context, token string) (*middleware.Session, error) {
			got = token
			return &middleware.Session{}, nil
		})
		_, err := a.Authenticate(nil, &http.Request{Header: http.Header{"Authorization": lines}})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("looked up %q, want %q: %v", got, want, err)
		}
	})
}

// FuzzForwardedFor: against one that joins the lines and walks back; and what is
// returned is an address, of the peer's or the proxies' own writing.
func FuzzForwardedFor(f *testing.F) {
	for _, c := range forwardedFor {
		f.Add(c.peer, strings.Join(c.lines, "\n"))
	}
	trusted := prefixes("10.0.0.0/8 fd00::/8 ::1/128")
	clientIP := middleware.ForwardedFor(trusted...)
	isTrusted := func(a netip.Addr) bool {
		return trusted[0].Contains(a) || trusted[1].Contains(a) || trusted[2].Contains(a)
	}
	read := func(s string) (netip.Addr, bool) {
		s = strings.Trim(s, " \t")
		if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			s += ":1"
		}
		a, err := netip.ParseAddr(s)
		if ap, e := netip.ParseAddrPort(s); e == nil {
			a, err = ap.Addr(), nil
		}
		return a.Unmap(), err == nil && a.Zone() == "" && !a.Unmap().IsUnspecified()
	}
	f.Fuzz(func(t *testing.T, peer, header string) {
		addr, err := netip.ParseAddrPort(peer)
		if err != nil || addr.Addr().Zone() != "" || strings.Contains(header, "\r") {
			return // no TCP listener says so, no field holds it, or there is nothing to decide
		}
		lines := strings.Split(header, "\n")
		want := addr.Addr().Unmap()
		ok := true
		hops := strings.Split(strings.Join(lines, ","), ",")
		for i := len(hops) - 1; i >= 0 && ok && isTrusted(want); i-- {
			want, ok = read(hops[i])
		}
		expected := ""
		if ok {
			expected = want.String()
		}
		got := clientIP(&http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": lines}})
		if got != expected {
			t.Errorf("%q, want %q", got, expected)
		}
	})
}

// FuzzOrigin: without a list, only a page whose scheme, host and port are those
// of the request gets past the check.
func FuzzOrigin(f *testing.F) {
	for _, c := range originRows {
		for _, o := range c.origins {
			f.Add(o, c.host, true)
			f.Add(o, "app.example", false)
		}
	}
	log := quiet
	guard, err := middleware.NewGuard(newIssuer(f), &middleware.GuardOptions{Audit: log})
	if err != nil {
		f.Fatal(err)
	}
	serialized := regexp.MustCompile(`^(?i:(https?))://([^/\\@?#\s%*]+)$`)
	plain := regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*(:[1-9][0-9]{0,3})?$`)
	fold := func(scheme, host string) string {
		port := map[string]string{"http": ":80", "https": ":443"}[scheme]
		return scheme + "://" + strings.TrimSuffix(strings.ToLower(host), port)
	}
	f.Fuzz(func(t *testing.T, origin, host string, secure bool) {
		r := readRequest(handshake("/ws"))
		r.Host = host
		r.Header["Origin"] = []string{origin}
		if secure {
			r.TLS = new(tls.ConnectionState)
		}
		_, rej := guard.Admit(r)
		if rej == nil {
			t.Fatal("no ticket, and admitted")
		}
		m := serialized.FindStringSubmatch(origin)
		same := false
		if m != nil {
			scheme := strings.ToLower(m[1])
			same = fold(scheme, m[2]) == fold(scheme, host) && !(secure && scheme == "http")
		}
		switch {
		case rej.Status == http.StatusUnauthorized && !same:
			t.Errorf("allowed at %q (TLS: %v)", host, secure)
		case rej.Status == http.StatusForbidden && same && plain.MatchString(m[2]):
			t.Errorf("refused at %q (TLS: %v)", host, secure)
		}
	})
}
