// Package whatwg holds what this library says of the way back after sign-in against the URL parser
// that browsers have: Node's URL is the WHATWG URL standard's.
package whatwg

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/middleware"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//go:embed resolve.js
var program string

// browser is a Node process that resolves references as browsers do.
type browser struct {
	in  *bufio.Writer
	out *bufio.Reader
}

// newBrowser starts one that ends with the test, however that ends: it reads until its input does.
func newBrowser(t testing.TB) *browser {
	t.Helper()
	path, err := servers.Find("node", "nodejs")
	servers.Skip(t, err)
	cmd := exec.Command(path, "-e", program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error("node: ", err)
		}
	})
	return &browser{bufio.NewWriterSize(in, 1<<16), bufio.NewReaderSize(out, 1<<16)}
}

// reference is what a page at base is sent to.
type reference struct{ base, to string }

// place is where a browser goes; the zero place is nowhere.
type place struct {
	origin, path string
	next         *string // of the query
}

// follow returns where each of refs leads.
func (b *browser) follow(t testing.TB, refs []reference) []place {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		for _, r := range refs {
			line, _ := json.Marshal([2]string{r.base, r.to}) // strings cannot fail to encode
			b.in.Write(append(line, '\n'))
		}
		written <- b.in.Flush()
	}()
	places := make([]place, len(refs))
	for i := range places {
		line, err := b.out.ReadBytes('\n')
		require.NoError(t, err)
		var to []*string
		require.NoError(t, json.Unmarshal(line, &to))
		if to != nil {
			places[i] = place{*to[0], *to[1], to[2]}
		}
	}
	require.NoError(t, <-written)
	return places
}

