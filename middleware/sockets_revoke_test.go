package middleware_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestRevoke_ClosesSockets4401(t *testing.T) {
	ann1, ann2, bob := annsGrant(), annsGrant(), annsGrant()
	ann2.SessionID, bob.SessionID, bob.UserID = "session-2", "session-3", "bob"
	hash := auditID(ann1.SessionID)
	type line = map[string]any
	none := []bool{false, false, false}
	for _, tt := range []struct {
		name   string
		revoke tickets.Revocation
		ends   []bool // of ann's first, ann's second, bob's
		line   line
	}{
		{"session", tickets.Revocation{SessionID: ann1.SessionID, Reason: "logout"},
			[]bool{true, false, false},
			line{"event": "revoke", "session": hash, "reason": "logout", "sockets": 1.0}},
		{"user", tickets.Revocation{Provider: "oidc", UserID: "ann", Reason: "disabled"},
			[]bool{true, true, false},
			line{"event": "revoke", "provider": "oidc", "user_id": "ann", "reason": "disabled",
				"sockets": 2.0}},
		{"user of another provider", tickets.Revocation{Provider: "saml", UserID: "ann"}, none,
			line{"event": "revoke", "provider": "saml", "user_id": "ann", "reason": "",
				"sockets": 0.0}},
		{"session that nobody has", tickets.Revocation{SessionID: "none", Reason: "x"}, none, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &echoes{}
			app := newSocketApp(t, h, socketAppOptions{tcp: true})
			var pages []*page
			for _, g := range []tickets.Grant{ann1, ann2, bob} {
				pages = append(pages, app.live(t, g))
			}
			require.Equal(t, 3, app.sockets.Len())
			require.NoError(t, app.issuer.Revoke(t.Context(), tt.revoke))
			n := 0
			for i, ends := range tt.ends {
				if ends {
					n++
					requireClosed(t, pages[i], 4401, "session_revoked")
				}
			}
			require.Equal(t, 3-n, app.sockets.Len(), "in force before Revoke returns")
			for _, cause := range h.ended(t, n) {
				require.ErrorIs(t, cause, tickets.ErrRevoked)
				require.ErrorIs(t, cause, net.ErrClosed)
				var closed *middleware.CloseError
				require.ErrorAs(t, cause, &closed)
				require.Equal(t, 4401, closed.Code)
				require.Equal(t, "session_revoked", closed.Reason)
			}
			for _, line := range app.await(t, audit.SocketClosed, n) {
				require.Equal(t, "session_revoked", line["reason"])
				require.Equal(t, 4401.0, line["close_code"])
				require.GreaterOrEqual(t, line["seconds"], 0.0)
			}
			revokes := app.audit.Events(t, audit.Revoke)
			require.Len(t, revokes, 1)
			if tt.line != nil {
				require.Equal(t, tt.line, revokes[0])
			}
			requireNoSecret(t, "the audit", app.audit.Text())
		})
	}
}

// The lines of one socket are joined by its socket_id, and have what the wire
// contract lists, in its order.
func TestSocket_LinesShareItsID(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	info := onlySocket(t, app.sockets)
	app.sockets.CloseSession(annsGrant().SessionID, "")
	requireClosed(t, p, 4401, "session_revoked")
	eventually(t, "the last line",
		func() bool { return strings.Count(app.audit.Text(), "\n") == 2 })
	opened, closed, _ := strings.Cut(app.audit.Text(), "\n")
	facts := `,"provider":"oidc","user_id":"ann","ip":"127.0.0.1","path":"/ws"` +
		`,"ticket_id":"` + info.TicketID +
		`","socket_id":"` + info.ID + `","session":"` + info.Session + `"`
	require.Equal(t, `{"event":"ws_opened"`+facts+`}`, opened)
	require.Regexp(t, `^\{"event":"ws_closed"`+facts+
		`,"reason":"session_revoked","close_code":4401,"seconds":[0-9.]+\}\n$`, closed)
	require.Regexp(t, "^[0-9a-f]{12}$", info.TicketID)
	require.Equal(t, auditID(annsGrant().SessionID), info.Session)
}

// A revocation is one line for a Sockets, with the sockets of all its guards. Another
// Sockets writes its own.
func TestRevoke_IsOneLinePerSockets(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	for range 2 {
		must(middleware.NewGuard(app.issuer, &middleware.GuardOptions{Sockets: app.sockets}))
	}
	log, second := newAudit()
	own := must(middleware.NewGuard(app.issuer, &middleware.GuardOptions{Audit: log}))
	other := &socketApp{issuer: app.issuer, sockets: own.Sockets(), audit: second}
	other.serve(t, own.Wrap(&echoes{}), true)

	pages := []*page{app.live(t, annsGrant()), app.live(t, annsGrant()), other.live(t, annsGrant())}
	revokeAnn(t, app)
	for _, p := range pages {
		requireClosed(t, p, 4401, "session_revoked")
	}
	for rec, want := range map[*recorder]float64{app.audit: 2, second: 1} {
		lines := rec.Events(t, audit.Revoke)
		require.Len(t, lines, 1)
		require.Equal(t, want, lines[0]["sockets"])
	}
}

