package middleware_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// A session backend that answers nothing must not keep the request of a client
// that has gone.
func TestRestoreAtAdmissionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quit := make(chan struct{})
		app := newSocketApp(t, nil, socketAppOptions{sockets: middleware.SocketsOptions{
			Restore: func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-quit:
					return nil, nil
				}
			}}})
		r := httptest.NewRequest("GET", app.ticketFor(t, annsGrant()), nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var rej atomic.Pointer[middleware.Rejection]
		go func() { _, x := app.guard.Admit(r.WithContext(ctx)); rej.Store(x) }()
		time.Sleep(time.Hour)
		got := rej.Load()
		close(quit)
		synctest.Wait()
		require.NotNil(t, got, "still in Restore an hour after the client has gone")
	})
}

// Restore is asked about the end that stands now, and returning what it was
// given changes nothing.
func TestRecheckKeepsWhatExtendMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{Restore: (&restores{}).restore, // returns s, nil: it stands
				RecheckEvery: 10 * time.Minute}})
		g := annsGrant()
		begin := time.Now()
		g.SessionExpiresAt = begin.Add(time.Hour)
		p := app.live(t, g)
		require.Equal(t, 1, app.sockets.Extend(g.SessionID, begin.Add(5*time.Hour)))
		require.Equal(t, 5*time.Hour, lifetime(t, p).Round(time.Second))
	})
}

// A socket that is ended while Restore is asked about it says nothing about its
// session.
func TestHangingRestoreEndsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := &restores{}
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{Restore: rs.restore}})
		begin := time.Now()
		for i := range 16 { // they keep the 16 workers from 0:59 to 1:04
			g := annsGrant()
			g.SessionID += strings.Repeat("x", i+1)
			g.SessionExpiresAt = begin.Add(59 * time.Second)
			app.live(t, g)
		}
		g := annsGrant()
		g.SessionExpiresAt = begin.Add(time.Minute)
		app.live(t, g) // asked about from 1:04, ended at 1:06
		g.SessionExpiresAt = begin.Add(time.Hour)
		p := app.live(t, g) // the same session, known to live for an hour
		rs.set(func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		require.Equal(t, time.Hour, lifetime(t, p).Round(time.Minute))
	})
}

// It crashed the process, in a goroutine of ours.
func TestHijackAfterRelease(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	hijacked := make(chan error, 1)
	app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, rej := app.guard.Admit(r)
		if rej != nil {
			rej.ServeHTTP(w, r)
			return
		}
		w = a.ResponseWriter(w)
		a.Release()
		_, _, err := http.NewResponseController(w).Hijack()
		hijacked <- err
	}), true)
	app.begin(t, handshake(app.ticketFor(t, annsGrant())))
	require.ErrorIs(t, <-hijacked, net.ErrClosed)
}

// A Restore that only fills in Value does not make a session immortal.
func TestRestoreWithoutAnEndKeepsTheTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{
			Restore: func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
				return &middleware.Session{ID: s.ID, Provider: s.Provider, UserID: s.UserID, Value: 1}, nil
			}}})
		g := annsGrant()
		g.SessionExpiresAt = time.Now().Add(time.Hour)
		app.live(t, g)
		time.Sleep(100 * time.Hour)
		require.Zero(t, app.sockets.Len(), "the ticket said that the session ends in an hour")
	})
}

// A Restore that ignores its context counts until it returns.
func TestRestoresThatHangAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		quit := make(chan struct{})
		rs := &restores{}
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{Restore: rs.restore,
				RecheckEvery: time.Second}})
		for range 4 {
			g := annsGrant()
			g.SessionID += strings.Repeat("x", int(running.Add(1)))
			app.live(t, g)
		}
		running.Store(0)
		rs.set(func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			running.Add(1)
			<-quit // a driver that does not look at its context
			running.Add(-1)
			return s, nil
		})
		time.Sleep(10 * time.Minute)
		n := running.Load()
		close(quit)
		synctest.Wait()
		require.LessOrEqual(t, n, int64(16))
	})
}

// What was ended before Shutdown has run out of time too when Shutdown has.
func TestShutdownCutsWhatIsEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{CloseGrace: time.Minute}})
		p := app.live(t, annsGrant()) // reads nothing from here on
		require.Equal(t, 1, app.sockets.CloseSession(annsGrant().SessionID, ""))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, app.sockets.Shutdown(ctx))
		begin := time.Now()
		_ = p.SetReadDeadline(time.Now().Add(time.Hour))
		require.NoError(t, app.sockets.Shutdown(context.Background()))
		require.Less(t, time.Since(begin), time.Second)
	})
}

// The socket that goes for its session makes room for its person too.
func TestEvictionCountsASocketOnce(t *testing.T) {
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

func TestGuardRefusesZeroSockets(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{})
	_, err := middleware.NewGuard(app.issuer, &middleware.GuardOptions{Sockets: &middleware.Sockets{}})
	require.ErrorContains(t, err, "NewSockets")
}
