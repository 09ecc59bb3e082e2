package middleware_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// mintBed is a Mint behind a gate, its store, and what both write to the audit.
type mintBed struct {
	*bed
	handler http.Handler
}

func newMintBed(t testing.TB, opts middleware.MintOptions, s *middleware.Session) mintBed {
	t.Helper()
	b := newBed(t, middleware.GuardOptions{})
	opts.Audit, b.rec = newAudit()
	mint := must(middleware.NewMint(b.issuer, &opts))
	return mintBed{b, signedInAs(s)(mint)}
}

func TestMint_AnswersByRequest(t *testing.T) {
	list := []string{"https://app.example", "https://other.example:8443"}
	listed := middleware.MintOptions{Origins: list}
	allows := func(paths ...string) (opts middleware.MintOptions) {
		opts.Authorize = func(_ context.Context, s *middleware.Session, endpoint string) error {
			if slices.Contains(paths, endpoint) && s.UserID == "ann" {
				return nil
			}
			return errors.New("not for you")
		}
		return opts
	}
	type row struct {
		refusal
		endpoint string // of the ticket that is minted
		opts     middleware.MintOptions
	}
	ok := func(name, source, request, endpoint string) row {
		return row{refused(200, "", "")(name, source, request), endpoint, middleware.MintOptions{}}
	}
	no := func(status int, code, reason string) func(name, source, request string) row {
		return func(name, source, request string) row {
			return row{refusal: refused(status, code, reason)(name, source, request)}
		}
	}
	method, forbidden := no(405, "method_not_allowed", "method"), no(403, "forbidden", "origin")
	tooLarge, wrongType := no(413, "too_large", "body"), no(415, "unsupported_media_type", "body")
	bad := no(400, "bad_request", "body")
	chunks := func(body string) string { return post("", chunked, jsonType) + body }
	const own, other = "Origin: https://app.example", "Origin: https://other.example:8443"
	kib := strings.Repeat("a", 1<<10-len(`{"endpoint":"/"}`)) // makes a body of 1 KiB
	rows := []row{
		ok("no body", "", post(""), ""),
		ok("length 0 of another type", "",
			post("", "Content-Length: 0", "Content-Type: text/plain"), ""),
		ok("empty object", "", post("{}"), ""),
		ok("no chunks", "RFC 9112 7.1", post("", chunked)+"0\r\n\r\n", ""),
		ok("endpoint", "", post(`{"endpoint":"/ws/pty"}`), "/ws/pty"),
		ok("endpoint in chunks", "RFC 9112 7.1",
			chunks("9\r\n{\"endpoin\r\n8\r\nt\":\"/a\"}\r\n0\r\n\r\n"), "/a"),
		ok("endpoint escaped: the ticket is for its plain spelling", "HOSTILE W30",
			post(`{"endpoint":"/ws/%70ty%20x"}`), "/ws/pty x"),
		ok("endpoint with a slash behind", "RFC 3986 6.2.3", post(`{"endpoint":"/ws/"}`), "/ws/"),
		ok("JSON with a charset", "RFC 8259 11",
			post(`{"endpoint":"/a"}`, "Content-Type: Application/JSON; charset=utf-8"), "/a"),
		ok("body of 1 KiB", "RFC 9110 15.5.14", post(`{"endpoint":"/`+kib+`"}`), "/"+kib),
		ok("same site says so", "Fetch Metadata", post("", sameOrigin, own), ""),
		ok("address bar", "Fetch Metadata", post("", "Sec-Fetch-Site: none"), ""),
		ok("Origin in capitals", "CrossOriginProtection compares bytes",
			post("", "Origin: https://APP.example"), ""),
		ok("default port", "RFC 6454 4", post("", "Origin: https://app.example:443"), ""),
		ok("default port and Fetch Metadata", "RFC 6454 4",
			post("", "Origin: https://app.example:443", sameOrigin), ""),
		method("GET", "exempt from CrossOriginProtection", rawRequest("GET", mintPath, crossSite)),
		method("HEAD", "exempt from CrossOriginProtection", rawRequest("HEAD", mintPath)),
		method("OPTIONS", "exempt from CrossOriginProtection", rawRequest("OPTIONS", mintPath)),
		method("post", "RFC 9110 9.1", rawRequest("post", mintPath, "Content-Length: 0")),
		method("PUT", "RFC 9110 15.5.6", rawRequest("PUT", mintPath, "Content-Length: 0")),
		method("GET with override", "X-HTTP-Method-Override",
			rawRequest("GET", mintPath, "X-HTTP-Method-Override: POST")),
		method("upgrade", "RFC 6455 4.1", upgrade("GET", mintPath)),
		forbidden("cross-site", "CVE-2026-34403", post("", crossSite)),
		forbidden("same-site", "a sibling domain", post("", "Sec-Fetch-Site: same-site")),
		forbidden("cross-site, own Origin", "Fetch Metadata", post("", crossSite, own)),
		forbidden("cross-site to a path of hooks", "CVE-2025-47910",
			strings.Replace(post("", crossSite), mintPath, "/hook", 1)),
		forbidden("unknown Sec-Fetch-Site", "Fetch Metadata",
			post("", "Sec-Fetch-Site: SAME-ORIGIN")),
		forbidden("two Sec-Fetch-Site", "HOSTILE M16", post("", sameOrigin, crossSite)),
		forbidden("two Sec-Fetch-Site, the first empty", "HOSTILE M16",
			post("", "Sec-Fetch-Site:", crossSite)),
		forbidden("a list in Sec-Fetch-Site", "HOSTILE M16",
			post("", "Sec-Fetch-Site: same-origin, cross-site")),
		forbidden("null", "RFC 6454 6.1", post("", "Origin: null")),
		forbidden("null that claims to be", "RFC 6454 6.1", post("", "Origin: null", sameOrigin)),
		forbidden("empty Origin", "RFC 6454 7.1", post("", "Origin:")),
		forbidden("another Origin", "ASVS 4.4.2", post("", evilOrigin)),
		forbidden("another port", "RFC 6454 4", post("", "Origin: https://app.example:8443")),
		forbidden("suffix", "CVE-2026-34403", post("", "Origin: https://app.example.evil")),
		forbidden("two Origins", "RFC 6454 7.3", post("", own, own)),
		tooLarge("1 KiB and 1", "RFC 9110 15.5.14", post(`{"endpoint":"/`+kib+`a"}`)),
		tooLarge("10 MB that never come", "CWE-400",
			rawRequest("POST", mintPath, "Content-Length: 10000000", jsonType)),
		tooLarge("endless chunks", "CWE-400",
			chunks(strings.Repeat("100\r\n"+strings.Repeat(" ", 256)+"\r\n", 8))),
		wrongType("form", "simple requests need no CORS",
			post("endpoint=/a", "Content-Type: application/x-www-form-urlencoded")),
		wrongType("text that is JSON", "simple requests need no CORS",
			post(`{"endpoint":"/a"}`, "Content-Type: text/plain")),
		wrongType("no type", "RFC 9110 8.3", post(`{"endpoint":"/a"}`, "Content-Type:")),
		wrongType("two types", "like two Sec-Fetch-Site, HOSTILE M16",
			post(`{"endpoint":"/a"}`, jsonType, "Content-Type: text/plain")),
		wrongType("type that only begins so", "RFC 9110 8.3",
			post(`{}`, "Content-Type: application/jsonp")),
		bad("cut", "RFC 8259", post(`{"endpoint":"/a"`)),
		bad("cut in the name", "RFC 8259", post(`{"endpoin"`)),
		bad("cut behind the name", "a ticket for any path", post(`{"endpoint"`)),
		bad("cut before the value", "a ticket for any path", post(`{"endpoint":`)),
		bad("cut behind another name", "RFC 8259", post(`{"endpoint":"/a","x"`)),
		bad("cut before another value", "RFC 8259", post(`{"endpoint":"/a","x":`)),
		bad("two values", "RFC 8259 2", post(`{"endpoint":"/a"}{}`)),
		bad("list", "", post(`["/a"]`)),
		bad("string", "", post(`"/a"`)),
		bad("endpoint is a number", "", post(`{"endpoint":1}`)),
		bad("endpoint is a number too large", "a ticket for any path", post(`{"endpoint":1e999}`)),
		bad("an array", "RFC 8259 5", post(`["endpoint","/a"]`)),
		bad("misspelt, which would be good anywhere", "", post(`{"endpiont":"/a"}`)),
		bad("null", "HOSTILE M16: a ticket for any path", post("null")),
		bad("null between spaces", "HOSTILE M16: a ticket for any path", post(" null\n")),
		bad("endpoint null", "HOSTILE M16: a ticket for any path", post(`{"endpoint":null}`)),
		bad("endpoint twice", "RFC 8259 4: the last would win",
			post(`{"endpoint":"/a","endpoint":"/b"}`)),
		bad("endpoint twice, once null", "HOSTILE M16", post(`{"endpoint":"/a","endpoint":null}`)),
		bad("endpoint twice, in another case", "HOSTILE M16",
			post(`{"endpoint":"/a","Endpoint":""}`)),
		bad("endpoint in capitals", "RFC 8259 4", post(`{"ENDPOINT":"/a"}`)),
		bad("no JSON", "", post("\xef\xbb\xbf{}")),
		bad("broken chunk", "RFC 9112 7.1", chunks("zz\r\n")),
	}
	for _, endpoint := range []string{
		"ws", "//evil.example/ws", "https://app.example/ws", "/ws?a=1", "/ws#a", "/ws/../admin",
		"/./ws", "//ws", "/ws//pty", "/ws%2Fpty", "/ws/%2e%2e/admin", `/ws\\pty`, "/ws%5Cpty",
		"/ws\\u0000", "/ws%00", "/ws\\n", "/ws%zz", "*", "/ws%0d%0aX-A:%20b",
		"/ws/%252e%252e/admin", "/ws%252Fpty",
	} {
		body := `{"endpoint":"` + endpoint + `"}`
		rows = append(rows, bad("endpoint "+endpoint, "GHSA-gm3x-23wp-hc2c", post(body)))
	}
	with := func(opts middleware.MintOptions, tc row) row { tc.opts = opts; return tc }
	denied := no(403, "forbidden", "endpoint")
	rows = append(rows,
		with(listed, ok("listed", "", post("", other), "")),
		with(listed, ok("listed, cross-site", "Fetch Metadata", post("", other, crossSite), "")),
		with(listed, ok("listed, in capitals", "CrossOriginProtection compares bytes",
			post("", "Origin: HTTPS://Other.Example:8443", crossSite), "")),
		with(listed, forbidden("own host, not listed", "the list is all of it",
			toHost("own.example", post("", "Origin: https://own.example")))),
		with(listed,
			forbidden("listed by http", "RFC 6454 4", post("", "Origin: http://app.example"))),
		with(allows("/a"), ok("allowed", "", post(`{"endpoint":"/a"}`), "/a")),
		with(allows("/a b"),
			ok("asked in the decoded form", "", post(`{"endpoint":"/a%20b"}`), "/a b")),
		with(allows("/a", ""), ok("any, allowed", "", post(""), "")),
		with(allows("/a"), denied("any, not allowed", "CWE-863", post(""))),
		with(allows("/a"), denied("another", "CWE-863", post(`{"endpoint":"/a/"}`))),
		with(allows("/a"), denied("empty, which is any", "CWE-863", post(`{"endpoint":""}`))),
	)
	for name, ask := range map[string]func(*testing.T, http.Handler, string) (answer, bool){
		"h1": func(t *testing.T, h http.Handler, request string) (answer, bool) {
			return send(t, serve(t, h), request), true
		},
		"h1 behind ServeMux": func(t *testing.T, h http.Handler, request string) (answer, bool) {
			mux := http.NewServeMux()
			mux.Handle(mintPath, h)
			mux.Handle("/hook/", h)
			mux.Handle("/hook", h)
			return send(t, serve(t, mux), request), true
		},
		"h2": func(t *testing.T, h http.Handler, request string) (answer, bool) {
			return sendAsH2(t, serveTLS(t, h), request)
		},
	} {
		for _, tc := range rows {
			t.Run(name+"/"+tc.name+" ("+tc.source+")", func(t *testing.T) {
				b := newMintBed(t, tc.opts, ann())
				a, asked := ask(t, b.handler, tc.request)
				if !asked {
					return // HTTP/2 has no such request
				}
				require.Equal(t, tc.status, a.Status, a)
				if tc.code != "" {
					tc.allow = "POST"
					requireRefusal(t, tc.refusal, a)
					require.Zero(t, b.store.puts.Load())
					lines := b.rec.Lines(t)
					require.Len(t, lines, 1)
					assert.Equal(t,
						[]any{"ws_mint_refused", tc.reason,
							"127.0.0.1", "oidc", "ann", auditID(ann().ID)},
						fields(lines[0], "event", "reason", "ip", "provider", "user_id", "session"))
					assert.Equal(t, strings.Contains(tc.request, "Origin:"),
						lines[0]["origin"] != nil)
					return
				}
				ticket := requireMinted(t, a, 30)
				require.Equal(t, fmt.Sprintf(`{"event":"ws_ticket_minted","provider":"oidc",`+
					`"user_id":"ann","ip":"127.0.0.1","ticket_id":"%s","endpoint":"%s",`+
					`"session":"%s"}`+"\n",
					auditID(ticket), tc.endpoint, auditID(ann().ID)), b.rec.Text())
				g, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
				require.NoError(t, err)
				require.Equal(t, tc.endpoint, g.Endpoint)
				require.Equal(t, ann().ID, g.SessionID)
			})
		}
	}
}