// A session that began after the revocation of its user stays.
func TestRevoke_OfAUserSparesLaterSessions(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	old, later := annsGrant(), annsGrant()
	old.StartedAt = time.Now().Add(-time.Hour)
	later.SessionID, later.StartedAt = "later", time.Now().Add(time.Hour)
	gone := app.live(t, old)
	app.live(t, later)
	require.NoError(t, app.issuer.Revoke(t.Context(), allOfAnn))
	requireClosed(t, gone, 4401, "session_revoked")
	require.Equal(t, 1, app.sockets.Len())
}

// A revocation between the admission and the hijack closes the socket behind the
// library's 101.
func TestRevoke_BeforeHijackClosesBehindThe101(t *testing.T) {
	for _, pieces := range []int{0, 1, 7, 1000} { // 0: net/http writes the 101
		admitted, proceed := make(chan struct{}), make(chan struct{})
		app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			admitted <- struct{}{}
			<-proceed
			assert.ErrorIs(t, context.Cause(r.Context()), tickets.ErrRevoked)
			if pieces == 0 {
				(&echoes{}).ServeHTTP(w, r)
				return
			}
			c, _, err := upgradeByHand(w, pieces)
			if assert.NoError(t, err) {
				_, err = c.Write(wire(1, "too late"))
				assert.ErrorIs(t, err, tickets.ErrRevoked)
				_ = c.Close()
			}
		}), socketAppOptions{tcp: true})
		go func() {
			<-admitted
			r := tickets.Revocation{SessionID: annsGrant().SessionID}
			assert.NoError(t, app.issuer.Revoke(context.Background(), r))
			close(proceed)
		}()
		p := app.live(t, annsGrant())
		all, err := p.frames()
		require.NoError(t, err)
		require.Len(t, all, 1)
		requireCloseFrame(t, all, 4401, "session_revoked")
		app.await(t, audit.SocketClosed, 1)
		require.Equal(t, 1.0, app.audit.Events(t, audit.Revoke)[0]["sockets"])
		require.Len(t, app.audit.Events(t, audit.SocketOpened), 1)
	}
}

// The close frame waits for the end of a frame that has begun, and nothing follows it.
func TestRevoke_InsideAFrameWaitsForItsEnd(t *testing.T) {
	for _, cut := range []int{1, 2, 3, 4, 5, 100, 70_000} {
		begun, revoked := make(chan struct{}), make(chan struct{})
		msg := wire(2, strings.Repeat("x", 70_000))
		app := newSocketApp(t, byHand(t, func(c net.Conn, _ *http.Request) {
			defer c.Close()
			_, _ = c.Write(msg[:cut])
			close(begun)
			<-revoked
			n, err := c.Write(append(msg[cut:len(msg):len(msg)], wire(1, "too late")...))
			assert.Equal(t, len(msg)-cut, n)
			assert.ErrorIs(t, err, net.ErrClosed)
			_, err = c.Write([]byte("x"))
			assert.ErrorIs(t, err, tickets.ErrRevoked)
			_, err = c.Read(make([]byte, 1))
			assert.ErrorIs(t, err, tickets.ErrRevoked)
		}), socketAppOptions{tcp: true})
		p := app.live(t, annsGrant())
		<-begun
		revokeAnn(t, app)
		close(revoked)
		all, err := p.frames()
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Len(t, all[0].payload, 70_000)
		requireCloseFrame(t, all, 4401, "session_revoked")
	}
}

// A peer that writes before it reads, as an upload does, is read until it reads its
// close frame.
func TestRevoke_WhilePeerWritesReachesIt(t *testing.T) {
	app := newSocketApp(t, byHand(t, func(c net.Conn, r *http.Request) {
		defer c.Close()
		<-r.Context().Done() // never reads
	}), socketAppOptions{tcp: true, sockets: middleware.SocketsOptions{CloseGrace: time.Hour}})
	p := app.live(t, annsGrant())
	require.NoError(t, p.SetDeadline(time.Now().Add(patience)))
	written := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 64<<20)) // more than any buffer holds
		written <- err
	}()
	revokeAnn(t, app)
	require.NoError(t, <-written)
	requireClosed(t, p, 4401, "session_revoked")
}

