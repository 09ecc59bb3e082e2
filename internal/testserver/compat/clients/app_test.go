// Package clients holds what opens guarded sockets and streams: pages, in a real
// browser, and programs. Each recipe is a file, or a function, of at most 25
// lines, and stands in the README as it runs here.
package clients

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"html"
	"image"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/middleware/client"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // what runs beside each other here waits, most of the time
	os.Exit(browser.Run(m))
}

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = time.Minute

// app is an application that can be restarted: its address and its sessions stay,
// as those of a real one do; its tickets and its sockets are gone.
type app struct {
	t    *testing.T
	addr string
	base string

	sessions sync.Map // cookie, or bearer token → *middleware.Session
	lines    lines
	log      *audit.Log

	mu     sync.Mutex
	onMint func(w http.ResponseWriter, r *http.Request) (answered bool)
	asked  []string // the bodies of requests for tickets

	issuer  *tickets.Issuer
	sockets *middleware.Sockets
	server  *http.Server
	served  chan error
	events  *events
}

var apps atomic.Int32

func newApp(t *testing.T) *app {
	t.Helper()
	// An address of its own: while it restarts, nobody else takes its port.
	n := apps.Add(1)
	a := &app{t: t, addr: fmt.Sprintf("127.1.%d.%d:0", n/200, n%200+1), events: newEvents()}
	a.log = audit.New(slog.NewJSONHandler(&a.lines, nil))
	a.start()
	t.Cleanup(func() {
		if a.server != nil {
			a.stop()
		}
	})
	return a
}

