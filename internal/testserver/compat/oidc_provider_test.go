package compat

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// provider is an OpenID provider: discovery, keys, the authorization code flow
// with PKCE, and refresh tokens that are good once.
type provider struct {
	server *httptest.Server
	key    *ecdsa.PrivateKey

	mu       sync.Mutex
	user     string // who sits before the browser
	lives    int    // seconds that an access token lives; the library renews it 10 s before its end
	down     bool
	nonce    string                // in place of the one asked for; ""
	codes    map[string]url.Values // what was asked for with each
	refresh  map[string]string     // → user
	spent    map[string]string     // refresh tokens that were used → the one that came after
	sid      string                // in the ID tokens that come
	renewals int
	hold     chan struct{} // a refresh is answered once this is closed; nil: at once
}

func newProvider() *provider {
	p := &provider{
		key:   must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		lives: 10, codes: make(map[string]url.Values), refresh: make(map[string]string),
		spent: make(map[string]string),
	}
	mux := http.NewServeMux()
	configuration := func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 200, map[string]any{
			"issuer": p.server.URL, "authorization_endpoint": p.server.URL + "/authorize",
			"token_endpoint": p.server.URL + "/token", "jwks_uri": p.server.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	}
	mux.HandleFunc("/.well-known/openid-configuration", configuration)
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		point := must(p.key.PublicKey.Bytes())[1:]
		answerJSON(w, 200, map[string]any{"keys": []any{map[string]string{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
			"x": base64.RawURLEncoding.EncodeToString(point[:32]),
			"y": base64.RawURLEncoding.EncodeToString(point[32:]),
		}}})
	})
	mux.HandleFunc("/authorize", p.authorize)
	mux.HandleFunc("/token", p.token)
	p.server = httptest.NewServer(mux)
	return p
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (p *provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	asked, code := r.URL.Query(), rand.Text()
	p.set(func() { p.codes[code] = asked })
	query := url.Values{"code": {code}, "state": {asked.Get("state")}}
	http.Redirect(w, r, asked.Get("redirect_uri")+"?"+query.Encode(), http.StatusFound)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	var hold chan struct{}
	p.set(func() { hold = p.hold })
	if hold != nil && r.FormValue("grant_type") == "refresh_token" {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	next := rand.Text()
	answer := map[string]any{
		"token_type": "Bearer", "access_token": rand.Text(), "expires_in": p.lives}
	var user string
	switch r.FormValue("grant_type") {
	case "authorization_code":
		asked, ok := p.codes[r.FormValue("code")]
		delete(p.codes, r.FormValue("code"))
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		challenge := base64.RawURLEncoding.EncodeToString(sum[:])
		if !ok || asked.Get("code_challenge") != challenge {
			answerJSON(w, 400, map[string]string{"error": "invalid_grant"})
			return
		}
		user = p.user
		nonce := asked.Get("nonce")
		if p.nonce != "" {
			nonce = p.nonce
		}
		answer["id_token"] = must(jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"iss": p.server.URL, "aud": asked.Get("client_id"), "sub": user,
			"nonce": nonce, "sid": p.sid,
			"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		}).SignedString(p.key))
	case "refresh_token":
		used := r.FormValue("refresh_token")
		var ok bool
		if user, ok = p.refresh[used]; !ok {
			// It comes a second time: the family ends.
			for t := p.spent[used]; t != ""; t = p.spent[t] {
				delete(p.refresh, t)
			}
			answerJSON(w, 400, map[string]string{"error": "invalid_grant"})
			return
		}
		delete(p.refresh, used)
		p.spent[used] = next
		p.renewals++
	}
	p.refresh[next] = user
	answer["refresh_token"] = next
	answerJSON(w, 200, answer)
}

func newRelyingParty(p *provider) *relyingParty {
	found := must(oidc.NewProvider(context.Background(), p.server.URL))
	return &relyingParty{
		oauth2: oauth2.Config{
			ClientID: "app", ClientSecret: rand.Text(), Endpoint: found.Endpoint(),
			Scopes: []string{oidc.ScopeOpenID, oidc.ScopeOfflineAccess}},
		verifier: found.Verifier(&oidc.Config{ClientID: "app"}),
	}
}

func oidcNeighbour(issuer *tickets.Issuer) neighbour {
	n, _ := oidcParts(issuer)
	return n
}

func oidcParts(issuer *tickets.Issuer) (neighbour, *provider) {
	p := newProvider()
	rp := newRelyingParty(p)
	return neighbour{
		sessions: rp,
		sockets: middleware.SocketsOptions{
			Restore: rp.restore, RecheckEvery: 20 * time.Millisecond},
		routes: map[string]http.HandlerFunc{"GET /login": rp.signIn, "GET /callback": rp.callback,
			"POST /backchannel-logout": rp.backChannelLogout(issuer)},
		signOut: func(_ http.ResponseWriter, r *http.Request) error {
			return rp.signOut(issuer, r)
		},
		started: func(base string) { rp.oauth2.RedirectURL = base + "/callback" },
		enter: func(v *visitor, user string) {
			p.set(func() { p.user = user })
			if page := v.follow("/login?next=%2Fhello%2Fbob"); page.text != user+" greets bob" {
				panic(fmt.Sprint(page))
			}
		},
		cookie: "__Host-session", old: true,
		fail: func() { p.set(func() { p.down = true }) },
		stop: p.server.Close,
	}, p
}

// follow asks for path as a page load does that may be redirected.
func (v *visitor) follow(path string) answer {
	browser := visitor{base: v.base, origin: v.origin, http: new(*v.http)}
	browser.http.CheckRedirect = nil
	return browser.get(path, "Sec-Fetch-Mode", "navigate")
}

// A provider that is down signs nobody out and ends no socket; one that refuses
// to refresh ends the session, and its sockets with it.
func TestOIDCProvider(t *testing.T) {
	events := &lines{}
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n, p := oidcParts(issuer)
	server, d, end := n.serve(issuer, events)
	defer end()
	ann := newVisitor(server)
	require.Equal(t, "ann greets bob", n.signInAs(ann, "ann"))
	socket := ann.socket(t)
	asked := func() (n int) { p.set(func() { n = p.renewals }); return n }

	before := asked()
	eventually(t, "rechecks of the live socket refresh its tokens",
		func() bool { return asked() > before+3 })
	require.Equal(t, 200, ann.get("/hello/bob").status, "the cookie that was good before still is")

	first := ann.another()
	first.setCookie(n.cookie, ann.cookie(n.cookie))
	ann.get("/hello/bob")
	ann.get("/hello/bob")
	require.Equal(t, 401, first.get("/hello/bob").status, "the cookie before the one before is not")

	gone, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequestWithContext(gone, "GET", "/", nil)
	r.Header.Set("Cookie", n.cookie+"="+ann.cookie(n.cookie))
	_, err := n.sessions.Authenticate(httptest.NewRecorder(), r)
	require.NoError(t, err, "a refresh goes on when the client has gone")

	// A request may share the refresh of a recheck that began before the change.
	answers := func(status int) {
		t.Helper()
		eventually(t, fmt.Sprint("the answer is ", status), func() bool {
			return ann.get("/hello/bob").status == status
		})
		for range 3 {
			require.Equal(t, status, ann.get("/hello/bob").status)
		}
	}
	p.set(func() { p.down = true })
	answers(503)
	require.Equal(t, 1, d.guard.Sockets().Len())
	p.set(func() { p.down = false })
	answers(200)

	p.set(func() { clear(p.refresh) })
	requireClosed(t, socket, 4401, "session_expired")
	require.Contains(t, ann.get("/hello/bob").text, "session_expired")
}

// What comes back from the provider must be for the sign-in that this browser
// has begun.
func TestOIDCCallback(t *testing.T) {
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n, p := oidcParts(issuer)
	server, _, end := n.serve(issuer, &lines{})
	defer end()
	p.set(func() { p.user = "ann" })

	// at is the way back to the application, as the provider has redirected to it.
	at := func(v *visitor) string {
		authorize := v.get("/login").header.Get("Location")
		response, err := (&http.Client{CheckRedirect: v.http.CheckRedirect}).Get(authorize)
		require.NoError(t, err)
		response.Body.Close()
		return strings.TrimPrefix(response.Header.Get("Location"), v.base)
	}
	v := newVisitor(server)
	require.Equal(t, 400, v.get("/callback?code=x&state=").status, "never begun")
	require.Equal(t, 400, v.another().get(at(v)).status,
		"begun in another browser (RFC 6749 section 10.12)")
	way := at(v)
	require.Equal(t, 400, v.get(strings.Replace(way, "state=", "state=x", 1)).status)
	require.Equal(t, 303, v.get(way).status)
	require.NotEmpty(t, v.cookie("__Host-session"))
	require.Equal(t, 502, v.get(way).status, "a code is good once")

	p.set(func() { p.nonce = "another" })
	v = newVisitor(server)
	require.Equal(t, 400, v.get(at(v)).status, "the ID token of another sign-in")
	require.Empty(t, v.cookie("__Host-session"))
}
