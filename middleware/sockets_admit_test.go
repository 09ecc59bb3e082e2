package middleware_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// framework calls Admit, ResponseWriter and Release itself, as an application
// with a router of its own does. Upgrades go to h, and what is no upgrade is a
// stream that lives until its context ends; /refuse takes no connection.
func framework(t *testing.T, app *socketApp, h http.Handler, streams chan<- error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, rej := app.guard.Admit(r)
		if rej != nil {
			rej.ServeHTTP(w, r)
			return
		}
		defer a.Release()
		defer a.Release() // idempotent
		s, ok := middleware.SessionFrom(a.Request.Context())
		assert.True(t, ok)
		assert.Equal(t, a.Session, s)
		w = a.ResponseWriter(w)
		switch {
		case r.URL.Path == "/refuse":
			http.Error(w, "no", http.StatusTeapot)
		case r.Header.Get("Upgrade") == "":
			w.WriteHeader(http.StatusOK)
			assert.NoError(t, http.NewResponseController(w).Flush())
			<-a.Request.Context().Done()
			streams <- context.Cause(a.Request.Context())
		default:
			h.ServeHTTP(w, a.Request)
		}
	})
}

func TestAdmitWithoutWrap(t *testing.T) {
	h, streams := &echoes{}, make(chan error, 1)
	app := newSocketApp(t, nil, socketAppOptions{
		guard:   middleware.GuardOptions{AdmitRequests: true},
		sockets: middleware.SocketsOptions{MaxPerSession: 1},
	})
	app.serve(t, framework(t, app, h, streams), true)
	ann, bob := annsGrant(), annsGrant()
	bob.SessionID, bob.UserID = "session-2", "bob"

	p := app.live(t, ann)
	require.Equal(t, 1, app.sockets.Len())
	require.Equal(t, http.StatusTooManyRequests, app.open(t, ann).status)
	require.Equal(t, "too_many", app.audit.Events(t, audit.UpgradeRefused)[0]["reason"])
	require.NoError(t, app.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: ann.SessionID}))
	requireClosed(t, p, 4401, "session_revoked")
	require.ErrorIs(t, h.ended(t, 1)[0], tickets.ErrRevoked)
	require.Equal(t, http.StatusUnauthorized, app.send(t, handshake("/ws?ticket=x")).status)

	// Admitted, but the handler never took the connection: the place is free again.
	refused := strings.Replace(handshake(app.ticketFor(t, bob)), "/ws?", "/refuse?", 1)
	require.Equal(t, http.StatusTeapot, app.send(t, refused).status)
	app.await(t, audit.UpgradeRefused, 2)
	require.Equal(t, "upgrade_failed", app.audit.Events(t, audit.UpgradeRefused)[1]["reason"])

	// A stream has the place until its session is revoked.
	require.Equal(t, http.StatusOK, app.send(t, get(app.ticketFor(t, bob))).status)
	require.True(t, onlySocket(t, app.sockets).Stream)
	require.Equal(t, http.StatusTooManyRequests, app.open(t, bob).status)
	require.NoError(t, app.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: bob.SessionID}))
	eventually(t, "the end of the stream", func() bool { return len(streams) == 1 })
	require.ErrorIs(t, <-streams, tickets.ErrRevoked)
	require.Zero(t, app.sockets.Len())

	carol := annsGrant()
	carol.SessionID, carol.UserID = "session-3", "carol"
	p = app.live(t, carol)
	gone := make(chan error, 1)
	go func() { gone <- app.sockets.Shutdown(context.Background()) }()
	requireClosed(t, p, 1001, "going_away")
	require.NoError(t, <-gone)
	require.Equal(t, http.StatusServiceUnavailable, app.open(t, carol).status)
	var reasons []any
	for _, line := range app.audit.Events(t, audit.SocketClosed) {
		reasons = append(reasons, line["reason"])
	}
	require.Equal(t, []any{"session_revoked", "session_revoked", "going_away"}, reasons)
	require.Len(t, app.audit.Events(t, audit.SocketOpened), 3)
}
