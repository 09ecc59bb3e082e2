package compat

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// relyingParty signs people in with OpenID Connect, by coreos/go-oidc, and keeps
// their tokens on this side. Endpoints and verifier are those of oidc.NewProvider.
type relyingParty struct {
	oauth2   oauth2.Config
	verifier *oidc.IDTokenVerifier
	logins   sync.Map // stands for your own store: by cookie, and by session id, → *login
}

type login struct {
	id, user string
	started  time.Time

	mu               sync.Mutex
	token, sent      *oauth2.Token // sent: the one that cookie was made for
	cookie, previous string        // previous: for requests that were under way
}

// signIn is GET /login: to the provider, with what its answer must fit.
func (p *relyingParty) signIn(w http.ResponseWriter, r *http.Request) {
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	flow := strings.Join([]string{state, nonce, verifier, url.QueryEscape(middleware.Next(r))}, "!")
	http.SetCookie(w, &http.Cookie{Name: "__Host-flow", Value: flow, Path: "/", MaxAge: 600,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, p.oauth2.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// callback is GET /callback: back from the provider.
func (p *relyingParty) callback(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("__Host-flow")
	if err != nil {
		cookie = &http.Cookie{}
	}
	flow := strings.Split(cookie.Value, "!")
	if len(flow) != 4 || flow[0] != r.FormValue("state") {
		http.Error(w, "this sign-in did not begin here", http.StatusBadRequest)
		return
	}
	token, err := p.oauth2.Exchange(r.Context(), r.FormValue("code"), oauth2.VerifierOption(flow[2]))
	if err != nil {
		http.Error(w, "the provider did not confirm it", http.StatusBadGateway)
		return
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := p.verifier.Verify(r.Context(), raw)
	if err != nil || id.Nonce != flow[1] {
		http.Error(w, "the provider's answer is not for this sign-in", http.StatusBadRequest)
		return
	}
	l := &login{id: rand.Text(), user: id.Subject, started: time.Now(), token: token}
	p.logins.Store(l.id, l)
	http.SetCookie(w, p.rotate(l))
	next, _ := url.QueryUnescape(flow[3])
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// Authenticate is what the gate asks. A cookie is renewed with the tokens; the
// one before stays good until the next time.
func (p *relyingParty) Authenticate(w http.ResponseWriter, r *http.Request) (*middleware.Session, error) {
	cookie, err := r.Cookie("__Host-session")
	if err != nil {
		return nil, middleware.ErrNoSession
	}
	found, _ := p.logins.Load("cookie " + cookie.Value)
	l, ok := found.(*login)
	if !ok {
		return nil, middleware.ErrSessionExpired
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := p.session(r.Context(), l)
	if err == nil && (l.sent != l.token || l.cookie != cookie.Value) {
		http.SetCookie(w, p.rotate(l))
	}
	return s, err
}

// restore is the guard's Restore, for sockets that outlive a token.
func (p *relyingParty) restore(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
	found, _ := p.logins.Load(s.ID)
	l, ok := found.(*login)
	if !ok {
		return nil, middleware.ErrSessionExpired
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.session(ctx, l)
}

// session refreshes what has expired. The provider ends the session by refusing
// to; that it can't be reached ends nothing.
func (p *relyingParty) session(ctx context.Context, l *login) (*middleware.Session, error) {
	// A refresh token is good once: the answer must not be lost with the client.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	fresh, err := p.oauth2.TokenSource(ctx, l.token).Token()
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
		p.forget(l)
		return nil, middleware.ErrSessionExpired
	} else if err != nil {
		return nil, err
	}
	l.token = fresh
	return &middleware.Session{ID: l.id, Provider: "oidc", UserID: l.user, StartedAt: l.started, ExpiresAt: fresh.Expiry}, nil
}

// rotate makes the next cookie, unless this token has one.
func (p *relyingParty) rotate(l *login) *http.Cookie {
	if l.sent != l.token {
		p.logins.Delete("cookie " + l.previous)
		l.previous, l.cookie, l.sent = l.cookie, rand.Text(), l.token
		p.logins.Store("cookie "+l.cookie, l)
	}
	return &http.Cookie{Name: "__Host-session", Value: l.cookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

func (p *relyingParty) forget(l *login) {
	for _, key := range []string{l.id, "cookie " + l.cookie, "cookie " + l.previous} {
		p.logins.Delete(key)
	}
}

// signOut is for POST /logout, behind the gate. What follows is a redirect to the
// provider's end_session_endpoint.
func (p *relyingParty) signOut(issuer *tickets.Issuer, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	found, _ := p.logins.Load(session.ID)
	if l, ok := found.(*login); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		p.forget(l)
	}
	return issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"})
}

func Example_oidc() {
	stay(oidcNeighbour)
	// Output:
	// 401
	// ann greets bob
	// hello ann
	// websocket: close 4401: session_revoked
}
