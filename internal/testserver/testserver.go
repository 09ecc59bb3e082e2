// Package testserver is a whole application in miniature: people who sign in
// with any name, a page behind a gate, tickets, two guarded WebSocket endpoints
// and a guarded stream of what was audited. Tests talk to it, and the demo puts
// a page in front of it.
package testserver

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/middleware/client"
	"github.com/ticketgate/ticketgate/tickets"
)

//go:embed plain
var plain embed.FS

// Options says how the application differs from its defaults.
type Options struct {
	TTL        time.Duration // of a ticket; 0: tickets.DefaultTTL
	SessionTTL time.Duration // of a session; 0: 1 h

	// Audit gets every audit record beside /events; nil: none but /events does.
	Audit slog.Handler

	// Store keeps the tickets; nil: a MemoryStore. Sessions keeps who is signed in;
	// nil: this process does. Peers are the other servers that share both, each as
	// host:port, and Origins the origins of all of them, this one included: their
	// pages may open sockets here. nil: only this server's own page.
	Store          tickets.Store
	Sessions       Sessions
	Peers, Origins []string

	// Pages holds index.html, login.html (a template of [LoginPage]), elsewhere.html
	// and the folder assets. nil: pages that are plain.
	Pages fs.FS
}

// Server is the application. It holds no listener and starts no goroutine of
// its own; [Server.Close] ends what came in through it.
type Server struct {
	sessions *sessions
	issuer   *tickets.Issuer
	sockets  *middleware.Sockets
	lines    *feed
	log      *audit.Log
	handler  http.Handler
	peers    []string
}

// New builds the application, or says everything that is wrong with opts.
func New(opts *Options) (*Server, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = time.Hour
	}
	if o.Store == nil {
		o.Store = tickets.NewMemoryStore(nil)
	}
	if o.Sessions == nil {
		o.Sessions = &memory{byID: make(map[string]middleware.Session)}
	}
	if o.Pages == nil {
		o.Pages, _ = fs.Sub(plain, "plain")
	}

	var errs []error
	if o.SessionTTL < time.Second {
		errs = append(errs, fmt.Errorf("SessionTTL is %v, want at least 1s", o.SessionTTL))
	}
	pages, err := newPages(o.Pages, o.Peers)
	errs = append(errs, err)
	issuer, err := tickets.NewIssuer(o.Store, &tickets.IssuerOptions{TTL: o.TTL})
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		if issuer != nil {
			err = errors.Join(err, issuer.Close())
		}
		return nil, fmt.Errorf("testserver: %w", err)
	}

	s := &Server{
		sessions: &sessions{ttl: o.SessionTTL, kept: o.Sessions},
		issuer:   issuer,
		lines:    newFeed(),
		peers:    o.Peers,
	}
	s.log = audit.New(s.lines.handler())
	if o.Audit != nil {
		s.log = audit.New(slog.NewMultiHandler(s.lines.handler(), o.Audit))
	}
	s.sockets, err = middleware.NewSockets(issuer, &middleware.SocketsOptions{Audit: s.log})
	if err != nil {
		return nil, fmt.Errorf("testserver: %w", errors.Join(err, issuer.Close()))
	}
	if s.handler, err = s.routes(pages, o.Origins); err != nil {
		return nil, fmt.Errorf("testserver: %w", errors.Join(err, issuer.Close()))
	}
	return s, nil
}

// routes wires the real middleware in the order in which a request meets it.
func (s *Server) routes(pages *pages, origins []string) (http.Handler, error) {
	cookies := middleware.CookieSessions(cookieName, s.sessions.lookup)
	gate, err1 := middleware.NewGate(cookies,
		&middleware.GateOptions{LoginURL: "/login", Audit: s.log})
	mint, err2 := middleware.NewMint(s.issuer, &middleware.MintOptions{Audit: s.log})
	guard, err3 := middleware.NewGuard(s.issuer, &middleware.GuardOptions{
		Origins:  origins,
		Sockets:  s.sockets,
		OnReject: explain,
	})
	streams, err4 := middleware.NewGuard(s.issuer, &middleware.GuardOptions{
		Sockets:       s.sockets,
		AdmitRequests: true,
	})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}

	// A form on another site could sign a browser in or out just as well.
	sameOrigin := http.NewCrossOriginProtection()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", pages.login)
	mux.Handle("POST /login", sameOrigin.Handler(s.signIn(pages)))
	mux.Handle("/logout", sameOrigin.Handler(http.HandlerFunc(s.signOut)))
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint))
	mux.Handle("GET /api/auth/me", gate.Wrap(http.HandlerFunc(s.me)))
	mux.Handle("GET /api/sessions", gate.Wrap(http.HandlerFunc(s.listSessions)))
	mux.Handle("POST /api/sessions/revoke",
		sameOrigin.Handler(gate.Wrap(http.HandlerFunc(s.revoke))))
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(echo)))
	mux.Handle("/ws/admin", guard.Wrap(http.HandlerFunc(echo)))
	mux.Handle("/events", streams.Wrap(http.HandlerFunc(s.events)))
	mux.HandleFunc("GET /elsewhere", pages.elsewhere)
	mux.HandleFunc("GET /assets/", pages.asset)
	mux.Handle("GET /ticketgate.js", client.Handler())
	mux.Handle("GET /favicon.ico",
		http.RedirectHandler("/assets/icon.svg", http.StatusPermanentRedirect))
	mux.Handle("/", gate.Wrap(http.HandlerFunc(pages.dashboard)))
	return mux, nil
}

// explain tells a page by closing, because a page sees nothing of a refusal in
// HTTP. A client that is no page (it names no Origin) gets the plain answer.
func explain(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
	if r.Header.Get("Origin") == "" {
		rej.ServeHTTP(w, r)
		return
	}
	middleware.RejectByClosing(w, r, rej)
}

// Handler returns the application's root.
func (s *Server) Handler() http.Handler { return s.handler }

// Issuer returns the issuer of the application's tickets.
func (s *Server) Issuer() *tickets.Issuer { return s.issuer }

// Sockets returns the live connections of all its guarded paths.
func (s *Server) Sockets() *middleware.Sockets { return s.sockets }

// Shutdown ends every guarded connection with 1001 and waits until they are
// gone or ctx is. It goes beside [http.Server.Shutdown], which does neither.
func (s *Server) Shutdown(ctx context.Context) error { return s.sockets.Shutdown(ctx) }

// Close ends the application at once. It may be called more than once.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(s.Shutdown(ctx), s.issuer.Close(), s.log.Close())
}
