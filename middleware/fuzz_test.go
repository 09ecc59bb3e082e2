package middleware_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// FuzzGatePaths: a path that http.ServeMux does not serve as written is never public. A
// plain path that it serves always is. No way back leads away.
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
		short := len(r.URL.Path) <= 8<<10
		if served && short && method != http.MethodConnect &&
			plain.MatchString(r.URL.EscapedPath()) {
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

// readsAsOne reports whether all readers of a path agree: those that decode it, that do not,
// that take \ for /, and that drop what follows a ; in a segment.
func readsAsOne(u *url.URL) bool {
	drop := regexp.MustCompile(`;[^/]*`)
	for _, reading := range []string{
		u.Path, u.EscapedPath(),
		strings.ReplaceAll(u.Path, `\`, "/"), drop.ReplaceAllString(u.Path, ""),
	} {
		clean := path.Clean(reading)
		isClean := reading == clean || reading == clean+"/" && reading != "//"
		if !strings.HasPrefix(reading, "/") || !isClean {
			return false
		}
	}
	escaped := strings.ToLower(u.EscapedPath())
	return utf8.ValidString(u.Path) && !strings.ContainsAny(u.Path, "\\\x00\t\r\n") &&
		!strings.Contains(escaped, "%2f") && !strings.Contains(escaped, "%2e")
}

// FuzzNext: Next returns its value, or "/". It is local to every browser, and not the page
// that asks.
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
		bad := func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }
		if strings.ContainsFunc(next, bad) {
			t.Errorf("a control character or a backslash in %q", next)
		}
		isPlain := len(value) < 2048 && plain.MatchString(value) &&
			!strings.HasPrefix(value, "/login")
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

// FuzzCookies compares with http.Request.CookiesNamed: nothing else is looked up, and a
// value without doubt always is.
func FuzzCookies(f *testing.F) {
	for _, seed := range []string{
		"sid=a", "a=b; sid=c", `sid="a"`, "sid=a; sid=b", "sid=a\nsid=a", "sid=;sid=a",
		`sid=a; sid="a"`, "sid", "=a", "sid=a;", "\tsid = a", "sid=a b", "sid=a\tb", `sid="a`,
		`sid=a\`, "sid=\xc3\xa9", " ; ;sid=a", `sid="a;b"`, "sid==", "$sid=a",
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
		a := middleware.CookieSessions("sid",
			func(_ context.Context, v string) (*middleware.Session, error) {
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
		noSession := errors.Is(err, middleware.ErrNoSession)
		switch {
		case asked && (!agree || value != named[0].Value):
			t.Errorf("looked up %q, net/http sees %v", value, named)
		case asked != (err == nil),
			!asked && !noSession && !errors.Is(err, middleware.ErrSessionExpired):
			t.Errorf("asked: %v, error: %v", asked, err)
		case agree && mentioned == 1 && !asked:
			t.Errorf("not looked up: %v", named)
		case mentioned == 0 && !noSession:
			t.Errorf("no such cookie: %v", err)
		}
	})
}

// FuzzBearer: exactly what RFC 6750 section 2.1 calls credentials is looked up.
func FuzzBearer(f *testing.F) {
	for _, seed := range []string{
		"Bearer a", "bearer  a==", "Bearer", "Bearer =", "Bearer a=b", "Basic a",
		"Bearer a\nBearer a", "Bearer\ta", "Bearer a ",
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
		lookup := func(_ context.Context, token string) (*middleware.Session, error) {
			got = token
			return &middleware.Session{}, nil
		}
		a := middleware.BearerSessions(lookup)
		_, err := a.Authenticate(nil, &http.Request{Header: http.Header{"Authorization": lines}})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("looked up %q, want %q: %v", got, want, err)
		}
	})
}

// FuzzForwardedFor compares with a function that joins the lines and walks back.
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
		forwarded := http.Header{"X-Forwarded-For": lines}
		got := clientIP(&http.Request{RemoteAddr: peer, Header: forwarded})
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

// fixedStore is a store that answers with the last grant that was put, or with err.
type fixedStore struct {
	last  tickets.Grant
	err   error
	takes int
}

func (s *fixedStore) Put(_ context.Context, _ tickets.Key, g tickets.Grant) error {
	s.last = g
	return nil
}

func (s *fixedStore) Take(context.Context, tickets.Key) (tickets.Grant, error) {
	s.takes++
	return s.last, s.err
}

func fuzzGuard(f *testing.F, opts middleware.GuardOptions) (*middleware.Guard, *fixedStore) {
	store := new(fixedStore)
	issuer := must(tickets.NewIssuer(store, nil))
	must(issuer.Mint(f.Context(), tickets.Grant{UserID: "ann"}))
	opts.Audit = quiet
	return must(middleware.NewGuard(issuer, &opts)), store
}

// Invariants: two tickets are always refused, without asking the store. An admitted request
// has asked the store once, about one well-formed ticket. Behind ConcealTicket the verdict
// is the same.
func FuzzTicketCarriers(f *testing.F) {
	for _, tc := range refusals {
		fill := strings.NewReplacer("{T}", minted, "{T2}", minted, "{U}", minted)
		r := readRequest(fill.Replace(tc.request))
		if r != nil && len(r.URL.RawQuery) < 4096 {
			f.Add(r.URL.RawQuery, r.Header.Get("Sec-WebSocket-Protocol"))
		}
	}
	for _, row := range concealRows[:len(concealRows)-1] {
		f.Add(row.query, "")
		f.Add(row.query, "chat, ticket."+minted)
	}
	guard, store := fuzzGuard(f, middleware.GuardOptions{})
	f.Fuzz(func(t *testing.T, query, protocol string) {
		raw := func() *http.Request {
			r := readRequest(upgrade("GET", "/ws"))
			r.URL.RawQuery, r.RequestURI = query, "/ws?"+query
			r.Header["Sec-Websocket-Protocol"] = []string{protocol}
			return r
		}
		verdict := func(concealed bool) (v string) {
			store.takes = 0
			judge := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				a, rej := guard.Admit(r)
				if rej != nil {
					v = fmt.Sprintf("%d %s %s, %d takes", rej.Status, rej.Code, rej.Reason,
						store.takes)
					return
				}
				defer a.Release()
				v = fmt.Sprintf("in, %d takes", store.takes)
			})
			if concealed {
				middleware.ConcealTicket(judge).ServeHTTP(nil, raw())
			} else {
				judge.ServeHTTP(nil, raw())
			}
			return v
		}
		v := verdict(false)
		if c := verdict(true); c != v {
			t.Fatalf("%q, concealed: %q", v, c)
		}
		values, err := url.ParseQuery(query)
		found := values["ticket"]
		for _, p := range strings.FieldsFunc(protocol, func(r rune) bool { return r == ',' }) {
			if rest, ok := strings.CutPrefix(strings.Trim(p, " \t"), "ticket."); ok {
				found = append(found, rest)
			}
		}
		fits := err == nil && len(query) <= 2048 && len(protocol) <= 2048
		switch {
		case v == "in, 1 takes":
			if !fits || len(found) != 1 || !looksMinted(found[0]) {
				t.Fatalf("let in with %q", found)
			}
		case strings.HasPrefix(v, "in"), !strings.HasSuffix(v, ", 0 takes"):
			t.Fatal(v)
		case fits && len(found) > 1 && v != "400 bad_request two_tickets, 0 takes":
			t.Fatalf("%d tickets: %s", len(found), v)
		}
	})
}

// looksMinted reports whether s is 43 characters of base64url, whatever its last bits.
func looksMinted(s string) bool {
	return len(s) == 43 && strings.Trim(s, base64url) == ""
}

// Invariants: a request that PassOthers passes on has nothing of an upgrade. An admitted
// upgrade is one by RFC 6455 section 4.2.1.
func FuzzUpgradeHeaders(f *testing.F) {
	for _, tc := range refusals {
		if r := readRequest(tc.request); r != nil && len(tc.request) < 4096 {
			f.Add(r.Method, strings.Join(r.Header["Connection"], ","), r.Header.Get("Upgrade"),
				"Sec-WebSocket-Key", r.Header.Get("Sec-WebSocket-Key"))
		}
	}
	f.Add("GET", "not-upgrade", "websocket", "X-A", "b")
	f.Add("GET", "upgrade", "", "sec-websocket-version", "13")
	f.Add("CONNECT", "", "", ":protocol", "websocket")
	guard, store := fuzzGuard(f, middleware.GuardOptions{PassOthers: true, AdmitRequests: true})
	f.Fuzz(func(t *testing.T, method, connection, upgrade, name, value string) {
		raw := method + " /ws?ticket=" + minted + " HTTP/1.1\r\nHost: app.example\r\n"
		for _, h := range [][2]string{
			{"Connection", connection}, {"Upgrade", upgrade}, {name, value},
		} {
			if h[1] != "" {
				raw += h[0] + ": " + h[1] + "\r\n"
			}
		}
		r := readRequest(raw + "\r\n")
		if r == nil || strings.ContainsAny(connection+upgrade+name+value, "\r\n") {
			return
		}
		store.takes = 0
		guard.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, got *http.Request) {
			_, in := middleware.SessionFrom(got.Context())
			if in != (store.takes == 1) {
				t.Fatalf("session %v, %d takes", in, store.takes)
			}
			resembles := r.Method == "CONNECT" || r.Header["Upgrade"] != nil
			for name := range r.Header {
				resembles = resembles || strings.HasPrefix(strings.ToLower(name), "sec-websocket-")
			}
			asks := false
			for t := range strings.SplitSeq(strings.Join(r.Header["Connection"], ","), ",") {
				asks = asks || strings.EqualFold(strings.Trim(t, " \t"), "upgrade")
			}
			if (resembles || asks) && !in {
				t.Fatal("passed without a ticket")
			}
			connection := strings.ToLower(strings.Join(r.Header["Connection"], ","))
			isUpgrade := r.Method == "GET" && strings.Contains(connection, "upgrade") &&
				strings.Contains(strings.ToLower(upgrade), "websocket")
			if resembles && !isUpgrade {
				t.Fatal("let in, and no upgrade")
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	})
}

// Invariants: no value that looks like a ticket is left under its name, and no ticket
// parameter of an upgrade. The other parameters are left byte for byte and in order, or
// nothing of a query that does not parse. URL, RequestURI and Referer agree.
func FuzzConcealTicket(f *testing.F) {
	for _, row := range concealRows[:len(concealRows)-1] {
		f.Add(row.query, true)
		f.Add(row.query, false)
	}
	f.Fuzz(func(t *testing.T, query string, isUpgrade bool) {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.URL.RawQuery, r.RequestURI = query, "/ws?"+query
		r.Header["Referer"] = []string{"/ws?" + query}
		if isUpgrade {
			r.Header["Upgrade"] = []string{"websocket"}
		}
		var got *http.Request
		keep := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r })
		middleware.ConcealTicket(keep).ServeHTTP(nil, r)
		left := got.URL.RawQuery
		queryOf := func(uri string) string {
			return strings.TrimPrefix(strings.TrimPrefix(uri, "/ws"), "?")
		}
		if uri := queryOf(got.RequestURI); uri != left {
			t.Fatalf("URL %q, RequestURI %q", left, uri)
		}
		if referer := queryOf(got.Header.Get("Referer")); referer != left {
			t.Fatalf("URL %q, Referer %q", left, referer)
		}
		if left == query {
			values, err := url.ParseQuery(left)
			if isUpgrade && err != nil {
				t.Fatal("an upgrade's query that does not parse is left")
			}
			for name, vs := range values { // also of those pairs that parse
				for _, v := range vs {
					ours := strings.Contains(strings.ToLower(name), "ticket") && looksMinted(v)
					if ours || name == "ticket" && isUpgrade {
						t.Fatalf("%s=%q is left", name, v)
					}
				}
			}
			return
		}
		if _, err := url.ParseQuery(query); err != nil {
			if left != "" {
				t.Fatalf("%q is left of a query that does not parse", left)
			}
			return
		}
		// What is left stands in query in the same order, and nothing that looks like a ticket is
		// left.
		rest := query
		separates := func(c rune) bool { return strings.ContainsRune("&?#", c) }
		for part := range strings.FieldsFuncSeq(left, separates) {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Fatalf("%q is left of %q", left, query)
			}
			rest = after
		}
		if v := ticketValue.FindString(left); v != "" {
			t.Fatalf("%q is left", v)
		}
	})
}

var ticketValue = regexp.MustCompile(`(?i)ticket[^=&?#%]*=(.*[^\w%-])?[\w-]{43}([&?#]|$)`)

// Invariants: the answer is a ticket, 400, 413 or 415. A ticket's endpoint is a clean path
// that Authorize was asked about. A body that names an endpoint never mints a ticket for
// all.
func FuzzMintBody(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", `{"endpoint":"/ws"}`, `{"endpoint":"/ws/../a"}`, `{"endpoint":"//a"}`,
		`{"endpoint":"/a%2Fb"}`, `{"Endpoint":"/a","endpoint":"/b"}`, `{"endpoint":"/a"}{}`,
		`{"endpoint":"/\u002e\u002e/a"}`, `{"endpoint":"/%2e"}`, `[]`, `{"endpiont":"/a"}`,
		`{"endpoint":"/a?b"}`, "{\"endpoint\":\"/\xff\"}",
	} {
		f.Add([]byte(body), "application/json")
	}
	store := new(fixedStore)
	issuer := must(tickets.NewIssuer(store, nil))
	var asked string
	mint := must(middleware.NewMint(issuer, &middleware.MintOptions{
		Audit: quiet,
		Authorize: func(_ context.Context, _ *middleware.Session, endpoint string) error {
			asked = endpoint
			return nil
		},
	}))
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		r := httptest.NewRequest("POST", mintPath, bytes.NewReader(body))
		r.Header["Content-Type"] = []string{contentType}
		rec := httptest.NewRecorder()
		store.last = tickets.Grant{}
		signedInAs(&middleware.Session{UserID: "ann"})(mint).ServeHTTP(rec, r)
		switch rec.Code {
		case 400, 413, 415:
			if store.last != (tickets.Grant{}) {
				t.Fatal("refused, and minted")
			}
			return
		case 200:
		default:
			t.Fatal(rec.Code, rec.Body)
		}
		e := store.last.Endpoint
		if e != asked {
			t.Fatalf("asked about %q, minted for %q", asked, e)
		}
		clean := path.Clean(e)
		isClean := strings.HasPrefix(e, "/") && (e == clean || e == clean+"/")
		if e != "" && (!isClean || strings.ContainsAny(e, "\\\x00\r\n")) {
			t.Fatalf("minted for %q", e)
		}
		var named struct{ Endpoint *string }
		if len(body) > 0 && json.Unmarshal(body, &named) != nil {
			t.Fatal("minted for what is no JSON")
		}
		if named.Endpoint != nil && (*named.Endpoint == "") != (e == "") {
			t.Fatalf("%q named, minted for %q", *named.Endpoint, e)
		}
	})
}

// Invariants: a request is admitted only with a grant and no error, for this path, of a
// session that has not ended, and as the grant's user. A failure is 503 and an invalid
// ticket 401, always the same bytes. Each refusal leaves one line.
func FuzzStoreAnswer(f *testing.F) {
	for kind := range uint8(10) {
		f.Add(kind, "session", "oidc", "ann", "", "", int64(30), int64(0))
		f.Add(kind, "", "", "", "/ws", "room 7", int64(-30), int64(60))
	}
	f.Add(uint8(0), "s\x00\xff", "p\n", "u\r\n\u202e", "/ws/", strings.Repeat("d", 9000), int64(0),
		int64(-1))
	f.Add(uint8(0), "s", "p", "u", "/ws", "", int64(1), int64(math.MinInt64))
	f.Add(uint8(0), "s", "p", "u", "//ws", "", int64(math.MaxInt64), int64(math.MaxInt64))
	store := new(fixedStore)
	issuer := must(tickets.NewIssuer(store, nil))
	log, rec := newAudit()
	guard := must(middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: log}))
	request := upgrade("GET", "/ws?ticket="+minted[:42]+"A")
	at := func(seconds int64) time.Time { // 0: none
		if seconds == 0 {
			return time.Time{}
		}
		return time.Now().Add(time.Duration(seconds%(1<<32)) * time.Second)
	}
	refused := map[int]string{}
	f.Fuzz(func(
		t *testing.T, kind uint8, id, provider, user, endpoint, data string, expires, ends int64,
	) {
		g := tickets.Grant{SessionID: id, Provider: provider, UserID: user, Endpoint: endpoint,
			Data: data, ExpiresAt: at(expires), SessionExpiresAt: at(ends)}
		errs := []error{
			nil, tickets.ErrUnknown, tickets.ErrUsed, tickets.ErrExpired, tickets.ErrRevoked,
			tickets.ErrInvalid, fmt.Errorf("%s: %w", user, tickets.ErrUsed), errors.New(data),
			context.Canceled, tickets.ErrFull,
		}
		store.last, store.err = g, errs[int(kind)%len(errs)]
		rec.Take()
		suppressed := log.Stats().Suppressed
		a, rej := guard.Admit(readRequest(request))
		over := ends != 0 && !time.Now().Before(g.SessionExpiresAt)
		var want int
		switch {
		case errors.Is(store.err, tickets.ErrInvalid):
			want = 401
		case store.err != nil, expires == 0:
			want = 503
		case endpoint != "" && endpoint != "/ws":
			want = 403
		case over:
			want = 401
		}
		if rej == nil {
			defer a.Release()
			s := a.Session
			if want != 0 || s.ID != id || s.Provider != provider || s.UserID != user ||
				s.Data != data {
				t.Fatalf("let in as %#v, want %d", *s, want)
			}
			return
		}
		if rej.Status != want {
			t.Fatalf("%d (%s), want %d", rej.Status, rej.Reason, want)
		}
		lines := rec.Lines(t)
		quiet := log.Stats().Suppressed > suppressed
		if !quiet && (len(lines) != 1 || lines[0]["event"] != "ws_ticket_rejected") {
			t.Fatalf("%d lines: %v", len(lines), lines)
		}
		w := httptest.NewRecorder()
		rej.ServeHTTP(w, readRequest(request))
		text := fmt.Sprint(w.Code, w.Header(), w.Body)
		if first, ok := refused[want]; ok && first != text {
			t.Fatalf("%s, and before %s", text, first)
		}
		refused[want] = text
	})
}
