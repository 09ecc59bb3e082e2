// Package compat runs ticketgate beside what applications have already: routers,
// session libraries and WebSocket libraries, none of which the root module
// requires. README.md shows how each goes together.
package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func init() { gin.SetMode(gin.TestMode) }

func TestMain(m *testing.M) {
	// scs.New sweeps its memory in a goroutine that cannot be stopped safely.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/alexedwards/scs/v2/memstore.(*MemStore).startCleanup"),
		// nbio's default engine, which its import starts.
		goleak.IgnoreTopFunction("github.com/lesismal/nbio/taskpool.New.func3"))
}

// app is one guarded endpoint behind a real listener.
type app struct {
	issuer  *tickets.Issuer
	sockets *middleware.Sockets
	server  *httptest.Server
	lines   *lines
	seq     atomic.Int64
}

type appOptions struct {
	sockets middleware.SocketsOptions
	guard   middleware.GuardOptions
	tls     bool

	connState func(net.Conn, http.ConnState)
}

func newApp(tb testing.TB, next http.Handler, o appOptions) *app {
	tb.Helper()
	a := &app{lines: &lines{}}
	var err error
	a.issuer, err = tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	require.NoError(tb, err)
	o.sockets.Audit = audit.New(a.lines)
	a.sockets, err = middleware.NewSockets(a.issuer, &o.sockets)
	require.NoError(tb, err)
	o.guard.Sockets = a.sockets
	guard, err := middleware.NewGuard(a.issuer, &o.guard)
	require.NoError(tb, err)
	a.server = httptest.NewUnstartedServer(guard.Wrap(next))
	if o.connState != nil {
		a.server.Config.ConnState = o.connState
	}
	if o.tls {
		a.server.StartTLS()
	} else {
		a.server.Start()
	}
	tb.Cleanup(func() {
		_ = a.sockets.Shutdown(tb.Context())
		a.server.Close()
		_ = a.issuer.Close()
	})
	return a
}

// session returns a name that no other session has.
func (a *app) session() string { return "session-" + strconv.FormatInt(a.seq.Add(1), 10) }

// url is the endpoint's with a fresh ticket of the session.
func (a *app) url(tb testing.TB, session, user string) string {
	tb.Helper()
	grant := tickets.Grant{SessionID: session, Provider: "test", UserID: user}
	t, err := a.issuer.Mint(context.Background(), grant)
	require.NoError(tb, err)
	return "ws" + strings.TrimPrefix(a.server.URL, "http") + "/ws?ticket=" + string(t)
}

func (a *app) revoke(tb testing.TB, r tickets.Revocation) {
	if err := a.issuer.Revoke(context.Background(), r); err != nil {
		tb.Error(err)
	}
}

// lines is a sink of audit events.
type lines struct {
	mu  sync.Mutex
	all []map[string]any
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	line := make(map[string]any)
	r.Attrs(func(a slog.Attr) bool {
		line[a.Key] = a.Value.Any()
		return true
	})
	l.mu.Lock()
	l.all = append(l.all, line)
	l.mu.Unlock()
	return nil
}

func (l *lines) of(event string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var of []map[string]any
	for _, line := range l.all {
		if line["event"] == event {
			of = append(of, line)
		}
	}
	return of
}

// doors are what an application puts into its router.
type doors struct {
	issuer *tickets.Issuer
	gate   *middleware.Gate
	mint   *middleware.Mint
	guard  *middleware.Guard
}

type doorOptions struct {
	issuer  *tickets.Issuer // nil: its own
	gate    middleware.GateOptions
	guard   middleware.GuardOptions
	sockets middleware.SocketsOptions
	audit   slog.Handler // nil: nowhere
}