// A close frame of the handler stands: a second one would break RFC 6455 section 5.5.1.
func TestRevoke_KeepsTheHandlersCloseFrame(t *testing.T) {
	said := make(chan struct{})
	app := newSocketApp(t, byHand(t, func(c net.Conn, r *http.Request) {
		_, err := c.Write(wire(8, "\x0b\xbfdone"))
		assert.NoError(t, err)
		close(said)
		<-r.Context().Done()
	}), socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	<-said
	revokeAnn(t, app)
	requireClosed(t, p, 3007, "done")
	require.NoError(t, app.sockets.Shutdown(t.Context()))
	line := app.audit.Events(t, audit.SocketClosed)[0]
	require.Equal(t, "session_revoked", line["reason"])
	require.Equal(t, 3007.0, line["close_code"])
}

func TestCloseSessionAndCloseUser_SendTheReason(t *testing.T) {
	long := strings.Repeat("ü", 100)
	for _, tt := range []struct{ name, reason, want string }{
		{"a reason", "account_locked", "account_locked"},
		{"none", "", "session_revoked"},
		{"too long (RFC 6455 section 5.5), not cut inside a character", long, long[:122]},
		{"not UTF-8 (RFC 6455 section 5.5.1)", "a\xffb", "a\uFFFDb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &echoes{}
			app := newSocketApp(t, h, socketAppOptions{tcp: true})
			p, q := app.live(t, annsGrant()), app.live(t, annsGrant())
			require.Zero(t, app.sockets.CloseSession("nobody's", tt.reason))
			require.Zero(t, app.sockets.CloseSession("", tt.reason))
			require.Zero(t, app.sockets.CloseUser("oidc", "bob", tt.reason))
			require.Equal(t, 2, app.sockets.CloseSession(annsGrant().SessionID, tt.reason))
			require.Zero(t, app.sockets.CloseSession(annsGrant().SessionID, tt.reason),
				"they have ended")
			requireClosed(t, p, 4401, tt.want)
			requireClosed(t, q, 4401, tt.want)
			var closed *middleware.CloseError
			require.ErrorAs(t, h.ended(t, 2)[0], &closed)
			require.Equal(t, &middleware.CloseError{Code: 4401, Reason: tt.want}, closed)
			require.False(t, errors.Is(closed, tickets.ErrRevoked))
			require.Empty(t, app.audit.Events(t, audit.Revoke))

			p = app.live(t, annsGrant()) // nothing was revoked
			require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", tt.reason))
			requireClosed(t, p, 4401, tt.want)
		})
	}
}

// A revocation races an admission: no socket stays, whichever is first. The delay
// adapts so that each is first often enough.
func TestRevoke_RacingAnAdmissionLeavesNoSocket(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	const enough = 50
	var delay time.Duration
	refused, closed := 0, 0
	for end := time.Now().Add(patience); refused < enough || closed < enough; {
		require.True(t, time.Now().Before(end), "%d were refused, %d closed: never enough of both",
			refused, closed)
		g := annsGrant()
		g.SessionID += strings.Repeat("x", refused+closed)
		request := handshake(app.ticketFor(t, g))
		conn, err := app.dial()
		require.NoError(t, err)
		p := &page{Conn: conn, br: bufio.NewReader(conn)}
		write(t, p, request)
		for begun := time.Now(); time.Since(begun) < delay; {
		}
		require.NoError(t,
			app.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: g.SessionID}))
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
		opened := app.audit.Events(t, audit.SocketOpened)
		return len(app.audit.Events(t, audit.SocketClosed)) == len(opened)
	})
}

// A person is revoked during many admissions, each at another step. Concurrent calls of
// Users slow down the steps that count: taking a place, and the check of the revocations.
func TestRevoke_AmongAdmissionsSparesNone(t *testing.T) {
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
						r := tickets.Revocation{Provider: g.Provider, UserID: g.UserID}
						assert.NoError(t, app.issuer.Revoke(context.Background(), r))
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
				require.ErrorIs(t, context.Cause(a.Request.Context()), tickets.ErrRevoked,
					"it stays")
				a.Release()
			}
		}
	}
}

// A revocation between the ticket and the place, which is when Restore runs.
func TestRevoke_AfterConsumeIs401(t *testing.T) {
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

// twoNodes are two applications over one store.
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

// A revocation at one node closes the sockets at another.
func TestRevoke_ClosesSocketsOfAnotherNode(t *testing.T) {
	type line = map[string]any
	user := tickets.HashUser("oidc", "eve")
	for _, tt := range []struct {
		name   string
		revoke tickets.Revocation
		ends   bool
		line   line
	}{
		{"a session", tickets.Revocation{SessionID: annsGrant().SessionID, Reason: "logout"}, true,
			line{"event": "revoke", "session": auditID(annsGrant().SessionID), "reason": "logout",
				"sockets": 1.0}},
		{"a person", tickets.Revocation{Provider: "oidc", UserID: "ann", Reason: "disabled"}, true,
			line{"event": "revoke", "provider": "oidc", "user_id": "ann", "reason": "disabled",
				"sockets": 1.0}},
		{"a person without sockets here", tickets.Revocation{Provider: "oidc", UserID: "eve"},
			false, line{"event": "revoke", "user": fmt.Sprintf("%x", user[:6]), "reason": "",
				"sockets": 0.0}},
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
			require.Equal(t, []line{tt.line}, here.audit.Events(t, audit.Revoke),
				"one line, however often it is heard")
			require.Len(t, there.audit.Events(t, audit.Revoke), 1)
			require.Zero(t, there.audit.Events(t, audit.Revoke)[0]["sockets"])
		})
	}
}

// After a gap in the revocations, Restore decides about each session.
func TestRestore_IsAskedAfterAGapInRevocations(t *testing.T) {
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

func TestMaxStaleness_ClosesSockets1013(t *testing.T) {
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
func TestAdmit_NodeThatGoesStaleIs503(t *testing.T) {
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
