package compat

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/sessions"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

const gorillaLife = 12 * time.Hour // of a session, however often its cookie is renewed

// gorillaSessions says who has signed in with gorilla/sessions. The cookie of its CookieStore is
// all there is of a session, and a copy of it outlives the sign-out: the issuer remembers who has
// signed out. Give it RememberRevocations: gorillaLife. Give the store SameSite Lax: its own
// default is None.
func gorillaSessions(store *sessions.CookieStore, issuer *tickets.Issuer) middleware.Authenticator {
	return middleware.AuthenticatorFunc(func(
		_ http.ResponseWriter, r *http.Request,
	) (*middleware.Session, error) {
		cookie, err := store.Get(r, "__Host-session")
		if err != nil { // a CookieStore can't fail otherwise
			return nil, fmt.Errorf("%w: %w", middleware.ErrSessionExpired, err)
		}
		id, _ := cookie.Values["id"].(string)
		user, _ := cookie.Values["user"].(string)
		started, _ := cookie.Values["started"].(int64)
		if id == "" {
			return nil, middleware.ErrNoSession
		}
		start := time.Unix(started, 0)
		grant := tickets.Grant{SessionID: id, Provider: "gorilla", UserID: user, StartedAt: start}
		if issuer.Revoked(grant) != nil {
			return nil, middleware.ErrSessionExpired
		}
		return &middleware.Session{
			ID: id, Provider: "gorilla", UserID: user,
			StartedAt: start, ExpiresAt: start.Add(gorillaLife),
		}, nil
	})
}

// gorillaSignIn is called once it is known who it is, gorillaSignOut behind the gate.
func gorillaSignIn(
	store *sessions.CookieStore, w http.ResponseWriter, r *http.Request, user string,
) error {
	cookie, _ := store.New(r, "__Host-session") // whatever there was before
	now := time.Now().Unix()
	cookie.Values = map[any]any{"id": rand.Text(), "user": user, "started": now, "saved": now}
	return cookie.Save(r, w)
}

func gorillaSignOut(
	store *sessions.CookieStore, issuer *tickets.Issuer, w http.ResponseWriter, r *http.Request,
) error {
	session, _ := middleware.SessionFrom(r.Context())
	cookie, _ := store.New(r, "__Host-session")
	cookie.Options.MaxAge = -1
	revocation := tickets.Revocation{SessionID: session.ID, Reason: "logout"}
	return errors.Join(cookie.Save(r, w), issuer.Revoke(r.Context(), revocation))
}

// gorillaRenewing is gorillaSessions with a fresh cookie now and then. The session keeps its end.
func gorillaRenewing(
	store *sessions.CookieStore, issuer *tickets.Issuer, after time.Duration,
) middleware.Authenticator {
	sessions := gorillaSessions(store, issuer)
	return middleware.AuthenticatorFunc(func(
		w http.ResponseWriter, r *http.Request,
	) (*middleware.Session, error) {
		s, err := sessions.Authenticate(w, r)
		if err != nil {
			return nil, err
		}
		cookie, err := store.Get(r, "__Host-session")
		saved, _ := cookie.Values["saved"].(int64)
		if err == nil && time.Since(time.Unix(saved, 0)) > after {
			cookie.Values["saved"] = time.Now().Unix()
			err = cookie.Save(r, w) // sets a header, and writes nothing
		}
		return s, err
	})
}

func Example_gorillaSessions() {
	stay(gorillaNeighbour)
	// Output:
	// 401
	// ann greets bob
	// hello ann
	// websocket: close 4401: session_revoked
}

func newGorillaStore() *sessions.CookieStore {
	store := sessions.NewCookieStore([]byte(rand.Text() + rand.Text())[:32],
		[]byte(rand.Text() + rand.Text())[:32])
	store.Options.HttpOnly, store.Options.SameSite = true, http.SameSiteLaxMode
	store.MaxAge(int(gorillaLife.Seconds()))
	return store
}

func gorillaNeighbour(issuer *tickets.Issuer) neighbour {
	store := newGorillaStore()
	return neighbour{
		sessions: gorillaRenewing(store, issuer, -time.Second),
		signIn: func(w http.ResponseWriter, r *http.Request, user string) error {
			return gorillaSignIn(store, w, r, user)
		},
		signOut: func(w http.ResponseWriter, r *http.Request) error {
			return gorillaSignOut(store, issuer, w, r)
		},
		cookie: "__Host-session",
		old:    true,
	}
}

// A cookie that was copied before the sign-out is dead for as long as it would
// have lived; no renewal makes a session longer than it may be.
func TestGorillaSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil),
			&tickets.IssuerOptions{RememberRevocations: gorillaLife})
		require.NoError(t, err)
		store := newGorillaStore()
		sessions := gorillaRenewing(store, issuer, time.Minute)
		newest := func(w *httptest.ResponseRecorder) string { return w.Result().Cookies()[0].Value }
		with := func(cookie string) *http.Request {
			r := httptest.NewRequest("GET", "/", nil)
			r.AddCookie(&http.Cookie{Name: "__Host-session", Value: cookie})
			return r
		}
		signIn := func() string {
			w := httptest.NewRecorder()
			require.NoError(t, gorillaSignIn(store, w, httptest.NewRequest("GET", "/", nil), "ann"))
			return newest(w)
		}

		copied, stays := signIn(), signIn()
		s, err := sessions.Authenticate(httptest.NewRecorder(), with(copied))
		require.NoError(t, err)
		require.NoError(t, issuer.Revoke(t.Context(), tickets.Revocation{SessionID: s.ID}))
		for range 12 {
			time.Sleep(gorillaLife/12 - time.Second)
			_, err = sessions.Authenticate(httptest.NewRecorder(), with(copied))
			require.ErrorIs(t, err, middleware.ErrSessionExpired)

			w := httptest.NewRecorder()
			s, err := sessions.Authenticate(w, with(stays))
			require.NoError(t, err)
			require.True(t, s.ExpiresAt.Equal(s.StartedAt.Add(gorillaLife)))
			stays = newest(w)
		}
		time.Sleep(time.Minute)
		s, err = sessions.Authenticate(httptest.NewRecorder(), with(stays))
		require.NoError(t, err)
		require.False(t, time.Now().Before(s.ExpiresAt), "the gate refuses it now")
	})
}
