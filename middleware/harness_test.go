package middleware_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

// patience bounds a test that would hang. No test measures it.
const patience = 30 * time.Second

// serve runs h on a loopback listener that speaks HTTP/1.1.
func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // some tests want a panic
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// serveTLS runs h on a loopback listener that speaks TLS: HTTP/2 with the
// server's own client, HTTP/1.1 with send.
func serveTLS(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// answer is one response, read to its end.
type answer struct {
	Proto  string
	Status int
	Header http.Header
	Body   string
}

func readAnswer(t testing.TB, res *http.Response) answer {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.Proto, res.StatusCode, res.Header, string(body)}
}

// String is the whole answer, to search it for secrets.
func (a answer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d\n", a.Proto, a.Status)
	_ = a.Header.Write(&b)
	return b.String() + "\n" + a.Body
}

// dial opens a connection for raw HTTP/1.1.
func dial(t testing.TB, srv *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	if srv.TLS != nil {
		c := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		c.NextProtos, c.ServerName = []string{"http/1.1"}, "example.com"
		conn = tls.Client(conn, c)
	}
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// begin opens a connection and writes request to it as it is.
func begin(t testing.TB, srv *httptest.Server, request string) net.Conn {
	t.Helper()
	conn := dial(t, srv)
	write(t, conn, request)
	return conn
}

func write(t testing.TB, w io.Writer, text string) {
	t.Helper()
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
}

// send writes request as it is to a new connection and reads the first answer.
func send(t testing.TB, srv *httptest.Server, request string) answer {
	t.Helper()
	conn := begin(t, srv, request)
	defer conn.Close()
	a, _ := receive(t, conn, request)
	return a
}

// receive reads the answer to request, and returns a reader of what follows it.
func receive(t testing.TB, conn net.Conn, request string) (answer, *bufio.Reader) {
	t.Helper()
	method, _, _ := strings.Cut(request, " ")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	require.NoError(t, err, "no answer to %q", request)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return answer{res.Proto, res.StatusCode, res.Header, ""}, br
	}
	return readAnswer(t, res), br
}

// get is a raw GET of target with further header lines, each without its CRLF.
func get(target string, lines ...string) string { return rawRequest("GET", target, lines...) }

func rawRequest(method, target string, lines ...string) string {
	lines = append([]string{method + " " + target + " HTTP/1.1", "Host: app.example"}, lines...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// goodKey is RFC 6455's own example, section 1.3.
const goodKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

// Header lines that many rows have.
const (
	crossSite  = "Sec-Fetch-Site: cross-site"
	sameOrigin = "Sec-Fetch-Site: same-origin"
	chunked    = "Transfer-Encoding: chunked"
	jsonType   = "Content-Type: application/json"
	protocol   = "Sec-WebSocket-Protocol: "
	evilOrigin = "Origin: https://evil.example"
)

// handshakeLines are the header lines of a good WebSocket handshake.
var handshakeLines = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", goodKey,
}

// handshake is a good raw WebSocket handshake.
func handshake(target string, lines ...string) string {
	return get(target, slices.Concat(handshakeLines, lines)...)
}

// upgrade is a raw WebSocket handshake that differs from a good one: a line
// replaces the good one of its name, "-Name" removes it.
func upgrade(method, target string, lines ...string) string {
	changed := func(name string) bool {
		for _, line := range lines {
			n, _, _ := strings.Cut(strings.TrimPrefix(line, "-"), ":")
			if strings.EqualFold(n, name) {
				return true
			}
		}
		return false
	}
	var all []string
	for _, line := range handshakeLines {
		if name, _, _ := strings.Cut(line, ":"); !changed(name) {
			all = append(all, line)
		}
	}
	for _, line := range lines {
		if line[0] != '-' {
			all = append(all, line)
		}
	}
	return rawRequest(method, target, all...)
}

// ws is the target of an upgrade with a ticket.
const ws = "/ws?ticket={T}"

// opening is an upgrade with a ticket, which differs from a good one as in upgrade.
func opening(lines ...string) string { return upgrade("GET", ws, lines...) }

// offering is an upgrade without a query, with lines of Sec-WebSocket-Protocol.
func offering(protocols ...string) string {
	var lines []string
	for _, p := range protocols {
		lines = append(lines, "Sec-WebSocket-Protocol: "+p)
	}
	return upgrade("GET", "/ws", lines...)
}

// toHost sends request to another host than app.example.
func toHost(host, request string) string {
	return strings.Replace(request, "app.example", host, 1)
}

const mintPath = "/api/auth/ws-ticket"

// post is a raw request to mint. A body is JSON unless a line says otherwise.
func post(body string, lines ...string) string {
	if body != "" {
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(body)))
		if !strings.Contains(strings.Join(lines, "\n"), "Content-Type") {
			lines = append(lines, "Content-Type: application/json")
		}
	}
	return rawRequest("POST", mintPath, lines...) + body
}

