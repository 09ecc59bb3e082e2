package middleware_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestNewGuard_RefusesSocketsThatDoNotFit(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	other := newSocketApp(t, nil, socketAppOptions{})
	log, _ := newAudit()
	for name, tt := range map[string]struct {
		opts middleware.GuardOptions
		want string
	}{
		"of another issuer": {middleware.GuardOptions{Sockets: other.sockets}, "another issuer"},
		"a zero value":      {middleware.GuardOptions{Sockets: &middleware.Sockets{}}, "NewSockets"},
		"beside an Audit":   {middleware.GuardOptions{Sockets: app.sockets, Audit: log}, "another Audit"},
	} {
		_, err := middleware.NewGuard(app.issuer, &tt.opts)
		require.ErrorContains(t, err, "NewGuard: ", name)
		require.ErrorContains(t, err, tt.want, name)
	}
}

func TestNewSockets_RefusesNoIssuer(t *testing.T) {
	_, err := middleware.NewSockets(nil, &middleware.SocketsOptions{Max: -1})
	require.ErrorContains(t, err, "issuer is nil")
	require.ErrorContains(t, err, "Max is -1", "all that is wrong, at once")
}

// What a guard refuses goes to the Sockets' audit too, unless it has its own.
func TestNewGuard_TakesTheAuditOfItsSockets(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	app.send(t, handshake("/ws?ticket=x"))
	require.Len(t, app.audit.Events(t, audit.TicketRejected), 1)
}

// After Shutdown nothing of a Sockets is left in its issuer.
func TestShutdown_StopsListeningToTheIssuer(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	require.NoError(t, app.sockets.Shutdown(t.Context()))
	require.NoError(t, app.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: "x"}))
	require.Empty(t, app.audit.Events(t, audit.Revoke))
}
