package middleware_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A revocation that races an admission: whichever comes first, no socket stays.
// The time between the two is led to where now one comes first, now the other.
func TestRevokeRacesAdmission(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	const enough = 50
	var delay time.Duration
	refused, closed := 0, 0
	for end := time.Now().Add(patience); refused < enough || closed < enough; {
		require.True(t, time.Now().Before(end), "%d were refused, %d closed: never enough of both", refused, closed)
		g := annsGrant()
		g.SessionID += strings.Repeat("x", refused+closed)
		request := handshake(app.ticketFor(t, g))
		conn, err := app.dial()
		require.NoError(t, err)
		p := &page{Conn: conn, br: bufio.NewReader(conn)}
		_, err = io.WriteString(p, request)
		require.NoError(t, err)
		for begun := time.Now(); time.Since(begun) < delay; {
		}
		require.NoError(t, app.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: g.SessionID}))
		res, err := http.ReadResponse(p.br, nil)
		require.NoError(t, err)
		if res.StatusCode == http.StatusSwitchingProtocols {
			requireClosed(t, p, 4401, "session_revoked")
			closed++
			delay -= delay/8 + time.Microsecond
		} else {
			require.Equal(t, http.StatusUnauthorized, res.StatusCode)
			refused++
			delay += delay/8 + 10*time.Microsecond
		}
		p.Close()
	}
	require.Zero(t, app.sockets.Len())
	eventually(t, "the last line", func() bool {
		return len(app.audit.Events(t, audit.SocketClosed)) == len(app.audit.Events(t, audit.SocketOpened))
	})
}

// A person is revoked in the midst of many admissions, each at another step.
// Who looks on meanwhile makes all of them wait at the step that counts: taking
// a place, and asking whether the session was revoked.
func TestRevokeMidstAdmissions(t *testing.T) {
	const rounds, clients, each = 40, 8, 12
	app := newSocketApp(t, nil, socketAppOptions{})
	admit := func(target string) (*middleware.Admission, *middleware.Rejection) {
		return app.guard.Admit(readRequest(handshake(target)))
	}
	for i := range 300 { // people to look at
		g := annsGrant()
		g.UserID = "other-" + strconv.Itoa(i)
		a, rej := admit(app.ticketFor(t, g))
		require.Nil(t, rej)
		defer a.Release()
	}
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				app.sockets.Users()
			}
		}
	})
	defer looking.Wait()
	defer close(stop)

	for round := range rounds {
		g := annsGrant()
		g.UserID = "ann-" + strconv.Itoa(round)
		var targets [clients][each]string
		for c := range targets {
			for i := range targets[c] {
				targets[c][i] = app.ticketFor(t, g)
			}
		}
		var in [clients][]*middleware.Admission
		start := make(chan struct{})
		var admitting sync.WaitGroup
		for c := range clients {
			admitting.Go(func() {
				<-start
				for i, target := range targets[c] {
					if c == 0 && i == each/2 { // so there are some on either side
						assert.NoError(t, app.issuer.Revoke(context.Background(), tickets.Revocation{Provider: g.Provider, UserID: g.UserID}))
					}
					a, rej := admit(target)
					if rej != nil {
						assert.Equal(t, "revoked", rej.Reason)
						continue
					}
					in[c] = append(in[c], a)
				}
			})
		}
		close(start)
		admitting.Wait()
		require.Len(t, in[0], each/2, "those before it, and none after")
		for _, as := range in {
			for _, a := range as {
				require.ErrorIs(t, context.Cause(a.Request.Context()), tickets.ErrRevoked, "it stays")
				a.Release()
			}
		}
	}
}

// Between the ticket and the place: Restore happens to run just then.
func TestRevokeAfterConsume(t *testing.T) {
	var app *socketApp
	app = newSocketApp(t, &echoes{}, socketAppOptions{tcp: true, sockets: middleware.SocketsOptions{
		Restore: func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			return s, app.issuer.Revoke(ctx, tickets.Revocation{SessionID: s.ID})
		},
	}})
	require.Equal(t, http.StatusUnauthorized, app.open(t, annsGrant()).status)
	require.Zero(t, app.sockets.Len())
	require.NoError(t, app.sockets.Shutdown(t.Context()), "nothing is left of it")
	require.Equal(t, "revoked", app.audit.Events(t, audit.TicketRejected)[0]["reason"])
	require.Len(t, app.audit.Lines(t), 2, "that, and the revocation")
}
