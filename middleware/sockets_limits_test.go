package middleware_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestNewSockets_RefusesNegativeOptions(t *testing.T) {
	issuer := newSocketApp(t, nil, socketAppOptions{}).issuer
	_, err := middleware.NewSockets(issuer, &middleware.SocketsOptions{
		Max: -1, MaxPerUser: -2, MaxPerSession: -3, CloseGrace: -time.Second,
		RecheckEvery: -time.Minute,
	})
	for _, want := range []string{
		"Max is -1", "MaxPerUser is -2", "MaxPerSession is -3", "CloseGrace is -1s",
		"RecheckEvery is -1m0s",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = middleware.NewSockets(issuer, nil)
	require.NoError(t, err)
}

var annAsUser = middleware.User{Provider: "oidc", UserID: "ann"}

func TestLimits_RefuseOrEvict(t *testing.T) {
	same, otherSession, otherUser, nobody := annsGrant(), annsGrant(), annsGrant(), annsGrant()
	otherSession.SessionID = "session-2"
	otherUser.SessionID, otherUser.UserID = "session-3", "bob"
	nobody.SessionID, nobody.UserID = "", ""
	type limits = middleware.SocketsOptions
	for _, tt := range []struct {
		name          string
		opts          limits
		first, second tickets.Grant
		want          string
	}{
		{"no limit", limits{}, same, same, "both"},
		{"all", limits{Max: 1}, same, otherUser, "refused"},
		{"all, never the oldest", limits{Max: 1, EvictOldest: true}, same, same, "refused"},
		{"user", limits{MaxPerUser: 1}, same, otherSession, "refused"},
		{"user, the oldest", limits{MaxPerUser: 1, EvictOldest: true}, same, otherSession,
			"evicted"},
		{"user, another's", limits{MaxPerUser: 1}, same, otherUser, "both"},
		{"user, nobody in particular", limits{MaxPerUser: 1, MaxPerSession: 1}, nobody, nobody,
			"both"},
		{"session", limits{MaxPerSession: 1}, same, same, "refused"},
		{"session, the oldest", limits{MaxPerSession: 1, EvictOldest: true}, same, same, "evicted"},
		{"session, another of the same user", limits{MaxPerSession: 1}, same, otherSession, "both"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &echoes{}
			app := newSocketApp(t, h, socketAppOptions{tcp: true, sockets: tt.opts})
			first := app.live(t, tt.first)
			second := app.open(t, tt.second)
			if tt.want == "refused" {
				require.Equal(t, http.StatusTooManyRequests, second.status)
				require.Equal(t, 1, app.sockets.Len())
				require.Equal(t, "too_many", app.audit.Events(t, audit.UpgradeRefused)[0]["reason"])
				// The place is free as soon as the page may come back.
				require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", ""))
				app.live(t, tt.second)
				return
			}
			require.Equal(t, http.StatusSwitchingProtocols, second.status)
			app.await(t, audit.SocketOpened, 2)
			if tt.want == "evicted" {
				requireClosed(t, first, 4429, "evicted")
				require.ErrorIs(t, h.ended(t, 1)[0], middleware.ErrEvicted)
				require.Equal(t, 1, app.sockets.Len())
			} else {
				require.Equal(t, 2, app.sockets.Len())
			}
		})
	}
}

// The oldest socket is evicted at the hijack of the newest: an upgrade that fails
// evicts none. Pending upgrades count too.
func TestEviction_IsAtTheHijack(t *testing.T) {
	var failing atomic.Bool
	held, proceed := make(chan struct{}), make(chan struct{})
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if failing.Load() {
			held <- struct{}{}
			<-proceed
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		(&echoes{}).ServeHTTP(w, r)
	}), socketAppOptions{tcp: true,
		sockets: middleware.SocketsOptions{MaxPerUser: 2, EvictOldest: true}})
	oldest := app.live(t, annsGrant())
	app.live(t, annsGrant())
	failing.Store(true)
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() { assert.Equal(t, http.StatusTeapot, app.open(t, annsGrant()).status) })
		<-held
	}
	require.Equal(t, http.StatusTooManyRequests, app.open(t, annsGrant()).status)
	close(proceed)
	asking.Wait()
	require.Equal(t, 2, app.sockets.Len())
	failing.Store(false)
	app.live(t, annsGrant())
	requireClosed(t, oldest, 4429, "evicted")
}

