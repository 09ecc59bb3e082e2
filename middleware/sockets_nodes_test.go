package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// twoNodes are applications over one store, which have heard each other's beginning.
func twoNodes(
	t *testing.T, h http.Handler, o socketAppOptions,
) (server *sharedstore.Server, here, there *socketApp) {
	server = new(sharedstore.Server)
	o.store = server.Node()
	here = newSocketApp(t, h, o)
	there = newSocketApp(t, &echoes{}, socketAppOptions{store: server.Node()})
	time.Sleep(time.Second)
	return server, here, there
}

// Signed out at one server, the page sees its socket at another end.
func TestRevokeEndsSocketsOfAnotherNode(t *testing.T) {
	type line = map[string]any
	user := tickets.HashUser("oidc", "eve")
	for _, tt := range []struct {
		name   string
		revoke tickets.Revocation
		ends   bool
		line   line
	}{
		{"a session", tickets.Revocation{SessionID: annsGrant().SessionID, Reason: "logout"}, true,
			line{"event": "revoke", "session": auditID(annsGrant().SessionID), "reason": "logout", "sockets": 1.0}},
		{"a person", tickets.Revocation{Provider: "oidc", UserID: "ann", Reason: "disabled"}, true,
			line{"event": "revoke", "provider": "oidc", "user_id": "ann", "reason": "disabled", "sockets": 1.0}},
		{"a person without sockets here", tickets.Revocation{Provider: "oidc", UserID: "eve"}, false,
			line{"event": "revoke", "user": fmt.Sprintf("%x", user[:6]), "reason": "", "sockets": 0.0}},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			_, here, there := twoNodes(t, &echoes{}, socketAppOptions{})
			ticket := there.ticketFor(t, annsGrant())
			p := here.send(t, handshake(ticket))
			require.Equal(t, http.StatusSwitchingProtocols, p.status, "minted there, opened here")
			synctest.Wait()
			began := time.Now()
			require.NoError(t, there.issuer.Revoke(t.Context(), tt.revoke))
			if tt.ends {
				requireClosed(t, p, 4401, "session_revoked")
				require.Less(t, time.Since(began), 50*time.Millisecond)
			}
			time.Sleep(time.Minute)
			require.Equal(t, []line{tt.line}, here.audit.Events(t, audit.Revoke), "one line, however often it is heard")
			require.Len(t, there.audit.Events(t, audit.Revoke), 1)
			require.Zero(t, there.audit.Events(t, audit.Revoke)[0]["sockets"])
		})
	}
}

// After a gap somebody may have been revoked whom nobody remembers: the application is asked.
func TestGapAsksRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked restores
		o := socketAppOptions{sockets: middleware.SocketsOptions{Restore: asked.restore}}
		server, here, _ := twoNodes(t, &echoes{}, o)
		pages := map[string]*page{}
		for _, user := range []string{"alive", "dead", "undecided"} {
			pages[user] = here.live(t, tickets.Grant{SessionID: user, UserID: user})
		}
		synctest.Wait()
		asked.set(func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			switch s.UserID {
			case "dead":
				return nil, middleware.ErrNoSession
			case "undecided":
				return nil, errors.New("connection refused")
			}
			return s, nil
		})
		time.Sleep(time.Hour)
		require.Equal(t, 3, here.sockets.Len(), "nobody asks without a reason")
		server.Flush()
		requireClosed(t, pages["dead"], 4401, "session_expired")
		time.Sleep(time.Minute)
		require.Equal(t, 2, here.sockets.Len())
		lines := here.audit.Events(t, audit.SessionVerifyFailure)
		require.NotEmpty(t, lines)
		require.Less(t, len(lines), 8, "asked again, but each time later")
		require.Equal(t, "recheck", lines[0]["reason"])

		asked.set(says(middleware.ErrNoSession))
		requireClosed(t, pages["undecided"], 4401, "session_expired")
		time.Sleep(time.Hour)
		require.Equal(t, 1, here.sockets.Len(), "who was decided about is not asked about again")
	})
}

func TestMaxStalenessEndsSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &echoes{}
		server, here, _ := twoNodes(t, h, socketAppOptions{maxStaleness: 10 * time.Second})
		p := here.live(t, annsGrant())
		synctest.Wait()
		server.Fail(errors.New("connection refused"))
		began := time.Now()
		requireClosed(t, p, 1013, "unavailable")
		require.InDelta(t, 10, time.Since(began).Seconds(), 1.1)
		require.ErrorIs(t, h.ended(t, 1)[0], tickets.ErrStale)
		server.Fail(nil)
		time.Sleep(2 * time.Second) // until it is heard again
		require.Equal(t, http.StatusSwitchingProtocols, here.open(t, annsGrant()).status)
		line := here.audit.Events(t, audit.SocketClosed)[0]
		require.Equal(t, "unavailable", line["reason"])
		require.Equal(t, 1013.0, line["close_code"])
	})
}

// An admission during which the node becomes stale is refused: its sockets are closed already.
func TestGoesStaleDuringAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server *sharedstore.Server
		down := func() {}
		o := socketAppOptions{maxStaleness: 3 * time.Second, sockets: middleware.SocketsOptions{
			Restore: func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
				down()
				return s, nil
			},
		}}
		server, here, _ := twoNodes(t, &echoes{}, o)
		down = func() {
			server.Fail(errors.New("connection refused"))
			time.Sleep(4 * time.Second)
		}
		require.Equal(t, http.StatusServiceUnavailable, here.open(t, annsGrant()).status)
		require.Zero(t, here.sockets.Len())
		rejected := here.audit.Events(t, audit.TicketRejected)
		require.Len(t, rejected, 1)
		require.Equal(t, "store", rejected[0]["reason"])
	})
}
