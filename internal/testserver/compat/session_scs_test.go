package compat

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// scsSessions says who has signed in with alexedwards/scs. LoadAndSave is around the gate. The ID
// is one that sign-in puts into the session: scs's token is the cookie, and RenewToken replaces it.
func scsSessions(manager *scs.SessionManager) middleware.Authenticator {
	return middleware.AuthenticatorFunc(func(
		_ http.ResponseWriter, r *http.Request,
	) (*middleware.Session, error) {
		ctx := r.Context()
		c, err := r.Cookie(manager.Cookie.Name)
		if err == nil && c.Value != "" && manager.Token(ctx) == "" {
			return nil, middleware.ErrSessionExpired // scs knows no such cookie
		}
		id := manager.GetString(ctx, "id")
		if id == "" {
			return nil, middleware.ErrNoSession
		}
		return &middleware.Session{
			ID: id, Provider: "scs", UserID: manager.GetString(ctx, "user"),
			StartedAt: time.Unix(manager.GetInt64(ctx, "started"), 0),
			ExpiresAt: manager.Deadline(ctx),
		}, nil
	})
}

// scsSignIn is called once it is known who it is, and scsSignOut behind the gate.
func scsSignIn(manager *scs.SessionManager, r *http.Request, user string) error {
	err := manager.RenewToken(r.Context()) // against session fixation
	manager.Put(r.Context(), "id", rand.Text())
	manager.Put(r.Context(), "user", user)
	manager.Put(r.Context(), "started", time.Now().Unix())
	return err
}

func scsSignOut(manager *scs.SessionManager, issuer *tickets.Issuer, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	// First the session, then its tickets and sockets.
	return errors.Join(manager.Destroy(r.Context()),
		issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"}))
}

// scsRenewing is scsSessions with another cookie now and then. The session keeps its ID and its
// end.
func scsRenewing(manager *scs.SessionManager, after time.Duration) middleware.Authenticator {
	sessions := scsSessions(manager)
	return middleware.AuthenticatorFunc(func(
		w http.ResponseWriter, r *http.Request,
	) (*middleware.Session, error) {
		s, err := sessions.Authenticate(w, r)
		renewed := time.Unix(manager.GetInt64(r.Context(), "renewed"), 0)
		// The old cookie is not valid any more: do not replace it while a page sends several
		// requests.
		navigates := r.Header.Get("Sec-Fetch-Mode") == "navigate"
		if err != nil || !navigates || time.Since(renewed) <= after {
			return s, err
		}
		if err := manager.RenewToken(r.Context()); err != nil {
			return nil, err
		}
		manager.SetDeadline(r.Context(), s.ExpiresAt) // RenewToken begins a whole Lifetime
		manager.Put(r.Context(), "renewed", time.Now().Unix())
		return s, nil
	})
}

func Example_scs() {
	stay(scsNeighbour)
	// Output:
	// 401
	// ann greets bob
	// hello ann
	// websocket: close 4401: session_revoked
}

func scsNeighbour(issuer *tickets.Issuer) neighbour {
	manager := scs.New()
	store := &failingStore{Store: memstore.NewWithCleanupInterval(0)}
	manager.Store = store
	manager.Cookie.Name, manager.Cookie.Secure = "__Host-session", true
	manager.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, _ error) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return neighbour{
		around:   manager.LoadAndSave,
		sessions: scsRenewing(manager, 0),
		signIn: func(_ http.ResponseWriter, r *http.Request, user string) error {
			return scsSignIn(manager, r, user)
		},
		signOut: func(_ http.ResponseWriter, r *http.Request) error {
			return scsSignOut(manager, issuer, r)
		},
		cookie: "__Host-session",
		fail:   func() { store.down = true },
	}
}

type failingStore struct {
	scs.Store
	down bool // set while nothing is asked
}

func (s *failingStore) Find(token string) ([]byte, bool, error) {
	if s.down {
		return nil, false, errors.New("connection refused")
	}
	return s.Store.Find(token)
}

// A visitor for whom the application keeps something, and who has not signed in,
// presents no credential; renewing moves no session's end.
func TestSCS(t *testing.T) {
	manager := scs.New()
	manager.Store = memstore.NewWithCleanupInterval(0)
	sessions := scsRenewing(manager, time.Hour)
	ctx := must(manager.Load(context.Background(), ""))
	manager.Put(ctx, "basket", "a book")
	token, _, err := manager.Commit(ctx)
	require.NoError(t, err)

	request := func(value string) *http.Request {
		ctx := must(manager.Load(context.Background(), value))
		r := must(http.NewRequestWithContext(ctx, "GET", "/", nil))
		r.Header.Set("Cookie", "session="+value)
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		return r
	}
	_, err = sessions.Authenticate(nil, request(token))
	require.ErrorIs(t, err, middleware.ErrNoSession)
	_, err = sessions.Authenticate(nil, request("guessed"))
	require.ErrorIs(t, err, middleware.ErrSessionExpired)

	r := request(token)
	require.NoError(t, scsSignIn(manager, r, "ann"))
	end := time.Now().Add(time.Minute)
	manager.SetDeadline(r.Context(), end)
	manager.Put(r.Context(), "renewed", time.Now().Add(-2*time.Hour).Unix())
	before := manager.Token(r.Context())
	for range 2 { // an inner gate asks again
		s, err := sessions.Authenticate(nil, r)
		require.NoError(t, err)
		require.True(t, end.Equal(s.ExpiresAt))
	}
	require.NotEqual(t, before, manager.Token(r.Context()))
	require.True(t, end.Equal(manager.Deadline(r.Context())))
}
