package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	return admitting(app.guard, func(a *middleware.Admission, w http.ResponseWriter) {
		defer a.Release()
		defer a.Release() // idempotent
		s, ok := middleware.SessionFrom(a.Request.Context())
		assert.True(t, ok)
		assert.Equal(t, a.Session, s)
		w = a.ResponseWriter(w)
		switch {
		case a.Request.URL.Path == "/refuse":
			http.Error(w, "no", http.StatusTeapot)
		case a.Request.Header.Get("Upgrade") == "":
			w.WriteHeader(http.StatusOK)
			assert.NoError(t, http.NewResponseController(w).Flush())
			<-a.Request.Context().Done()
			streams <- context.Cause(a.Request.Context())
		default:
			h.ServeHTTP(w, a.Request)
		}
	})
}

func TestAdmit_WithoutWrapWorksAsWrap(t *testing.T) {
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

// HOSTILE W33: places, Len and Shutdown stay exact, whatever a handler does.

// requireExact fails unless no socket is counted any more and Shutdown waits for none.
func requireExact(t *testing.T, app *socketApp) {
	t.Helper()
	eventually(t, "a free place", func() bool { return app.sockets.Len() == 0 })
	require.Empty(t, app.sockets.Users())
	for info := range app.sockets.All() {
		require.Fail(t, "a socket is left", "%+v", info)
	}
	require.NoError(t, app.sockets.Shutdown(t.Context()))
}

// A panic after the upgrade closes the connection with 1011.
func TestWrap_PanicAfterHijackCloses1011(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value any
	}{{"error", errors.New("a bug")}, {"abort", http.ErrAbortHandler}, {"nil", nil}} {
		t.Run(tt.name, func(t *testing.T) {
			app := newSocketApp(t, nil, socketAppOptions{
				sockets: middleware.SocketsOptions{MaxPerSession: 1, Max: 1}})
			passed := make(chan any, 1)
			guarded := app.guard.Wrap(byHand(t, func(c net.Conn, _ *http.Request) {
				_, _ = c.Write(wire(1, "hello"))
				panic(tt.value)
			}))
			app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					v := recover()
					passed <- v
					panic(v)
				}()
				guarded.ServeHTTP(w, r)
			}), true)
			const times = 10
			for range times {
				p := app.live(t, annsGrant())
				requireClosed(t, p, 1011, "panic")
				if tt.value != nil {
					require.Equal(t, tt.value, <-passed, "a panic passes through")
				} else {
					require.Error(t, (<-passed).(error), "a panic passes through")
				}
				eventually(t, "the free place", func() bool { return app.sockets.Len() == 0 })
			}
			requireExact(t, app)
			lines := app.audit.Events(t, audit.SocketClosed)
			require.Len(t, lines, times)
			require.Equal(t, "panic", lines[0]["reason"])
			require.EqualValues(t, 1011, lines[0]["close_code"])
		})
	}
}

// The context of a handler that panics has the cause.
func TestWrap_PanicEndsContext(t *testing.T) {
	out := make(chan held, 1)
	h := holder(t, out)
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		panic(http.ErrAbortHandler)
	}), socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	requireClosed(t, p, 1011, "panic")
	requireCause(t, <-out, 1011, "panic")
}

func requireCause(t *testing.T, h held, code int, reason string) {
	t.Helper()
	<-h.ctx.Done()
	_, err := h.conn.Read(make([]byte, 1))
	var closed *middleware.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, code, closed.Code)
	require.Equal(t, reason, closed.Reason)
}

// A panic before the upgrade frees the place.
func TestWrap_PanicBeforeHijackFreesPlace(t *testing.T) {
	app := newSocketApp(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}), socketAppOptions{tcp: true, sockets: middleware.SocketsOptions{Max: 1}})
	for range 3 {
		before := len(app.audit.Events(t, audit.UpgradeRefused))
		c := app.begin(t, handshake(app.ticketFor(t, annsGrant())))
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		app.await(t, audit.UpgradeRefused, before+1)
	}
	requireExact(t, app)
	require.Empty(t, app.audit.Events(t, audit.SocketOpened))
}

// A panic after the handler's own close keeps that close.
func TestWrap_PanicAfterCloseKeepsItsEnd(t *testing.T) {
	app := newSocketApp(t, byHand(t, func(c net.Conn, _ *http.Request) {
		_, _ = c.Write(wire(8, "\x03\xe8bye"))
		assert.NoError(t, c.Close())
		panic(http.ErrAbortHandler)
	}), socketAppOptions{tcp: true})
	p := app.open(t, annsGrant())
	f, err := readWireFrame(p.br)
	require.NoError(t, err)
	requireCloseFrame(t, []wireFrame{f}, 1000, "bye")
	requireExact(t, app)
	lines := app.audit.Events(t, audit.SocketClosed)
	require.Len(t, lines, 1)
	require.EqualValues(t, 1000, lines[0]["close_code"])
}

