package compat

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// jwtClaims has what stays when a token is refreshed: jti and iat do not.
type jwtClaims struct {
	jwt.RegisteredClaims
	SessionID string           `json:"sid"`
	SignedIn  *jwt.NumericDate `json:"auth_time"`
}

// jwtSessions takes `Authorization: Bearer <JWT>`, signed with the private half of
// key. A token is valid for every holder until it expires: the issuer remembers
// which sessions are signed out. Make it with RememberRevocations no shorter than
// a token may live.
func jwtSessions(key ed25519.PublicKey, issuer *tickets.Issuer) middleware.Authenticator {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithExpirationRequired(),
		jwt.WithIssuer("https://id.example"), jwt.WithAudience("app"))
	return middleware.BearerSessions(func(
		_ context.Context, token string,
	) (*middleware.Session, error) {
		var c jwtClaims
		_, err := parser.ParseWithClaims(token, &c,
			func(*jwt.Token) (any, error) { return key, nil })
		if err != nil {
			return nil, fmt.Errorf("%w: %w", middleware.ErrSessionExpired, err)
		}
		s := &middleware.Session{ID: c.SessionID, Provider: c.Issuer,
			UserID: c.Subject, ExpiresAt: c.ExpiresAt.Time}
		if c.SignedIn != nil {
			s.StartedAt = c.SignedIn.Time
		}
		grant := tickets.Grant{SessionID: s.ID, Provider: s.Provider,
			UserID: s.UserID, StartedAt: s.StartedAt}
		if s.ID == "" || s.UserID == "" || issuer.Revoked(grant) != nil {
			return nil, middleware.ErrSessionExpired
		}
		return s, nil
	})
}

// jwtRefreshed is called where a token has been exchanged for the next one of its
// session: the sockets of the session live as long as that.
func jwtRefreshed(sockets *middleware.Sockets, c jwtClaims) {
	sockets.Extend(c.SessionID, c.ExpiresAt.Time)
}

func jwtSignOut(issuer *tickets.Issuer, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	return issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"})
}

func Example_jwt() {
	stay(jwtNeighbour)
	// Output:
	// 401
	// ann greets bob
	// hello ann
	// websocket: close 4401: session_revoked
}

func newClaims(user string) jwtClaims {
	return jwtClaims{
		SessionID: rand.Text(), SignedIn: jwt.NewNumericDate(time.Now()),
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: "https://id.example", Audience: jwt.ClaimStrings{"app"}, Subject: user,
			ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)),
		},
	}
}

func jwtNeighbour(issuer *tickets.Issuer) neighbour {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return neighbour{
		sessions: jwtSessions(public, issuer),
		enter: func(v *visitor, user string) {
			token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, newClaims(user))
			v.bearer = must(token.SignedString(private))
		},
		signOut: func(_ http.ResponseWriter, r *http.Request) error {
			return jwtSignOut(issuer, r)
		},
	}
}

// What has been used against verifiers of tokens.
func TestJWTForged(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, foreign, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	with := func(change func(c *jwtClaims)) jwtClaims {
		c := newClaims("ann")
		change(&c)
		return c
	}
	sign := func(method jwt.SigningMethod, key any, c jwtClaims) string {
		return must(jwt.NewWithClaims(method, c).SignedString(key))
	}
	good := sign(jwt.SigningMethodEdDSA, private, newClaims("ann"))
	ago := jwt.NewNumericDate(time.Now().Add(-time.Minute))
	soon := jwt.NewNumericDate(time.Now().Add(time.Minute))

	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	sessions := jwtSessions(public, issuer)
	ask := func(token string) (*middleware.Session, error) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return sessions.Authenticate(httptest.NewRecorder(), r)
	}
	s, err := ask(good)
	require.NoError(t, err)
	require.Equal(t, "ann", s.UserID)

	for name, token := range map[string]string{
		"alg none (RFC 8725 section 2.1)": sign(
			jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, newClaims("ann")),
		"HMAC with the public key (RFC 8725 section 2.1)": sign(
			jwt.SigningMethodHS256, []byte(public), newClaims("ann")),
		"another key":       sign(jwt.SigningMethodEdDSA, foreign, newClaims("ann")),
		"signature cut off": good[:len(good)-20],
		"claims of another token": swapped(good,
			sign(jwt.SigningMethodEdDSA, foreign, newClaims("root"))),
		"expired": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.ExpiresAt = ago })),
		"without exp": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.ExpiresAt = nil })),
		"not yet": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.NotBefore = soon })),
		"for another audience": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.Audience = jwt.ClaimStrings{"other"} })),
		"of another issuer": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.Issuer = "https://evil.example" })),
		"without a session's id": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.SessionID = "" })),
		"without a subject": sign(jwt.SigningMethodEdDSA, private,
			with(func(c *jwtClaims) { c.Subject = "" })),
		"no JWT at all": "c29tZXRoaW5n",
	} {
		_, err := ask(token)
		require.ErrorIs(t, err, middleware.ErrSessionExpired, name)
		require.NotContains(t, err.Error(), token, name)
	}
}

// swapped is the token with the claims of another.
func swapped(token, claims string) string {
	parts, other := strings.Split(token, "."), strings.Split(claims, ".")
	return parts[0] + "." + other[1] + "." + parts[2]
}

// A refreshed token takes the sockets of its session along; a sign-out takes
// every token of it.
func TestJWTRefreshed(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	events := &lines{}
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	server, d, end := neighbour{
		sessions: jwtSessions(public, issuer),
		signOut: func(_ http.ResponseWriter, r *http.Request) error {
			return jwtSignOut(issuer, r)
		},
	}.serve(issuer, events)
	defer end()
	claims := newClaims("ann")
	v := newVisitor(server)
	v.bearer = must(jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(private))
	socket := v.socket(t)
	endsAt := func() (end time.Time) {
		for info := range d.guard.Sockets().All() {
			end = info.EndsAt
		}
		return end
	}
	require.Equal(t, claims.ExpiresAt.Unix(), endsAt().Unix())

	first := v.bearer
	claims.ExpiresAt = jwt.NewNumericDate(time.Now().Add(2 * time.Hour))
	v.bearer = must(jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(private))
	jwtRefreshed(d.guard.Sockets(), claims)
	require.Equal(t, claims.ExpiresAt.Unix(), endsAt().Unix())

	require.Equal(t, 200, v.post("/logout").status)
	requireClosed(t, socket, 4401, "session_revoked")
	for _, token := range []string{first, v.bearer} {
		v.bearer = token
		require.Contains(t, v.get("/hello/bob").text, "session_expired")
	}
}