// sendAsH2 sends a raw request over HTTP/2, and reports whether HTTP/2 has such a request.
func sendAsH2(t *testing.T, srv *httptest.Server, raw string) (answer, bool) {
	t.Helper()
	r := readRequest(raw)
	if r == nil || r.Header["Connection"] != nil {
		return answer{}, false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, false
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	u := &url.URL{Scheme: "https", Host: srv.Listener.Addr().String(),
		Opaque: "//" + r.Host + r.RequestURI}
	out := &http.Request{Method: r.Method, Host: r.Host, Header: r.Header, URL: u}
	out = out.WithContext(ctx)
	if len(body) > 0 {
		out.ContentLength, out.Body = int64(len(body)), io.NopCloser(bytes.NewReader(body))
	}
	res, err := srv.Client().Transport.RoundTrip(out)
	require.NoError(t, err)
	a := readAnswer(t, res)
	require.Equal(t, "HTTP/2.0", a.Proto)
	return a, true
}

// endlessBody is a request to mint whose body does not come.
var endlessBody = rawRequest("POST", mintPath, "Content-Length: 100", jsonType) + "{"

// A page that goes while it mints has spent one ticket at most.
func TestMint_ClientGone(t *testing.T) {
	for _, tc := range []struct {
		name, request string
		puts          int64
	}{
		{"in the midst of its body", endlessBody, 0},
		{"while the store is slow", post(""), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newMintBed(t, middleware.MintOptions{}, ann())
			began, gone, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
			b.store.onPut = func() error {
				began <- struct{}{}
				<-gone
				return nil
			}
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(done)
				if tc.puts == 0 {
					began <- struct{}{}
				}
				b.handler.ServeHTTP(w, r)
			}))
			conn := begin(t, srv, tc.request)
			<-began
			require.NoError(t, conn.Close())
			close(gone)
			<-done
			assert.Equal(t, tc.puts, b.store.puts.Load())
			assert.Len(t, b.rec.Lines(t), 1, "one outcome, one line")
		})
	}
}