// isomorphic is s as who reads a header as ISO-8859-1 does (Fetch, "isomorphic decode").
func isomorphic(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// pages are where a browser may be when it is sent on.
var pages = []string{"https://app.example/login?next=/x", "http://app.example/login",
	"https://app.example:8443/a/b", "http://[2001:db8::1]/"}

// origins are those of pages.
var origins = []string{"https://app.example", "http://app.example", "https://app.example:8443",
	"http://[2001:db8::1]"}

// check is one value on its way: what a sign-in page answers that was asked with it, and what a
// gate answers that was asked for it.
type check struct {
	value, next string
	refs        []reference
	origin      []string
	asked       bool   // the last of refs is the gate's
	back        string // the way back that it has; "": another form of it, or none
}

var gate = must(middleware.NewGate(middleware.AuthenticatorFunc(nobody),
	&middleware.GateOptions{LoginURL: "/login", Audit: audit.New(slog.DiscardHandler)}))

func nobody(http.ResponseWriter, *http.Request) (*middleware.Session, error) {
	return nil, middleware.ErrNoSession
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newCheck(value string) (c check) {
	r := httptest.NewRequest("GET", "/login?next="+url.QueryEscape(value), nil)
	c = check{value: value, next: middleware.Next(r)}
	if c.next != "/" { // that leads nowhere else
		w := httptest.NewRecorder()
		http.Redirect(w, r, c.next, http.StatusSeeOther)
		for i, page := range pages {
			for _, to := range []string{c.next, isomorphic(c.next), w.Header().Get("Location")} {
				c.refs = append(c.refs, reference{page, to})
				c.origin = append(c.origin, origins[i])
			}
		}
	}
	request := "GET " + value + " HTTP/1.1\r\nHost: app.example\r\nAccept: text/html\r\n\r\n"
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil || strings.ContainsAny(value, "\r\n") {
		return c
	}
	_, rej := gate.Authenticate(nil, r)
	if rej == nil { // the sign-in page
		return c
	}
	w := httptest.NewRecorder()
	rej.ServeHTTP(w, r)
	if location := w.Header().Get("Location"); location != "" {
		if c.asked = true; strings.HasPrefix(value, "/") {
			c.back = value
		}
		c.refs = append(c.refs, reference{pages[0], location})
		c.origin = append(c.origin, origins[0])
	}
	return c
}

// hold fails unless every browser stays where the check says, and reports whether the value was
// followed.
func (c check) hold(t testing.TB, places []place) (followed bool) {
	t.Helper()
	for i, p := range places {
		if p.origin != c.origin[i] {
			t.Fatalf("%q: from %s, %q leads to %+v", c.value, c.refs[i].base, c.refs[i].to, p)
		}
		if c.asked && i == len(places)-1 {
			if p.path != "/login" || p.next != nil && c.back != "" && *p.next != c.back {
				t.Fatalf("%q: the gate leads to %s, next %q", c.value, p.path, *p.next)
			}
			continue
		}
		if path, err := url.PathUnescape(p.path); err == nil && path == "/login" {
			t.Fatalf("%q: %q leads to the sign-in page", c.value, c.refs[i].to)
		}
	}
	return c.next != "/"
}

// hostile are values that made others send browsers away; generate takes them apart.
var hostile = []string{
	// oauth2-proxy GHSA-j7px-6hwj-hpjg
	"//evil.example", "///evil.example", "////evil.example", `/\evil.example`, `\/evil.example`,
	`\\evil.example`, `/\/evil.example`,
	"/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "\t//evil.example",
	"\x01//evil.example", "/\\\tevil.example",
	"https:evil.example", "HtTpS://evil.example", `https:\\evil.example`, "http:///evil.example",
	"//user@evil.example/",
}

var seeds = append([]string{
	"/", "/a/b/", `/a\..\..\\evil.example`, "/ok?x=1#f", "/ok?x=//evil.example", "/a//b", "/a:b",
	"/@evil.example", "/a b", "/é", "/%2f/evil", "/%09/evil", "/%5cevil",
	"/.//evil.example", "/a/..//evil.example", "/%2e//evil.example", "/a/%2E%2e//evil.example",
	"/.%2e/b", "/..;/b", "/a/..%2f..%2fb", "/login", "/login ", "/%6cogin",
	"/login?next=/login", "/./login", "/login/", "/Login", "javascript:alert(1)",
	"java\tscript:alert(1)", "data:text/html,x", "/ok\r\nSet-Cookie: a=b",
	"/\u2028/evil.example", "/\u3000", "/\u0085/evil.example", "/\ufeff//evil.example",
	"/／evil.example", "/。。/evil.example", "/\xff//evil.example", "/%zz", "*", "?a", "#a", "",
}, hostile...)

// parts are what generate puts together.
var parts = append([]string{
	"/", "/", "/", "//", `\`, ".", "..", "%2e", "%2E", "%2f", "%5c", "%00", "%09", "%0a", "\t",
	"\n", "\r", "\x00", " ", "?", "#", "@", ":", ";", "&", "=", "%",
	"evil.example", "login", "next=", "a", "b", "https:", "http:", "javascript:", "é", "\u2028",
	"\u0085", "\u00a0", "\u00ad", "\u200b", "／", "＼", "．", "[", "]", "|", "^", "`", "{",
	"\x7f", "\xc0\xaf",
}, seeds...)

func generate(random *rand.Rand) string {
	var b strings.Builder
	if random.IntN(4) > 0 { // else nearly nothing were followed
		b.WriteByte('/')
	}
	for range 1 + random.IntN(6) {
		switch part := parts[random.IntN(len(parts))]; random.IntN(8) {
		case 0:
			b.WriteRune(rune(random.IntN(0x300)))
		case 1:
			b.WriteString(part[:random.IntN(len(part)+1)])
		case 2:
			b.WriteString(part[random.IntN(len(part)+1):])
		default:
			b.WriteString(part)
		}
	}
	return b.String()
}

// Wherever a value of next comes from, a browser that follows what becomes of it stays on this
// server, and not at the sign-in page. WHATWG_INPUTS is how many values are tried.
func TestNextKeepsBrowsersHere(t *testing.T) {
	inputs := 20_000
	if text := os.Getenv("WHATWG_INPUTS"); text != "" {
		inputs = must(strconv.Atoi(text))
	}
	b := newBrowser(t)
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	tried, followed, asked := 0, 0, 0
	for tried < inputs {
		var checks []check
		var refs []reference
		for range min(1000, inputs-tried) {
			value := generate(random)
			if tried+len(checks) < len(seeds) {
				value = seeds[tried+len(checks)]
			}
			c := newCheck(value)
			checks = append(checks, c)
			refs = append(refs, c.refs...)
		}
		places := b.follow(t, refs)
		for _, c := range checks {
			if c.hold(t, places[:len(c.refs)]) {
				followed++
			}
			places = places[len(c.refs):]
		}
		tried, asked = tried+len(checks), asked+len(refs)
	}
	t.Logf("%d values, %d of them followed; %d references resolved", tried, followed, asked)
	require.Greater(t, followed, tried/20,
		"next to nothing was followed: next to nothing was checked")
}

// The browser does leave, where nobody looks at what it is given.
func TestBrowserLeaves(t *testing.T) {
	b := newBrowser(t)
	for _, value := range hostile {
		to := b.follow(t, []reference{{pages[1], value}})[0]
		require.NotEqual(t, origins[1], to.origin, "%q", value)
		require.Equal(t, "/", newCheck(value).next)
	}
	require.Equal(t, place{}, b.follow(t, []reference{{pages[0], "https://"}})[0])
}

// FuzzNextAgainstBrowser is TestNextKeepsBrowsersHere with the fuzzer's ideas.
func FuzzNextAgainstBrowser(f *testing.F) {
	for _, value := range seeds {
		f.Add(value)
	}
	b := newBrowser(f)
	f.Fuzz(func(t *testing.T, value string) {
		if c := newCheck(value); utf8.ValidString(value) || c.next == "/" {
			c.hold(t, b.follow(t, c.refs))
		} else {
			t.Fatalf("%q is followed, and no UTF-8", value)
		}
	})
}
