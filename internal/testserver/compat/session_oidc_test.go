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
	"golang.org/x/sync/singleflight"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// relyingParty signs people in with OpenID Connect, by coreos/go-oidc, and keeps
// their tokens on this side. Endpoints and verifier are those of oidc.NewProvider.
type relyingParty struct {
	oauth2   oauth2.Config
	verifier *oidc.IDTokenVerifier
	// logins stands for your own store: by cookie, and by session id, → *login
	logins    sync.Map
	refreshes singleflight.Group // by session id
	logouts   sync.Map           // the jti of each logout_token until it expires
}

type login struct {
	id, user string
	sid      string // the provider's name for its session; "" if it has none
	started  time.Time

	mu               sync.Mutex
	ended            bool
	token, sent      *oauth2.Token // sent: the one that cookie was made for
	cookie, previous string        // previous: for requests that were under way
}

// signIn is GET /login: to the provider, with what its answer must fit.
func (p *relyingParty) signIn(w http.ResponseWriter, r *http.Request) {
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	flow := strings.Join([]string{state, nonce, verifier, url.QueryEscape(middleware.Next(r))}, "!")
	http.SetCookie(w, &http.Cookie{Name: "__Host-flow", Value: flow, Path: "/", MaxAge: 600,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	there := p.oauth2.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	http.Redirect(w, r, there, http.StatusSeeOther)
}

// callback is GET /callback: back from the provider.
func (p *relyingParty) callback(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("__Host-flow")
	if err != nil {
		cookie = &http.Cookie{}
	}
	flow, code := strings.Split(cookie.Value, "!"), r.FormValue("code")
	if len(flow) != 4 || flow[0] != r.FormValue("state") {
		http.Error(w, "this sign-in did not begin here", http.StatusBadRequest)
		return
	}
	token, err := p.oauth2.Exchange(r.Context(), code, oauth2.VerifierOption(flow[2]))
	if err != nil {
		http.Error(w, "the provider did not confirm it", http.StatusBadGateway)
		return
	}
	l, err := p.newLogin(r.Context(), token, flow[1])
	if err != nil {
		http.Error(w, "the provider's answer is not for this sign-in", http.StatusBadRequest)
		return
	}
	p.logins.Store(l.id, l)
	p.renew(w, l, "")
	next, _ := url.QueryUnescape(flow[3])
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// newLogin verifies the ID token that came with token.
func (p *relyingParty) newLogin(
	ctx context.Context, token *oauth2.Token, nonce string,
) (*login, error) {
	raw, _ := token.Extra("id_token").(string)
	id, err := p.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	var claims struct{ SID string }
	if id.Nonce != nonce || id.Claims(&claims) != nil {
		return nil, errors.New("nonce or claims of the ID token")
	}
	return &login{
		id: rand.Text(), user: id.Subject, sid: claims.SID, started: time.Now(), token: token,
	}, nil
}

// Authenticate is what the gate asks. A cookie is renewed with the tokens; the
// one before stays good until the next time.
func (p *relyingParty) Authenticate(
	w http.ResponseWriter, r *http.Request,
) (*middleware.Session, error) {
	cookie, err := r.Cookie("__Host-session")
	if err != nil {
		return nil, middleware.ErrNoSession
	}
	found, _ := p.logins.Load("cookie " + cookie.Value)
	l, ok := found.(*login)
	if !ok {
		return nil, middleware.ErrSessionExpired
	}
	s, err := p.session(r.Context(), l)
	if err == nil {
		p.renew(w, l, cookie.Value)
	}
	return s, err
}

// restore is the guard's Restore, for sockets that outlive a token.
func (p *relyingParty) restore(
	ctx context.Context, s *middleware.Session,
) (*middleware.Session, error) {
	found, _ := p.logins.Load(s.ID)
	l, ok := found.(*login)
	if !ok {
		return nil, middleware.ErrSessionExpired
	}
	return p.session(ctx, l)
}

// session refreshes the tokens once they have expired: one request, however many ask at the same
// time. A provider ends the session of a refresh token that comes twice (RFC 9700 section 4.14.2).
// The provider ends a session by refusing to refresh. That it can't be reached ends nothing.
func (p *relyingParty) session(ctx context.Context, l *login) (*middleware.Session, error) {
	token, err, _ := p.refreshes.Do(l.id, func() (any, error) {
		// The answer must not be lost with the client that asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// It is the same one until it expires.
		fresh, err := p.oauth2.TokenSource(ctx, l.current()).Token()
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
			p.forget(l)
			return nil, middleware.ErrSessionExpired
		} else if err != nil {
			return nil, err
		}
		return fresh, l.set(fresh)
	})
	if err != nil {
		return nil, err
	}
	return &middleware.Session{
		ID: l.id, Provider: "oidc", UserID: l.user, StartedAt: l.started,
		ExpiresAt: token.(*oauth2.Token).Expiry,
	}, nil
}

func (l *login) current() *oauth2.Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// set fails if the session has ended meanwhile.
func (l *login) set(token *oauth2.Token) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return middleware.ErrSessionExpired
	}
	l.token = token
	return nil
}

// renew sets the next cookie, if the tokens are new or the browser has an older one.
func (p *relyingParty) renew(w http.ResponseWriter, l *login, has string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.sent == l.token && l.cookie == has {
		return
	}
	if l.sent != l.token {
		p.logins.Delete("cookie " + l.previous)
		l.previous, l.cookie, l.sent = l.cookie, rand.Text(), l.token
		p.logins.Store("cookie "+l.cookie, l)
	}
	http.SetCookie(w, &http.Cookie{Name: "__Host-session", Value: l.cookie, Path: "/",
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// forget reports whether the session had not ended before.
func (p *relyingParty) forget(l *login) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{l.id, "cookie " + l.cookie, "cookie " + l.previous} {
		p.logins.Delete(key)
	}
	ended := l.ended
	l.ended = true
	return !ended
}

// signOut is for POST /logout, behind the gate. What follows is a redirect to the
// provider's end_session_endpoint.
func (p *relyingParty) signOut(issuer *tickets.Issuer, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	found, _ := p.logins.Load(session.ID)
	if l, ok := found.(*login); ok {
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