// A handler that returns without closing keeps its socket.
func TestWrap_ReturnKeepsSocket(t *testing.T) {
	out := make(chan held, 1)
	app := newSocketApp(t, holder(t, out), socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	h := <-out
	write(t, h.conn, string(wire(1, "still here")))
	requireFrame(t, p, wireFrame{1, "still here"})
	require.Equal(t, 1, app.sockets.Len())
	require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", ""))
	requireClosed(t, p, 4401, "session_revoked")
	requireExact(t, app)
}

// admission is one admitted request that a test drives.
type admission struct {
	t   *testing.T
	app *socketApp
	a   *middleware.Admission
	w   http.ResponseWriter
}

// hijack takes the connection and reports whether it could.
func (a *admission) hijack() bool {
	conn, _, err := http.NewResponseController(a.a.ResponseWriter(a.w)).Hijack()
	if err != nil {
		return false
	}
	// The handler's own end: what was closed from outside already stays as it is.
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	go func() {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}()
	return true
}

func (a *admission) release() { a.a.Release() }

func (a *admission) revoke() {
	r := allOfAnn
	assert.NoError(a.t, a.app.issuer.Revoke(a.t.Context(), r))
}

// Every order of the calls that change a socket leaves the counts as they were.
// The step r is Release, h is Hijack, v is a revocation.
func TestAdmission_CountsInAnyOrder(t *testing.T) {
	var orders []string
	for _, a := range "rhv" {
		for _, b := range "rhv" {
			for _, c := range "rhv" {
				for _, d := range "rhv" {
					orders = append(orders, string([]rune{a, b, c, d}))
				}
			}
		}
	}
	for _, order := range orders {
		t.Run(order, func(t *testing.T) {
			app := newSocketApp(t, nil, socketAppOptions{})
			hijacks := make(chan []bool, 1)
			app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var taken []bool
				defer func() { hijacks <- taken }()
				admitted, rej := app.guard.Admit(r)
				if !assert.Nil(t, rej) {
					return
				}
				a := &admission{t, app, admitted, w}
				for _, step := range order {
					switch step {
					case 'r':
						a.release()
					case 'h':
						taken = append(taken, a.hijack())
					case 'v':
						a.revoke()
					}
				}
				a.release() // what a deferred call does
			}), true)
			c := app.begin(t, handshake(app.ticketFor(t, annsGrant())))
			taken := <-hijacks
			requireOneHijack(t, order, taken)
			c.Close()
			requireExact(t, app)
			ended := len(app.audit.Events(t, audit.SocketClosed)) +
				len(app.audit.Events(t, audit.UpgradeRefused))
			require.Equal(t, 1, ended, "one admission has one last line")
		})
	}
}

// requireOneHijack fails unless the first Hijack has succeeded, where it came
// before a Release, and no other.
func requireOneHijack(t *testing.T, order string, taken []bool) {
	t.Helper()
	released, n := false, 0
	for _, step := range order {
		switch step {
		case 'r':
			released = true
		case 'h':
			want := !released && n == 0
			require.Equal(t, want, taken[n], "Hijack %d of %v", n+1, fmt.Sprint(taken))
			n++
		}
	}
}

// Two connections cannot be one socket: each Hijack of a ResponseWriter that an
// application made itself would succeed.
func TestAdmission_SecondConnectionIsRefused(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	first, second := make(chan net.Conn, 1), make(chan error, 1)
	var admitted *middleware.Admission
	app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if admitted == nil {
			a, rej := app.guard.Admit(r)
			assert.Nil(t, rej)
			admitted = a
			conn, _, err := upgradeByHand(a.ResponseWriter(w), 1000)
			assert.NoError(t, err)
			first <- conn
			return
		}
		_, _, err := http.NewResponseController(admitted.ResponseWriter(w)).Hijack()
		second <- err
	}), true)
	p := app.live(t, annsGrant())
	conn := <-first
	other := app.begin(t, get("/other"))
	require.Error(t, <-second)
	_, _ = io.Copy(io.Discard, other) // the server has closed it
	write(t, conn, string(wire(1, "mine")))
	requireFrame(t, p, wireFrame{1, "mine"})
	require.Equal(t, 1, app.sockets.Len())
	require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", ""))
	requireClosed(t, p, 4401, "session_revoked")
	admitted.Release()
	requireExact(t, app)
}

// Admit with a deferred Release does as Wrap does.
func TestAdmission_PanicWithDeferredReleaseCloses1011(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{sockets: middleware.SocketsOptions{Max: 1}})
	app.serve(t, admitting(app.guard, func(a *middleware.Admission, w http.ResponseWriter) {
		defer a.Release()
		_, _, err := upgradeByHand(a.ResponseWriter(w), 1000)
		assert.NoError(t, err)
		panic(http.ErrAbortHandler)
	}), true)
	for range 3 {
		p := app.live(t, annsGrant())
		requireClosed(t, p, 1011, "panic")
		eventually(t, "the free place", func() bool { return app.sockets.Len() == 0 })
	}
	requireExact(t, app)
}

// A Hijack after Release once crashed the process.
func TestAdmission_HijackAfterReleaseFails(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	hijacked := make(chan error, 1)
	app.serve(t, admitting(app.guard, func(a *middleware.Admission, w http.ResponseWriter) {
		w = a.ResponseWriter(w)
		a.Release()
		_, _, err := http.NewResponseController(w).Hijack()
		hijacked <- err
	}), true)
	app.begin(t, handshake(app.ticketFor(t, annsGrant())))
	require.ErrorIs(t, <-hijacked, net.ErrClosed)
}
