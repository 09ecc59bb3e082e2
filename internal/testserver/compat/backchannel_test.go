package compat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutToken returns the claims of a good logout_token, changed.
func (p *provider) logoutToken(change func(claims jwt.MapClaims)) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iss": p.server.URL, "aud": "app", "sub": "ann", "jti": rand.Text(),
		"iat": time.Now().Unix(), "exp": time.Now().Add(2 * time.Minute).Unix(),
		"events": map[string]any{logoutEvent: map[string]any{}},
	}
	change(claims)
	return claims
}

// sign returns a good logout_token, but for a change of its claims.
func (p *provider) sign(change func(claims jwt.MapClaims)) string {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, p.logoutToken(change))
	return must(token.SignedString(p.key))
}

// logOut sends a logout_token as the provider does, and returns the status of the answer.
func logOut(t *testing.T, app *httptest.Server, token string) int {
	t.Helper()
	form := url.Values{"logout_token": {token}}
	answer, err := app.Client().PostForm(app.URL+"/backchannel-logout", form)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
	return answer.StatusCode
}

// The provider ends one session by its sid, or all of a person by sub: their sockets close, their
// cookies and tickets are refused, and others stay.
func TestBackChannelLogout(t *testing.T) {
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n, p := oidcParts(issuer)
	p.set(func() { p.lives = 3600 })
	app, d, end := n.serve(issuer, &lines{})
	defer end()
	enter := func(user, sid string) (*visitor, *gorilla.Conn) {
		p.set(func() { p.sid = sid })
		v := newVisitor(app)
		require.Equal(t, user+" greets bob", n.signInAs(v, user))
		return v, v.socket(t)
	}
	desk, deskSocket := enter("ann", "desk")
	phone, phoneSocket := enter("ann", "phone")
	bob, _ := enter("bob", "desk of bob")
	held := desk.ticket()

	with := func(sid string) string { return p.sign(func(c jwt.MapClaims) { c["sid"] = sid }) }
	require.Equal(t, 200, logOut(t, app, with("desk")))
	requireClosed(t, deskSocket, 4401, "session_revoked")
	require.Equal(t, "refused: 401", desk.hear("/ws/7?ticket="+held))
	require.Contains(t, desk.get("/hello/bob").text, "session_expired")
	require.Equal(t, 200, phone.get("/hello/bob").status)

	again, againSocket := enter("ann", "desk again")
	require.Equal(t, 200, logOut(t, app, p.sign(func(jwt.MapClaims) {})), "all of ann's")
	requireClosed(t, phoneSocket, 4401, "session_revoked")
	requireClosed(t, againSocket, 4401, "session_revoked")
	require.Equal(t, 401, phone.get("/hello/bob").status)
	require.Equal(t, 401, again.get("/hello/bob").status)

	require.Equal(t, 200, logOut(t, app, with("never seen")))
	require.Equal(t, 200, logOut(t, app, with("desk of bob")))
	require.Equal(t, 200, bob.get("/hello/bob").status, "a sid of another person")
	require.Len(t, d.guard.Sockets().Users(), 1, "bob stays")
}

