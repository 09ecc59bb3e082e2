package compat

import (
	"context"
	"errors"
	"log"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/ticketgate/ticketgate/tickets"
)

// backChannelLogout is POST /backchannel-logout, outside the gate: the provider has ended one of
// its sessions (sid), or all of a person's (sub). Register its URL as backchannel_logout_uri.
func (p *relyingParty) backChannelLogout(issuer *tickets.Issuer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
		token, err := p.verifyLogout(r.Context(), r.PostFormValue("logout_token"))
		if err != nil {
			http.Error(w, "the logout_token is not valid", http.StatusBadRequest)
			return
		}
		for _, revocation := range p.end(token.SessionID, token.Subject) {
			revocation.Reason = "ended by the provider"
			if err := issuer.Revoke(context.WithoutCancel(r.Context()), revocation); err != nil {
				log.Print(err) // it holds here; the issuer publishes it to the other servers later
			}
		}
	}
}

// verifyLogout checks a logout_token after OpenID Connect Back-Channel Logout 1.0, section 2.6.
// go-oidc checks signature, iss, aud, exp, events, sub or sid, and that there is no nonce.
func (p *relyingParty) verifyLogout(ctx context.Context, raw string) (*oidc.LogoutToken, error) {
	token, err := p.verifier.VerifyLogout(ctx, raw)
	if err != nil {
		return nil, err
	}
	var claims struct{ Events map[string]map[string]any }
	if err := token.Claims(&claims); err != nil {
		return nil, err
	}
	event := claims.Events["http://schemas.openid.net/event/backchannel-logout"]
	if event == nil || token.IssuedAt.IsZero() {
		return nil, errors.New("want an event that is an object, and iat")
	}
	if _, replayed := p.logouts.LoadOrStore(token.TokenID, true); replayed {
		return nil, errors.New("this jti has come before")
	}
	time.AfterFunc(time.Until(token.Expiry), func() { p.logouts.Delete(token.TokenID) })
	return token, nil
}

// end removes the sessions from your own store and returns what to revoke. With a sid it is that
// session of that person, if it is known here. Without one it is all that the person has begun so
// far.
func (p *relyingParty) end(sid, sub string) (revocations []tickets.Revocation) {
	if sid == "" {
		revocations = append(revocations, tickets.Revocation{Provider: "oidc", UserID: sub})
	}
	p.logins.Range(func(_, value any) bool {
		l := value.(*login)
		covered := (sid == "" || l.sid == sid) && (sub == "" || l.user == sub)
		if covered && p.forget(l) && sid != "" {
			revocations = append(revocations, tickets.Revocation{SessionID: l.id})
		}
		return true
	})
	return revocations
}