// readRequest is raw as a server reads it, or nil if the server answers 400.
func readRequest(raw string) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return nil
	}
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// sendH2 sends a request over HTTP/2, its path as it stands, and does not
// follow redirects. Header lines are as in get.
func sendH2(t testing.TB, srv *httptest.Server, method, target string, lines ...string) answer {
	t.Helper()
	const name = "app.example"
	// The server gets Opaque as it is, without scheme and host.
	u := &url.URL{Scheme: "https", Host: srv.Listener.Addr().String(), Opaque: "//" + name + target}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := (&http.Request{Method: method, URL: u, Host: name, Header: http.Header{}}).WithContext(ctx)
	for _, line := range lines {
		field, value, _ := strings.Cut(line, ": ")
		r.Header.Add(field, value)
	}
	res, err := srv.Client().Transport.RoundTrip(r)
	require.NoError(t, err, "%s %.200s", method, target)
	a := readAnswer(t, res)
	require.Equal(t, "HTTP/2.0", a.Proto)
	return a
}

// transport is a way to send one request without a body.
type transport struct {
	name string
	send func(t testing.TB, method, target string, lines ...string) answer
}

// overBoth serves h over HTTP/1.1 and over HTTP/2.
func overBoth(t testing.TB, h http.Handler) []transport {
	h1, h2 := serve(t, h), serveTLS(t, h)
	return []transport{
		{"h1", func(t testing.TB, method, target string, lines ...string) answer {
			t.Helper()
			return send(t, h1, rawRequest(method, target, lines...))
		}},
		{"h2", func(t testing.TB, method, target string, lines ...string) answer {
			t.Helper()
			return sendH2(t, h2, method, target, lines...)
		}},
	}
}

// onReject is the type of an OnReject option.
type onReject = func(http.ResponseWriter, *http.Request, *middleware.Rejection)

// refusal is a row of a table: a request, its answer, and the reason in the audit.
// {T} and {U} stand for fresh tickets, {ID} for what the audit calls the first.
type refusal struct {
	name, source string
	request      string
	status       int
	code, reason string
	more         string // the audit line's further fields
	path         string // in the audit, if it is not /ws
	only         string // "tls" or "plain"; "" is both
	allow        string // the methods of a 405, if not GET
}

// refused makes the rows of one group, which have the same answer.
func refused(status int, code, reason string) func(name, source, request string) refusal {
	return func(name, source, request string) refusal {
		return refusal{
			name: name, source: source, request: request,
			status: status, code: code, reason: reason,
		}
	}
}

func (r refusal) to(host string) refusal   { r.request = toHost(host, r.request); return r }
func (r refusal) at(path string) refusal   { r.path = path; return r }
func (r refusal) over(only string) refusal { r.only = only; return r }

// errorBody is the body of a refusal without a reason.
func errorBody(status int, code string) string {
	return fmt.Sprintf(`{"error":"%s","detail":"%s"}`, code, http.StatusText(status))
}