func (a *app) start() {
	a.t.Helper()
	var errs [7]error
	a.issuer, errs[0] = tickets.NewIssuer(tickets.NewMemoryStore(nil),
		&tickets.IssuerOptions{MaxPerSession: 10_000})
	a.sockets, errs[1] = middleware.NewSockets(a.issuer, &middleware.SocketsOptions{Audit: a.log})
	lookup := func(_ context.Context, value string) (*middleware.Session, error) {
		s, _ := a.sessions.Load(value)
		session, _ := s.(*middleware.Session)
		return session, nil
	}
	gate, err := middleware.NewGate(
		middleware.FirstOf(
			middleware.CookieSessions("session", lookup), middleware.BearerSessions(lookup)),
		&middleware.GateOptions{LoginURL: "/login", Audit: a.log})
	errs[2] = err
	mint, err := middleware.NewMint(a.issuer, &middleware.MintOptions{Audit: a.log})
	errs[3] = err
	guard, err := middleware.NewGuard(a.issuer, &middleware.GuardOptions{
		Sockets: a.sockets, OnReject: middleware.RejectByClosing})
	errs[4] = err
	streams, err := middleware.NewGuard(a.issuer, &middleware.GuardOptions{
		Sockets: a.sockets, AdmitRequests: true, RequireEndpoint: true})
	errs[5] = err
	listener, err := net.Listen("tcp", a.addr)
	errs[6] = err
	require.NoError(a.t, errors.Join(errs[:]...))

	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", a.minting(gate.Wrap(mint)))
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(echo)))
	mux.Handle("/plain", http.HandlerFunc(behave))
	mux.Handle("/behind", guard.Wrap(http.HandlerFunc(behave)))
	serveLibraries(mux, guard.Wrap)
	mux.Handle("/events", streams.Wrap(a.events))
	mux.Handle("/picture.png", streams.Wrap(http.HandlerFunc(picture)))
	mux.Handle("/report.csv", streams.Wrap(http.HandlerFunc(report)))
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		page(w, "sign in", `<form method="post"><input name="user">`+
			`<input type="hidden" name="next" value="`+html.EscapeString(middleware.Next(r))+`">`+
			`<button>Sign in</button></form>`)
	})
	mux.HandleFunc("POST /login", a.signIn)
	mux.Handle("/ticketgate.js", client.Handler())
	mux.Handle("GET /cases/", http.FileServer(http.Dir(".")))
	mux.HandleFunc("GET /recipes/{name}", a.recipe)
	mux.Handle("GET /favicon.ico", http.HandlerFunc(picture))
	mux.HandleFunc("GET /strict", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><title>strict</title>`+
			`<script type="module" src="/cases/strict.js"></script><p>…</p>`)
	})
	mux.Handle("/{$}", gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page(w, "signed in", "")
	})))

	a.addr = listener.Addr().String()
	a.base = "http://" + a.addr
	a.server = &http.Server{Handler: mux}
	a.served = make(chan error, 1)
	go func() { a.served <- a.server.Serve(listener) }()
}

// stop ends the application as one that is being deployed anew does.
func (a *app) stop() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Not Shutdown, which waits 5 s for connections that a browser keeps in reserve.
	assert.NoError(a.t, errors.Join(a.sockets.Shutdown(ctx), a.server.Close(), a.issuer.Close()))
	assert.ErrorIs(a.t, <-a.served, http.ErrServerClosed)
	a.server = nil
}

func (a *app) minting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		a.mu.Lock()
		a.asked = append(a.asked, string(body))
		onMint := a.onMint
		a.mu.Unlock()
		if onMint == nil || !onMint(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// atMint has fn answer the requests for tickets that it wants to.
func (a *app) atMint(fn func(w http.ResponseWriter, r *http.Request) (answered bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onMint = fn
}

func (a *app) bodies() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

// session starts one, and returns the cookie or token that stands for it.
func (a *app) session(user string) string {
	id := rand.Text()
	a.sessions.Store(id, &middleware.Session{ID: id, UserID: user, StartedAt: time.Now()})
	return id
}

func (a *app) signIn(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: "session", Value: a.session(r.FormValue("user")),
		Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
}

// signOut ends all sessions of a person, as an administrator does.
func (a *app) signOut(user string) {
	a.t.Helper()
	a.sessions.Range(func(id, s any) bool {
		if s.(*middleware.Session).UserID == user {
			a.sessions.Delete(id)
			revocation := tickets.Revocation{SessionID: id.(string)}
			assert.NoError(a.t, a.issuer.Revoke(a.t.Context(), revocation))
		}
		return true
	})
}

func page(w http.ResponseWriter, title, body string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!doctype html><html lang="en"><link rel="icon" href="data:,">`+
		`<title>%s</title>%s`, title, body)
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	session, _ := middleware.SessionFrom(r.Context())
	if c.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID)) != nil {
		return
	}
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// events is a stream of numbered messages, of which a reader is given those after
// the last that it has seen.
type events struct {
	mu   sync.Mutex
	n    int
	more chan struct{} // closed by the next one
	cut  chan struct{} // closed to end the streams, as a network does
}

func newEvents() *events {
	return &events{more: make(chan struct{}), cut: make(chan struct{})}
}

func (e *events) send() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	close(e.more)
	e.more = make(chan struct{})
}

func (e *events) cutAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.cut)
	e.cut = make(chan struct{})
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	last, _ := strconv.Atoi(r.URL.Query().Get("after"))
	fmt.Fprint(w, "retry: 10\n\n") // ms, after which a browser comes back by itself
	for {
		e.mu.Lock()
		n, more, cut := e.n, e.more, e.cut
		e.mu.Unlock()
		for ; last < n; last++ {
			fmt.Fprintf(w, "id: %d\ndata: message %d\n\n", last+1, last+1)
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func picture(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "no-store")
	_ = png.Encode(w, image.NewGray(image.Rect(0, 0, 7, 5)))
}

func report(w http.ResponseWriter, r *http.Request) {
	session, _ := middleware.SessionFrom(r.Context())
	w.Header().Set("Content-Type", "text/csv")
	w.Header().Set("Content-Disposition", `attachment; filename="report.csv"`)
	io.WriteString(w, "user\n"+session.UserID+"\n")
}

// lines is the audit.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

// count is how many lines hold all of the texts.
func (l *lines) count(texts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.all {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		n++
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.Fail(t, "never happened: "+what)
		}
	}
}