// What section 2.6 of OpenID Connect Back-Channel Logout 1.0 has a relying party refuse, and RFC
// 8725.
func TestBackChannelLogoutForged(t *testing.T) {
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n, p := oidcParts(issuer)
	p.set(func() { p.lives = 3600; p.sid = "desk" })
	app, d, end := n.serve(issuer, &lines{})
	defer end()
	ann := newVisitor(app)
	require.Equal(t, "ann greets bob", n.signInAs(ann, "ann"))
	ann.socket(t)

	foreign := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	without := func(name string) string {
		return p.sign(func(c jwt.MapClaims) { delete(c, name) })
	}
	with := func(name string, value any) string {
		return p.sign(func(c jwt.MapClaims) { c[name] = value })
	}
	withEvent := func(event string, value any) string {
		return with("events", map[string]any{event: value})
	}
	signed := func(method jwt.SigningMethod, key any) string {
		claims := p.logoutToken(func(jwt.MapClaims) {})
		return must(jwt.NewWithClaims(method, claims).SignedString(key))
	}
	public := must(p.key.PublicKey.Bytes())
	spent := with("sub", "somebody else")
	require.Equal(t, 200, logOut(t, app, spent))

	for name, token := range map[string]string{
		"no token":                 "",
		"no JWT":                   "c29tZXRoaW5n",
		"alg none":                 signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType),
		"HMAC with the public key": signed(jwt.SigningMethodHS256, public),
		"another key":              signed(jwt.SigningMethodES256, foreign),
		"of another issuer":        with("iss", "https://evil.example"),
		"for another audience":     with("aud", "other"),
		"without an audience":      without("aud"),
		"expired":                  with("exp", time.Now().Add(-time.Minute).Unix()),
		"without exp":              without("exp"),
		"without iat":              without("iat"),
		"without events":           without("events"),
		"of another event":         withEvent("https://other.example", map[string]any{}),
		"an event that is null":    withEvent(logoutEvent, nil),
		"an event that is text":    withEvent(logoutEvent, "yes"),
		"with a nonce":             with("nonce", "n"),
		"with a nonce of null":     with("nonce", nil),
		"without jti":              without("jti"),
		"a jti that has come":      spent,
		"of nobody":                without("sub"),
		"claims of another token":  swapped(spent, with("sub", "ann")),
	} {
		require.Equal(t, 400, logOut(t, app, token), name)
	}
	inURL := "/backchannel-logout?logout_token=" + with("sub", "ann")
	require.Equal(t, 405, ann.get(inURL).status)
	require.Equal(t, 400, ann.post(inURL).status, "it is a form's field")
	require.Equal(t, 200, ann.get("/hello/bob").status)
	require.Equal(t, 1, d.guard.Sockets().Len())
}

// Fifty requests find the access token expired, at a provider that ends a session whose refresh
// token comes twice (RFC 9700 section 4.14.2): it is refreshed once, and nobody is signed out.
func TestOIDCRefreshedOnce(t *testing.T) {
	const requests = 50
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n, p := oidcParts(issuer)
	var arrived sync.WaitGroup
	n.around = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Counted") != "" {
				arrived.Done()
			}
			next.ServeHTTP(w, r)
		})
	}
	app, d, end := n.serve(issuer, &lines{})
	defer end()
	ann := newVisitor(app)
	p.set(func() { p.lives = 3600 })
	require.Equal(t, "ann greets bob", n.signInAs(ann, "ann"))
	ann.socket(t)
	var before int
	hold := make(chan struct{})
	p.set(func() { before, p.hold = p.renewals, hold })
	arrived.Add(requests)
	expire(t, n, ann)
	answers := make(chan answer, requests)
	for range requests {
		go func() { answers <- ann.get("/hello/bob", "X-Counted", "1") }()
	}
	all := make(chan struct{})
	go func() { arrived.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(2 * time.Second): // a refresh is given up after 5 s
	}
	close(hold)
	for range requests {
		got := <-answers
		require.Equal(t, 200, got.status, got.text)
	}
	p.set(func() { require.Equal(t, before+1, p.renewals) })
	require.Equal(t, 200, ann.get("/hello/bob").status)
	require.Equal(t, 1, d.guard.Sockets().Len())
}

// expire has the access token of v's session expire.
func expire(t *testing.T, n neighbour, v *visitor) {
	t.Helper()
	rp := n.sessions.(*relyingParty)
	found, ok := rp.logins.Load("cookie " + v.cookie(n.cookie))
	require.True(t, ok)
	l := found.(*login)
	l.mu.Lock()
	defer l.mu.Unlock()
	expired := *l.token
	expired.Expiry = time.Now().Add(-time.Second)
	l.token = &expired
}