// A limit holds for concurrent upgrades.
func TestLimits_HoldForConcurrentUpgrades(t *testing.T) {
	for _, evict := range []bool{false, true} {
		app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true,
			sockets: middleware.SocketsOptions{MaxPerUser: 5, EvictOldest: evict}})
		var all sync.WaitGroup
		var in atomic.Int32
		for range 60 {
			all.Go(func() {
				if app.open(t, annsGrant()).status == http.StatusSwitchingProtocols {
					in.Add(1)
				}
			})
		}
		all.Wait()
		if !evict {
			require.EqualValues(t, 5, in.Load())
		}
		eventually(t, "the last hijack", func() bool {
			return len(app.audit.Events(t, audit.SocketOpened)) == int(in.Load())
		})
		eventually(t, "the last eviction", func() bool { return app.sockets.Len() == 5 })
		require.Equal(t, map[middleware.User]int{annAsUser: 5}, app.sockets.Users())
	}
}

func TestSocketInfo_HasFactsAndNoSecret(t *testing.T) {
	ip := func(*http.Request) string { return "203.0.113.9" }
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true,
		guard: middleware.GuardOptions{ClientIP: ip}})
	begin := time.Now()
	ends := begin.Add(time.Hour)
	ann, bob := annsGrant(), annsGrant()
	ann.SessionExpiresAt = ends
	bob.UserID, bob.SessionID = "bob", ""
	opts := &websocket.DialOptions{HTTPClient: app.client()}
	c, _, err := websocket.Dial(t.Context(), "http://x"+app.ticketFor(t, ann), opts)
	require.NoError(t, err)
	defer c.CloseNow()
	require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte("hello")))
	_, _, err = c.Read(t.Context())
	require.NoError(t, err)

	eventually(t, "the count", func() bool { // net/http wrote the 101
		return onlySocket(t, app.sockets).BytesOut == 2+5
	})
	info := onlySocket(t, app.sockets)
	require.Equal(t, "oidc", info.Provider)
	require.Equal(t, "ann", info.UserID)
	require.Equal(t, "/ws", info.Path)
	require.Equal(t, "203.0.113.9", info.IP)
	require.False(t, info.Stream)
	require.WithinRange(t, info.OpenedAt, begin, time.Now())
	require.True(t, ends.Equal(info.EndsAt))
	require.EqualValues(t, 2+4+5, info.BytesIn) // header, masking key, payload
	app.live(t, bob)
	bobAsUser := middleware.User{Provider: "oidc", UserID: "bob"}
	require.Equal(t, map[middleware.User]int{annAsUser: 1, bobAsUser: 1}, app.sockets.Users())
	n := 0
	for info := range app.sockets.All() { // oldest first
		if n++; n == 1 {
			require.Equal(t, "ann", info.UserID)
			require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", "")) // in the loop
		} else {
			require.Empty(t, info.Session, "it has no id")
			require.True(t, info.EndsAt.IsZero())
		}
	}
	require.Equal(t, 2, n)
	for range app.sockets.All() {
		break
	}
	require.Equal(t, 1, app.sockets.Len())
	requireNoSecret(t, "SocketInfo", fmt.Sprint(info))
}