// requireMinted holds an answer to the wire contract, byte for byte.
func requireMinted(t *testing.T, a answer, ttl int) (ticket string) {
	t.Helper()
	require.Equal(t, http.StatusOK, a.Status, a)
	require.Regexp(t, fmt.Sprintf(`^\{"ticket":"[A-Za-z0-9_-]{43}","ttl_seconds":%d\}$`, ttl),
		a.Body)
	assert.Equal(t, "application/json; charset=utf-8", a.Header.Get("Content-Type"))
	assert.Equal(t, "no-store", a.Header.Get("Cache-Control"))
	return a.Body[len(`{"ticket":"`):][:43]
}

// The answers that depend on the session and on the store.
func TestMint_SessionAndStore(t *testing.T) {
	over := func(d time.Duration) func(*middleware.Session) {
		return func(s *middleware.Session) { s.ExpiresAt = time.Now().Add(d) }
	}
	storeFails := errors.New("OOM command not allowed, session " + ann().ID)
	const dead = `{"error":"session_expired","detail":"Unauthorized",` +
		`"reason":"invalid_or_expired_session"}`
	type row struct {
		name, source string
		session      func(*middleware.Session) // nil: none
		put          error
		status, ttl  int
		body, reason string
	}
	minted := func(name, source string, session func(*middleware.Session), ttl int) row {
		return row{name, source, session, nil, 200, ttl, "", ""}
	}
	ended := func(name, source, reason string, session func(*middleware.Session)) row {
		return row{name, source, session, nil, 401, 0, dead, reason}
	}
	fails := func(name, source string, session func(*middleware.Session), put error) row {
		return row{name, source, session, put, 503, 0, bodyDown, "store"}
	}
	endless := func(*middleware.Session) {}
	long := func(s *middleware.Session) { s.Data = strings.Repeat("x", 257) }
	for _, tc := range []row{
		{name: "none", status: 401, body: bodyNoLogin, reason: "session"},
		minted("no end", "", endless, 30),
		minted("ends late", "", over(time.Hour), 30),
		minted("ends in 5 s", "a ticket never outlives its session", over(5*time.Second), 5),
		minted("ends in 5.9 s", "rounded down", over(5900*time.Millisecond), 5),
		minted("ends in 1 s", "", over(time.Second), 1),
		ended("ends in less", "no page could use it", "session", over(time.Second-1)),
		ended("has ended", "CWE-613", "session", over(-time.Second)),
		ended("revoked", "pomerium#1279", "revoked", endless),
		fails("store full", "memory is bounded", endless, tickets.ErrFull),
		fails("store fails", "Redis maxmemory", endless, storeFails),
		fails("store times out", "the outcome is not known", endless, context.DeadlineExceeded),
		fails("data too long", "256 bytes", long, nil),
	} {
		runInBubble(t, tc.name+" ("+tc.source+")", func(t *testing.T) {
			var s *middleware.Session
			if tc.session != nil {
				s = ann()
				tc.session(s)
			}
			b := newMintBed(t, middleware.MintOptions{}, s)
			b.store.onPut = func() error { return tc.put }
			if tc.reason == "revoked" {
				require.NoError(t,
					b.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: s.ID}))
			}
			conn := serveInBubble(t, b.handler)()
			go io.WriteString(conn, post(""))
			a, _ := receive(t, conn, "POST")
			require.NoError(t, conn.Close())
			require.Equal(t, tc.status, a.Status, a)
			lines := b.rec.Lines(t)
			require.Len(t, lines, 1, b.rec.Text())
			if tc.ttl > 0 {
				requireMinted(t, a, tc.ttl)
				return
			}
			assert.Equal(t, tc.body, a.Body)
			assert.Equal(t, "no-store", a.Header.Get("Cache-Control"))
			assert.Equal(t, []any{"ws_mint_refused", tc.reason},
				fields(lines[0], "event", "reason"))
			if tc.status == http.StatusServiceUnavailable {
				assert.Regexp(t, `^[1-9]$`, a.Header.Get("Retry-After"))
			}
			if s != nil {
				assert.Equal(t, []any{"oidc", "ann"}, fields(lines[0], "provider", "user_id"))
			}
			requireNoSecret(t, "the audit", b.rec.Text())
		})
	}
}

