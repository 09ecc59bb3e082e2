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

// gorillaSessions says who has signed in with gorilla/sessions. The cookie of its
// CookieStore is all there is of a session, so that a copy outlives the sign-out:
// the issuer remembers who is signed out. Make it with RememberRevocations:
// gorillaLife, and the store with SameSite Lax, for its own default is None.
func gorillaSessions(store *sessions.CookieStore, issuer *tickets.Issuer, renewAfter time.Duration) middleware.Authenticator {
	return middleware.AuthenticatorFunc(func(w http.ResponseWriter, r *http.Request) (*middleware.Session, error) {
		cookie, err := store.Get(r, "__Host-session")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", middleware.ErrSessionExpired, err) // a CookieStore's error is the cookie's
		}
		id, _ := cookie.Values["id"].(string)
		user, _ := cookie.Values["user"].(string)
		started, _ := cookie.Values["started"].(int64)
		saved, _ := cookie.Values["saved"].(int64)
		if id == "" {
			return nil, middleware.ErrNoSession
		}
		start := time.Unix(started, 0)
		if issuer.Revoked(tickets.Grant{SessionID: id, Provider: "gorilla", UserID: user, StartedAt: start}) != nil {
			return nil, middleware.ErrSessionExpired
		}
		if time.Since(time.Unix(saved, 0)) > renewAfter {
			cookie.Values["saved"] = time.Now().Unix()
			err = cookie.Save(r, w) // sets a header, and writes nothing
		}
		return &middleware.Session{ID: id, Provider: "gorilla", UserID: user, StartedAt: start, ExpiresAt: start.Add(gorillaLife)}, err
	})
}

// gorillaSignIn is called once it is known who it is, gorillaSignOut behind the
// gate.
func gorillaSignIn(store *sessions.CookieStore, w http.ResponseWriter, r *http.Request, user string) error {
	cookie, _ := store.New(r, "__Host-session") // whatever there was before
	cookie.Values = map[any]any{"id": rand.Text(), "user": user, "started": time.Now().Unix(), "saved": time.Now().Unix()}
	return cookie.Save(r, w)
}

func gorillaSignOut(store *sessions.CookieStore, issuer *tickets.Issuer, w http.ResponseWriter, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	cookie, _ := store.New(r, "__Host-session")
	cookie.Options.MaxAge = -1
	return errors.Join(cookie.Save(r, w), issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"}))
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
	store := sessions.NewCookieStore([]byte(rand.Text() + rand.Text())[:32], []byte(rand.Text() + rand.Text())[:32])
	store.Options.HttpOnly, store.Options.SameSite = true, http.SameSiteLaxMode
	store.MaxAge(int(gorillaLife.Seconds()))
	return store
}

func gorillaNeighbour(issuer *tickets.Issuer) neighbour {
	store := newGorillaStore()
	return neighbour{
		sessions: gorillaSessions(store, issuer, -time.Second),
		signIn: func(w http.ResponseWriter, r *http.Request, user string) error {
			return gorillaSignIn(store, w, r, user)
		},
		signOut: func(w http.ResponseWriter, r *http.Request) error { return gorillaSignOut(store, issuer, w, r) },
		cookie:  "__Host-session",
		old:     true,
	}
}

// A cookie that was copied before the sign-out is dead for as long as it would
// have lived; no renewal makes a session longer than it may be.
func TestGorillaSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), &tickets.IssuerOptions{RememberRevocations: gorillaLife})
		require.NoError(t, err)
		store := newGorillaStore()
		sessions := gorillaSessions(store, issuer, time.Minute)
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