func newDoors(sessions middleware.Authenticator, o doorOptions) doors {
	if o.audit == nil {
		o.audit = slog.DiscardHandler
	}
	log := audit.New(o.audit)
	o.gate.Audit, o.sockets.Audit = log, log
	if o.issuer == nil {
		o.issuer = must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	}
	o.guard.Sockets = must(middleware.NewSockets(o.issuer, &o.sockets))
	return doors{
		issuer: o.issuer,
		gate:   must(middleware.NewGate(sessions, &o.gate)),
		mint:   must(middleware.NewMint(o.issuer, &middleware.MintOptions{Audit: log})),
		guard:  must(middleware.NewGuard(o.issuer, &o.guard)),
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// visitor is a browser, as far as HTTP sees one: it keeps cookies, and says
// where its page is from.
type visitor struct {
	base   string
	origin string
	bearer string // sent with every request; a page can't send it with a socket
	http   *http.Client
}

func newVisitor(server *httptest.Server) *visitor {
	client := *server.Client()
	client.Jar = must(cookiejar.New(nil))
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}
	return &visitor{base: server.URL, origin: server.URL, http: &client}
}

// another is another browser, at the same address.
func (v *visitor) another() *visitor {
	client := *v.http
	client.Jar = must(cookiejar.New(nil))
	return &visitor{base: v.base, origin: v.origin, http: &client}
}

type answer struct {
	status int
	header http.Header
	text   string
}

func (v *visitor) do(method, path string, header ...string) answer {
	r := must(http.NewRequest(method, v.base+path, nil))
	if method != http.MethodGet {
		r.Header.Set("Origin", v.origin)
	}
	if v.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+v.bearer)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response := must(v.http.Do(r))
	defer response.Body.Close()
	return answer{response.StatusCode, response.Header, string(must(io.ReadAll(response.Body)))}
}

func (v *visitor) get(path string, header ...string) answer { return v.do("GET", path, header...) }
func (v *visitor) post(path string, header ...string) answer {
	return v.do("POST", path, header...)
}

// ticket mints one; "" if there is none to be had.
func (v *visitor) ticket(header ...string) string {
	var minted struct{ Ticket string }
	if a := v.post("/api/auth/ws-ticket", header...); a.status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.text), &minted); err != nil {
			panic(err)
		}
	}
	return minted.Ticket
}

// dial opens the socket at path, with the subprotocols given.
func (v *visitor) dial(path string, protocols ...string) (*gorilla.Conn, *http.Response, error) {
	dialer := gorilla.Dialer{Jar: v.http.Jar, Subprotocols: protocols, HandshakeTimeout: patience}
	if t := v.http.Transport.(*http.Transport).TLSClientConfig; t != nil {
		dialer.TLSClientConfig = t.Clone()
		dialer.TLSClientConfig.NextProtos = []string{"http/1.1"} // as browsers do for wss
	}
	url := "ws" + strings.TrimPrefix(v.base, "http") + path
	return dialer.Dial(url, http.Header{"Origin": {v.origin}})
}

// cookie is the value of the cookie called name; "" if there is none.
func (v *visitor) cookie(name string) string {
	for _, c := range v.http.Jar.Cookies(must(url.Parse(v.base))) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// setCookie puts a cookie there that no server has set.
func (v *visitor) setCookie(name, value string) {
	cookie := &http.Cookie{Name: name, Value: value, Path: "/"}
	v.http.Jar.SetCookies(must(url.Parse(v.base)), []*http.Cookie{cookie})
}

// hear returns what a socket of the page says first, and how it is closed after
// that.
func (v *visitor) hear(path string, protocols ...string) string {
	c, response, err := v.dial(path, protocols...)
	if err != nil {
		if response == nil {
			panic(err)
		}
		return fmt.Sprint("refused: ", response.StatusCode)
	}
	defer c.Close()
	_, message, err := c.ReadMessage()
	if closed, ok := err.(*gorilla.CloseError); ok {
		return fmt.Sprint("closed: ", closed.Code, " ", closed.Text)
	}
	return string(message)
}

// logFile is an access log's.
type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// everybody stands for a sign-in: the cookie is the user's name.
var everybody = middleware.CookieSessions("session",
	func(_ context.Context, name string) (*middleware.Session, error) {
		return &middleware.Session{ID: "session-of-" + name, Provider: "test", UserID: name}, nil
	})

// hello is a socket that greets the person that the guard admits.
func hello(w http.ResponseWriter, r *http.Request) {
	conn, err := coder.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	session, _ := middleware.SessionFrom(r.Context())
	_ = conn.Write(r.Context(), coder.MessageText, []byte("hello "+session.UserID))
	_, _, _ = conn.Read(r.Context())
}

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.Fail(t, "never happened: "+what)
		}
	}
}

// requireClosed fails unless the next thing that the page sees is this close.
func requireClosed(t testing.TB, c *gorilla.Conn, code int, reason string) {
	t.Helper()
	_, _, err := c.ReadMessage()
	var closed *gorilla.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, code, closed.Code)
	require.Equal(t, reason, closed.Text)
	c.Close()
}