// Above its share a session gets 429, with the time to wait.
func TestMint_TooManyIs429(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		two := &tickets.IssuerOptions{MaxPerSession: 2}
		issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), two))
		log, rec := newAudit()
		mint := must(middleware.NewMint(issuer, &middleware.MintOptions{Audit: log}))
		conn := serveInBubble(t, signedInAs(ann())(mint))()
		try := func() answer {
			go io.WriteString(conn, post(""))
			a, _ := receive(t, conn, "POST")
			return a
		}
		requireMinted(t, try(), 30)
		time.Sleep(10 * time.Second)
		requireMinted(t, try(), 30)
		rec.Take()
		a := try()
		requireRefusal(t, refusal{status: 429, code: "too_many"}, a)
		assert.Contains(t, []string{"20", "21"}, a.Header.Get("Retry-After"))
		assert.Equal(t, `{"event":"ws_mint_refused","reason":"too_many","ip":"pipe","path":"`+
			mintPath+`","provider":"oidc","user_id":"ann","session":"`+auditID(ann().ID)+`"}`+"\n",
			rec.Take())
		time.Sleep(21 * time.Second)
		requireMinted(t, try(), 30)
		require.NoError(t, conn.Close())
	})
}

// A body that does not come is cut off. A slow handler is not.
func TestMint_EndlessBodyIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context, _ *middleware.Session, _ string) error {
			time.Sleep(time.Minute) // a policy engine at its worst
			return ctx.Err()
		}
		b := newMintBed(t, middleware.MintOptions{Authorize: slow}, ann())
		dial := serveInBubble(t, b.handler)
		start := time.Now()
		conn := dial()
		go io.WriteString(conn, endlessBody)
		a, _ := receive(t, conn, "POST")
		requireRefusal(t, refusal{status: 400, code: "bad_request"}, a)
		assert.Less(t, time.Since(start), 20*time.Second)
		require.NoError(t, conn.Close())

		conn = dial()
		for range 2 {
			go io.WriteString(conn, post(`{"endpoint":"/a"}`))
			a, _ = receive(t, conn, "POST")
			requireMinted(t, a, 30)
			time.Sleep(time.Minute) // idle
		}
		require.NoError(t, conn.Close())
	})
}