// requireRefusal holds an answer to the wire contract, byte for byte.
func requireRefusal(t *testing.T, tc refusal, a answer) {
	t.Helper()
	require.Equal(t, tc.status, a.Status, a)
	if tc.code == "" {
		return
	}
	if strings.HasPrefix(tc.request, "HEAD") {
		assert.Empty(t, a.Body)
	} else {
		assert.Equal(t, errorBody(tc.status, tc.code), a.Body)
	}
	want := map[string]string{
		"Cache-Control": "no-store", "Content-Type": "application/json; charset=utf-8",
		"Upgrade": "", "Sec-Websocket-Version": "", "Allow": "", "Retry-After": "",
		"Location": "", "Set-Cookie": "", "Sec-Websocket-Accept": "", "X-Reached": "",
	}
	switch tc.status {
	case http.StatusUpgradeRequired:
		want["Upgrade"] = "websocket"
		if tc.reason == "version" {
			want["Sec-Websocket-Version"] = "13"
		}
	case http.StatusMethodNotAllowed:
		want["Allow"] = cmp.Or(tc.allow, "GET")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		want["Retry-After"] = a.Header.Get("Retry-After")
		assert.Regexp(t, `^[1-9][0-9]?$`, want["Retry-After"])
	}
	for name, value := range want {
		assert.Equal(t, value, a.Header.Get(name), name)
	}
}

// auditLine is the one line that a refusal must leave.
func auditLine(tc refusal, fill func(string) string) string {
	event, path := "ws_upgrade_refused", "/ws"
	switch tc.reason {
	case "no_ticket", "two_tickets", "unknown", "used", "expired", "revoked",
		"endpoint", "session", "store":
		event = "ws_ticket_rejected"
	}
	if tc.path != "" {
		path = strings.TrimPrefix(tc.path, "-")
	}
	more := tc.more
	if before, value, ok := strings.Cut(more, "{ID:"); ok {
		value, after, _ := strings.Cut(value, `}"`)
		more = before + auditID(fill(value)) + `"` + after
	}
	return fmt.Sprintf(`{"event":"%s","reason":"%s","ip":"127.0.0.1","path":"%s"%s}`+"\n", event,
		tc.reason, path, more)
}

// auditID is what the audit calls a ticket or a session.
func auditID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])[:12]
}

// recorder keeps every line of an audit log.
type recorder struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (a *recorder) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.Write(p)
}

// newAudit returns a log and what records it: the event and its fields, without
// slog's time, level and message.
func newAudit() (*audit.Log, *recorder) {
	rec := new(recorder)
	h := slog.NewJSONHandler(rec, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, slog.LevelKey, slog.MessageKey:
				if len(groups) == 0 {
					return slog.Attr{}
				}
			}
			return a
		},
	})
	return audit.New(h), rec
}

// Text is every line so far, as JSON.
func (a *recorder) Text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.String()
}

// Lines are the lines so far, in order.
func (a *recorder) Lines(t testing.TB) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(a.Text()) {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line), "%q", text)
		lines = append(lines, line)
	}
	return lines
}

// Events are the lines of one event.
func (a *recorder) Events(t testing.TB, e audit.Event) []map[string]any {
	t.Helper()
	others := func(line map[string]any) bool { return line["event"] != string(e) }
	return slices.DeleteFunc(a.Lines(t), others)
}

// Await waits until there are n lines of one event, and returns them.
func (a *recorder) Await(t testing.TB, e audit.Event, n int) []map[string]any {
	t.Helper()
	eventually(t, fmt.Sprintf("%d lines of %s", n, e),
		func() bool { return len(a.Events(t, e)) == n })
	return a.Events(t, e)
}

// fields are the values of a line's fields.
func fields(line map[string]any, names ...string) []any {
	var values []any
	for _, name := range names {
		values = append(values, line[name])
	}
	return values
}

// Take is Text, and forgets it.
func (a *recorder) Take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.buf.Reset()
	return a.buf.String()
}

// secretMark is part of every secret that a test sends in, and of nothing else:
// where it comes out, a secret has leaked.
const secretMark = "CANARY"

