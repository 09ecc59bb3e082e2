// Package nginx holds an application behind Debian's nginx: TLS ends there, and
// a prefix of the path is taken off.
package nginx

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// doors guard the application's paths.
type doors struct {
	gate           *middleware.Gate
	mint           *middleware.Mint
	socket, stream *middleware.Guard
}

// behindProxy makes them for the origin that browsers see, such as "https://app.example". Its own
// would be http: the proxy ends TLS.
func behindProxy(
	public string, sessions middleware.Authenticator, issuer *tickets.Issuer, log *audit.Log,
) (d doors, err error) {
	origins := []string{public}
	clientIP := middleware.ForwardedFor(netip.MustParsePrefix("127.0.0.1/32")) // the proxy's
	var errs [4]error
	d.gate, errs[0] = middleware.NewGate(sessions, &middleware.GateOptions{
		LoginURL: "/login", Audit: log, ClientIP: clientIP,
	})
	d.mint, errs[1] = middleware.NewMint(issuer, &middleware.MintOptions{
		Origins: origins, Audit: log, ClientIP: clientIP,
	})
	d.socket, errs[2] = middleware.NewGuard(issuer, &middleware.GuardOptions{
		Origins: origins, Audit: log, ClientIP: clientIP, OnReject: middleware.RejectByClosing,
	})
	d.stream, errs[3] = middleware.NewGuard(issuer, &middleware.GuardOptions{
		Origins: origins, Audit: log, ClientIP: clientIP, AdmitRequests: true,
	})
	return d, errors.Join(errs[:]...)
}

// app is the application, and its audit.
type app struct {
	server *httptest.Server
	issuer *tickets.Issuer
	lines  lines
	heard  chan struct{} // a page has got an event
}

func newApp(t *testing.T, public string) *app {
	t.Helper()
	a := &app{heard: make(chan struct{})}
	var err error
	a.issuer, err = tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	require.NoError(t, err)
	var signedIn sync.Map
	lookUp := func(_ context.Context, cookie string) (*middleware.Session, error) {
		s, _ := signedIn.Load(cookie)
		session, _ := s.(*middleware.Session)
		return session, nil
	}
	sessions := middleware.CookieSessions("session", lookUp)
	d, err := behindProxy(public, sessions, a.issuer, audit.New(slog.NewJSONHandler(&a.lines, nil)))
	require.NoError(t, err)

	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", d.gate.Wrap(d.mint))
	mux.Handle("/ws", d.socket.Wrap(http.HandlerFunc(echo)))
	mux.Handle("/events", d.stream.Wrap(http.HandlerFunc(a.events)))
	mux.HandleFunc("POST /heard", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case a.heard <- struct{}{}:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		page(w, `<form method="post"><input name="user"><input type="hidden" name="next" value="`+
			middleware.Next(r)+`"><button>Sign in</button></form>`)
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		signedIn.Store(id,
			&middleware.Session{ID: id, UserID: r.FormValue("user"), StartedAt: time.Now()})
		http.SetCookie(w, &http.Cookie{Name: "session", Value: id, Path: "/",
			HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	})
	whole, err := middleware.NewGuard(a.issuer, &middleware.GuardOptions{PassOthers: true})
	require.NoError(t, err)
	mux.Handle("/whole/", whole.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page(w, "whole")
	})))
	mux.Handle("/dash", d.gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		page(w, "<h1>"+session.UserID+"</h1>")
	})))
	a.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		assert.NoError(t, errors.Join(d.socket.Sockets().Shutdown(ctx),
			d.stream.Sockets().Shutdown(ctx), a.issuer.Close()))
		a.server.Close()
	})
	return a
}

// revoke ends all that a person has.
func (a *app) revoke(t *testing.T, user string) error {
	return a.issuer.Revoke(t.Context(), tickets.Revocation{UserID: user})
}

func page(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!doctype html><html lang="en"><link rel="icon" href="data:,">`+
		`<title>app</title>%s`, body)
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

func (a *app) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, word := range []string{"first", "second", "third"} {
		io.WriteString(w, "data: "+word+"\n\n")
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-a.heard: // the page has it, or the next would never come
		case <-r.Context().Done():
			return
		}
	}
}

// lines is what was written, a line at a time.
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

// with returns the lines that hold all of the texts.
func (l *lines) with(texts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.all {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}