func TestNewMint_RefusesBadOrigins(t *testing.T) {
	_, err := middleware.NewMint(nil, &middleware.MintOptions{Origins: []string{
		"https://App.Example", "https://*.x", "https://a@b", "null", "https://a.example/",
		"https://a.example:443", "a.example", "wss://a.example", "", "https://ok.example",
	}})
	for _, want := range []string{
		"issuer is nil", `"https://App.Example"`, `"https://*.x"`, `"https://a@b"`, `"null"`,
		`"https://a.example/"`, `"https://a.example:443"`, `"a.example"`, `"wss://a.example"`,
		`Origins: ""`,
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), "ok.example")
}

// A lifetime of less than a second is 0 in ttl_seconds, and every mint would
// answer session_expired.
func TestNewMint_RefusesTTLUnderOneSecond(t *testing.T) {
	for ttl, valid := range map[time.Duration]bool{
		time.Second - 1: false, time.Millisecond: false, time.Second: true,
	} {
		issuer := must(
			tickets.NewIssuer(tickets.NewMemoryStore(nil), &tickets.IssuerOptions{TTL: ttl}))
		_, err := middleware.NewMint(issuer, nil)
		if valid {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "middleware.NewMint: the issuer's TTL is "+ttl.String())
		}
		require.NoError(t, issuer.Close())
	}
}

// A store sees only the SHA-256 of a ticket. All tickets differ.
func TestMint_TicketsDifferAndAreStoredHashed(t *testing.T) {
	b := newMintBed(t, middleware.MintOptions{}, ann())
	srv := serveTLS(t, b.handler)
	var mu sync.Mutex
	all := make(map[string]bool)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a := sendH2(t, srv, "POST", mintPath, "Origin: https://app.example")
			var got struct {
				Ticket string `json:"ticket"`
			}
			assert.NoError(t, json.Unmarshal([]byte(a.Body), &got))
			mu.Lock()
			defer mu.Unlock()
			all[got.Ticket] = true
		})
	}
	wg.Wait()
	require.Len(t, all, 50)
	for ticket := range all {
		id := tickets.Ticket(ticket).Key().ID()
		assert.True(t, bytes.HasPrefix(id[:], must(hex.DecodeString(auditID(ticket)))))
		assert.NotContains(t, b.rec.Text(), ticket[:9])
	}
}