// Values of the cookie called sid, each with its own answer from lookup.
const (
	goodCookie    = "good-" + secretMark    // ann
	endedCookie   = "ended-" + secretMark   // ann's, whose time is over
	unknownCookie = "unknown-" + secretMark // neither session nor error
	noneCookie    = "none-" + secretMark    // wraps ErrNoSession
	deadCookie    = "dead-" + secretMark    // wraps ErrSessionExpired
	downCookie    = "down-" + secretMark    // the session store is away
	slowCookie    = "slow-" + secretMark    // the session store took too long
)

// errDown is what a session store says that is away.
var errDown = errors.New("session store: connection refused")

func ann() *middleware.Session {
	return &middleware.Session{ID: "id-of-ann-" + secretMark, Provider: "oidc", UserID: "ann"}
}

// lookupFunc is the type of an application's lookup of a credential.
type lookupFunc = func(context.Context, string) (*middleware.Session, error)

// lookup is the session store of the tests.
func lookup(_ context.Context, value string) (*middleware.Session, error) {
	switch value {
	case goodCookie:
		return ann(), nil
	case endedCookie:
		s := ann()
		s.ExpiresAt = time.Now().Add(-time.Minute)
		return s, nil
	case noneCookie:
		return nil, fmt.Errorf("lookup: %w", middleware.ErrNoSession)
	case deadCookie:
		return nil, fmt.Errorf("lookup: %w", middleware.ErrSessionExpired)
	case downCookie:
		return nil, errDown
	case slowCookie:
		return nil, fmt.Errorf("session store: %w", context.DeadlineExceeded)
	}
	return nil, nil
}

// cookies authenticates by the cookie called sid.
func cookies() middleware.Authenticator { return middleware.CookieSessions("sid", lookup) }

// sid is the header line of a session cookie.
func sid(value string) string { return "Cookie: sid=" + value }

// newGate is a gate over cookies, and what it writes to the audit.
func newGate(t testing.TB, opts middleware.GateOptions) (*middleware.Gate, *recorder) {
	t.Helper()
	return newGateOf(t, cookies(), opts)
}

func newGateOf(
	t testing.TB, a middleware.Authenticator, opts middleware.GateOptions,
) (*middleware.Gate, *recorder) {
	t.Helper()
	log, rec := newAudit()
	opts.Audit = cmp.Or(opts.Audit, log)
	gate := must(middleware.NewGate(a, &opts))
	return gate, rec
}

// whoami answers 200 with who is there and which path was asked for.
var whoami = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if s, ok := middleware.SessionFrom(r.Context()); ok {
		who = s.UserID
	}
	w.Header().Set("X-Reached", who)
	fmt.Fprintf(w, "%s %s", who, r.URL.Path)
})

// reached is who whoami saw, or "" if it never ran.
func (a answer) reached() string { return a.Header.Get("X-Reached") }

// requireNoSecret fails if a secret that a test has sent in came out.
func requireNoSecret(t testing.TB, where string, text any) {
	t.Helper()
	shown := fmt.Sprintf("%v %+v %#v %s", text, text, text, text)
	require.NotContains(t, shown, secretMark, "a secret came out in %s", where)
}

// switching is the head of a 101, to which a test adds its lines.
const switching = "HTTP/1.1 101 Switching Protocols\r\n" +
	"Upgrade: websocket\r\nConnection: Upgrade\r\n"

// accepts takes the connection as a WebSocket library does, and closes it.
var accepts = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if s, ok := middleware.SessionFrom(r.Context()); ok {
		who = s.UserID
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, switching+"X-Reached: "+who+"\r\n\r\n")
})

// mustNotRun is a handler that no request may reach.
func mustNotRun(t testing.TB) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the handler runs: %s %s", r.Method, r.URL.Path)
	})
}

// signedInAs puts s into the context of each request, unless it is nil.
func signedInAs(s *middleware.Session) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s != nil {
				r = r.WithContext(middleware.WithSession(r.Context(), s))
			}
			next.ServeHTTP(w, r)
		})
	}
}

func strip(prefix string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return http.StripPrefix(prefix, next) }
}

func header(name, value string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set(name, value)
			next.ServeHTTP(w, r)
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
