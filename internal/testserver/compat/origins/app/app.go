// Package app is an API whose pages are at another origin: https://api.example and
// https://app.example.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/jub0bs/cors"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// New returns the API for the pages of one origin, such as "https://app.example".
func New(page string, sessions *Sessions) (http.Handler, error) {
	origins := []string{page} // the whole list: pages of the API's own origin are not in it
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	gate, err2 := middleware.NewGate(sessions.authenticator(), nil)
	mint, err3 := middleware.NewMint(issuer, &middleware.MintOptions{
		Origins: origins, // for the ticket
	})
	guard, err4 := middleware.NewGuard(issuer, &middleware.GuardOptions{
		Origins:  origins, // for the socket
		OnReject: middleware.RejectByClosing,
	})
	browsers, err5 := readers(origins)
	csrf := http.NewCrossOriginProtection()
	err6 := csrf.AddTrustedOrigin(page)
	mux := http.NewServeMux()
	mux.Handle("/login", csrf.Handler(http.HandlerFunc(sessions.signIn)))
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint))
	mux.Handle("/ws", guard.Wrap(socket(origins)))
	// CORS is outside the gate: a preflight has no cookie, and a page must be able to read a 401.
	return browsers.Wrap(mux), errors.Join(err, err2, err3, err4, err5, err6)
}

// readers lets pages read the answers of the API. A body {"endpoint": …} has a Content-Type, and
// a bearer token comes in Authorization.
func readers(origins []string) (*cors.Middleware, error) {
	return cors.NewMiddleware(cors.Config{
		Origins:        origins,
		Credentialed:   true, // requests with the cookie too
		RequestHeaders: []string{"Content-Type", "Authorization"},
	})
}

// socket names the origins to the WebSocket library too: it compares Origin with Host by itself.
func socket(origins []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: origins})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		session, _ := middleware.SessionFrom(r.Context())
		_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
		_, _, _ = conn.Read(r.Context())
	}
}

// signIn sets a cookie that pages of another site can send. Where both origins are one site, such
// as https://app.acme.example and https://api.acme.example, SameSite is Lax, without Partitioned.
func (s *Sessions) signIn(w http.ResponseWriter, r *http.Request) {
	id := s.Start(r.FormValue("user"))
	http.SetCookie(w, &http.Cookie{
		Name: "__Host-session", Value: id, Path: "/", Secure: true, HttpOnly: true,
		SameSite:    http.SameSiteNoneMode, // or a page of another site does not send it
		Partitioned: true,                  // or a browser that blocks third-party cookies does not
	})
}

// Sessions stands for your own session store.
type Sessions struct {
	byID sync.Map // cookie, or bearer token → *middleware.Session
}

// Start starts a session and returns what it is known by: a cookie or a bearer token.
func (s *Sessions) Start(user string) string {
	id := rand.Text()
	s.byID.Store(id, &middleware.Session{ID: id, UserID: user, StartedAt: time.Now()})
	return id
}

func (s *Sessions) authenticator() middleware.Authenticator {
	lookup := func(_ context.Context, id string) (*middleware.Session, error) {
		found, _ := s.byID.Load(id)
		session, _ := found.(*middleware.Session)
		return session, nil
	}
	cookie := middleware.CookieSessions("__Host-session", lookup)
	return middleware.FirstOf(cookie, middleware.BearerSessions(lookup))
}