// An end by the handler or the peer is recorded with its code.
func TestSocket_EndByHandlerIsRecorded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		act    func(c *websocket.Conn)
		reason string
		code   float64
	}{
		{"closed with a code", func(c *websocket.Conn) { _ = c.Close(3007, "done") },
			"closed", 3007},
		{"closed without a code", func(c *websocket.Conn) { _ = c.Close(1005, "") },
			"closed", 1005},
		{"dropped", func(c *websocket.Conn) { _ = c.CloseNow() }, "dropped", 1006},
	} {
		t.Run(tt.name, func(t *testing.T) {
			causes := make(chan error, 1)
			app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := websocket.Accept(w, r, nil)
				if assert.NoError(t, err) {
					tt.act(c)
					causes <- context.Cause(r.Context())
				}
			}), socketAppOptions{tcp: true})
			p := app.live(t, annsGrant())
			_, _ = p.frames()
			p.Close()
			var closed *middleware.CloseError
			require.ErrorAs(t, <-causes, &closed)
			require.Equal(t, tt.reason, closed.Reason)
			require.EqualValues(t, tt.code, closed.Code)
			line := app.await(t, audit.SocketClosed, 1)[0]
			require.Equal(t, tt.reason, line["reason"])
			require.Equal(t, tt.code, line["close_code"])
			require.Zero(t, app.sockets.Len())
		})
	}
}

// A handler that returns without closing, when the peer has gone, leaves nothing behind.
func TestSocket_HandlerThatForgetsToCloseLeavesNothing(t *testing.T) {
	app := newSocketApp(t, byHand(t, func(c net.Conn, _ *http.Request) {
		_, err := c.Read(make([]byte, 1))
		assert.Error(t, err)
	}), socketAppOptions{tcp: true})
	app.live(t, annsGrant()).Close()
	app.await(t, audit.SocketClosed, 1)
	require.Zero(t, app.sockets.Len())
}

// Admitted, but never a WebSocket: the ticket stays spent, and the place is free.
func TestUpgrade_FailedFreesPlaceAndSpendsTicket(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		status  int
	}{
		{"the handler answers", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no", http.StatusTeapot)
		}, 418},
		{"the handler panics after it has answered", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 418},
		{"the library answers on the connection that it has taken",
			func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if assert.NoError(t, err) {
					_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
					_ = c.Close()
				}
			}, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := newSocketApp(t, tt.handler, socketAppOptions{tcp: true})
			request := handshake(app.ticketFor(t, annsGrant()), "Origin: http://app.example")
			require.Equal(t, tt.status, app.send(t, request).status)
			eventually(t, "the line", func() bool { return app.audit.Text() != "" })
			failed := refusal{reason: "upgrade_failed", more: `,"origin":"http://app.example"`}
			require.Equal(t, auditLine(failed, nil), app.audit.Take())
			require.Zero(t, app.sockets.Len())
			require.Equal(t, http.StatusUnauthorized, app.send(t, request).status)
			require.NoError(t, app.sockets.Shutdown(t.Context()), "nothing is left of it")
		})
	}
}

func TestNewGuard_RefusesSocketsThatDoNotFit(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	other := newSocketApp(t, nil, socketAppOptions{})
	log, _ := newAudit()
	for name, tt := range map[string]struct {
		opts middleware.GuardOptions
		want string
	}{
		"of another issuer": {middleware.GuardOptions{Sockets: other.sockets}, "another issuer"},
		"a zero value": {middleware.GuardOptions{Sockets: &middleware.Sockets{}},
			"NewSockets"},
		"beside an Audit": {middleware.GuardOptions{Sockets: app.sockets, Audit: log},
			"another Audit"},
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

// A socket that is evicted for its session makes room for its user too.
func TestEviction_CountsASocketOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{MaxPerSession: 1, MaxPerUser: 2, EvictOldest: true},
		})
		a, b := annsGrant(), annsGrant()
		b.SessionID += "b"
		app.live(t, b)
		app.live(t, a)
		app.live(t, a) // evicts a's first, and there is room for b
		synctest.Wait()
		require.Equal(t, 2, app.sockets.Len())
	})
}
