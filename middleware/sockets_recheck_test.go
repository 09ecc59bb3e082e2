package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// lifetime waits until the page's socket ends with session_expired, and returns
// how long that was.
func lifetime(t *testing.T, p *page) time.Duration {
	t.Helper()
	begin := time.Now()
	requireClosed(t, p, 4401, "session_expired")
	return time.Since(begin)
}

func TestSocket_EndsWithItsSession(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name string
		act  func(app *socketApp, begin time.Time)
		want time.Duration
	}{
		{"at ExpiresAt", func(*socketApp, time.Time) {}, hour},
		{"extended", func(app *socketApp, begin time.Time) {
			require.Equal(t, 1, app.sockets.Extend(annsGrant().SessionID, begin.Add(2*hour)))
			require.Zero(t, app.sockets.Extend("another", begin.Add(9*hour)))
			require.Zero(t, app.sockets.Extend("", begin.Add(9*hour)))
		}, 2 * hour},
		{"not shortened by Extend", func(app *socketApp, begin time.Time) {
			require.Zero(t, app.sockets.Extend(annsGrant().SessionID, begin.Add(time.Minute)))
		}, hour},
		{"extended again and again", func(app *socketApp, begin time.Time) {
			go func() {
				for i := range 5 {
					time.Sleep(50 * time.Minute)
					app.sockets.Extend(annsGrant().SessionID, begin.Add(time.Duration(i+2)*hour))
				}
			}()
		}, 6 * hour},
		{"extended to no known end, then revoked", func(app *socketApp, begin time.Time) {
			require.Equal(t, 1, app.sockets.Extend(annsGrant().SessionID, time.Time{}))
			time.AfterFunc(time.Until(begin.Add(100*hour)), func() {
				app.sockets.CloseSession(annsGrant().SessionID, "session_expired")
			})
		}, 100 * hour},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			h := &echoes{}
			app := newSocketApp(t, h, socketAppOptions{})
			g := annsGrant()
			begin := time.Now()
			g.SessionExpiresAt = begin.Add(hour)
			p := app.live(t, g)
			skew := time.Since(begin)
			tt.act(app, begin)
			require.Equal(t, tt.want, lifetime(t, p)+skew)
			if cause := h.ended(t, 1)[0]; tt.want < 100*hour {
				require.ErrorIs(t, cause, middleware.ErrSessionExpired)
			}
			synctest.Wait()
			line := app.audit.Events(t, audit.SocketClosed)[0]
			require.Equal(t, "session_expired", line["reason"])
			require.InDelta(t, tt.want.Seconds(), line["seconds"], 0.01)
		})
	}
}

// Each socket has the end that was known at its admission. The session has one timer.
func TestSocket_OfOneSessionEndsAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{})
		begin := time.Now()
		var pages []*page
		for _, hours := range []time.Duration{3, 1, 0, 2} {
			g := annsGrant()
			if hours > 0 {
				g.SessionExpiresAt = begin.Add(hours * time.Hour)
			}
			pages = append(pages, app.live(t, g))
		}
		for _, i := range []int{1, 3, 0} {
			requireClosed(t, pages[i], 4401, "session_expired")
		}
		require.Equal(t, 3*time.Hour, time.Since(begin))
		require.Equal(t, 1, app.sockets.Len())
	})
}

func TestRestore_AtTheEndMayMoveIt(t *testing.T) {
	const hour = time.Hour
	asEver := func(answer restoreFunc) func(time.Time) restoreFunc {
		return func(time.Time) restoreFunc { return answer }
	}
	for _, tt := range []struct {
		name     string
		answer   func(begin time.Time) restoreFunc
		want     time.Duration
		failures int
	}{
		{"a later end", func(begin time.Time) restoreFunc {
			return func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
				if time.Since(begin) < 3*hour-time.Minute {
					return until(time.Now().Add(hour))(ctx, s) // slides
				}
				return s, nil
			}
		}, 3 * hour, 0},
		{"no known end is no later one", asEver(until(time.Time{})), hour, 0},
		{"gone", asEver(says(middleware.ErrNoSession)), hour, 0},
		{"undecided: the end that is known stands", asEver(says(errDown)), hour, 1},
		{"hangs", asEver(hangs), hour + 5*time.Second, 1},
		{"hangs, whatever its context says", func(time.Time) restoreFunc {
			return func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
				time.Sleep(3 * hour)
				return until(time.Now().Add(hour))(nil, s)
			}
		}, hour + 5*time.Second, 1},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			r := &restores{}
			app := newSocketApp(t, &echoes{},
				socketAppOptions{sockets: middleware.SocketsOptions{Restore: r.restore}})
			g := annsGrant()
			begin := time.Now()
			g.SessionExpiresAt = begin.Add(hour)
			p := app.live(t, g)
			q := app.live(t, g)
			skew := time.Since(begin)
			r.set(tt.answer(begin))
			require.Equal(t, tt.want, lifetime(t, p)+skew)
			requireClosed(t, q, 4401, "session_expired")
			synctest.Wait()
			require.Len(t, app.audit.Events(t, audit.SessionVerifyFailure), tt.failures)
			time.Sleep(3 * hour) // for a Restore that hangs
		})
	}
}

func TestRecheck_EndsSocketsOfGoneSessions(t *testing.T) {
	const every = time.Minute
	for _, tt := range []struct {
		name   string
		answer func(context.Context, *middleware.Session) (*middleware.Session, error)
		ends   bool
		fails  bool
	}{
		{"still there", nil, false, false},
		{"not there", says(fmt.Errorf("store: %w", middleware.ErrNoSession)), true, false},
		{"expired", says(middleware.ErrSessionExpired), true, false},
		{"nothing at all", says(nil), true, false},
		{"over", until(time.Unix(1, 0)), true, false},
		{"undecided", says(errDown), false, true},
		{"panics", func(context.Context, *middleware.Session) (*middleware.Session, error) {
			panic("no")
		}, false, true},
		{"hangs", hangs, false, true},
		{"somebody else's session",
			func(context.Context, *middleware.Session) (*middleware.Session, error) {
				return &middleware.Session{ID: "x"}, nil
			}, false, true},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			r := &restores{}
			app := newSocketApp(t, &echoes{}, socketAppOptions{
				sockets: middleware.SocketsOptions{Restore: r.restore,
					RecheckEvery: every},
			})
			pages := []*page{
				app.live(t, annsGrant()), app.live(t, annsGrant()), app.live(t, annsGrant()),
			}
			r.set(tt.answer)
			if tt.ends {
				begin := time.Now()
				for _, p := range pages {
					requireClosed(t, p, 4401, "session_expired")
				}
				require.LessOrEqual(t, time.Since(begin), every)
				require.Empty(t, app.audit.Events(t, audit.SessionVerifyFailure))
				return
			}
			time.Sleep(10*every + 5*time.Second)
			require.Equal(t, 3, app.sockets.Len())
			r.mu.Lock()
			calls := r.calls
			r.mu.Unlock()
			require.GreaterOrEqual(t, calls, 9, "at least once in a minute")
			require.LessOrEqual(t, calls, 21, "once for the session, not for each socket")
			failures := app.audit.Events(t, audit.SessionVerifyFailure)
			if !tt.fails {
				require.Empty(t, failures)
				return
			}
			require.InDelta(t, calls, len(failures), 1)
			require.Equal(t, map[string]any{"event": "session_verify_failure", "provider": "oidc",
				"reason": "recheck", "ip": "pipe", "path": "/ws"}, failures[0])
			requireNoSecret(t, "the audit", app.audit.Text())
		})
	}
}

// Rechecks of sessions that came together are spread over the interval. At most 16 run
// at once.
func TestRecheck_IsSpreadAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &restores{}
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{Restore: r.restore,
				RecheckEvery: 10 * time.Second},
		})
		const sessions = 100
		for i := range sessions {
			g := annsGrant()
			g.SessionID = fmt.Sprintf("session-%d", i)
			app.live(t, g)
		}
		begin := time.Now()
		first := make(map[string]time.Duration)
		r.set(func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if _, ok := first[s.ID]; !ok {
				first[s.ID] = time.Since(begin)
			}
			return s, nil
		})
		time.Sleep(10 * time.Second)
		r.mu.Lock()
		require.Len(t, first, sessions)
		times := slices.Collect(maps.Values(first))
		r.mu.Unlock()
		require.Greater(t, slices.Max(times)-slices.Min(times), 2*time.Second)

		var running, most atomic.Int32
		r.set(func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			select {
			case <-time.After(4 * time.Second):
				return s, nil
			case <-ctx.Done(): // with its socket, at the end of the test
				return nil, ctx.Err()
			}
		})
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 16, most.Load())
	})
}

// A socket of a session without an end stays open.
func TestSocket_WithoutSessionEndStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{})
		app.live(t, annsGrant())
		time.Sleep(1000 * time.Hour)
		require.Equal(t, 1, app.sockets.Len())
	})
}

// A stream ends with its session as a socket does.
func TestStream_EndsWithItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			causes <- context.Cause(r.Context())
		}), socketAppOptions{guard: middleware.GuardOptions{AdmitRequests: true}})
		g := annsGrant()
		g.SessionExpiresAt = time.Now().Add(time.Hour)
		p := app.send(t, get(app.ticketFor(t, g)))
		require.Equal(t, http.StatusOK, p.status)
		err := <-causes
		require.True(t, errors.Is(err, middleware.ErrSessionExpired), "%v", err)
		require.False(t, time.Now().Before(g.SessionExpiresAt))
		p.Close()
	})
}

// Restore may revoke the session that it is asked about.
func TestRevoke_DuringRecheckCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &restores{}
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{Restore: r.restore,
				RecheckEvery: time.Minute},
		})
		p := app.live(t, annsGrant())
		r.set(func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			if err := app.issuer.Revoke(ctx, tickets.Revocation{SessionID: s.ID}); err != nil {
				return nil, err
			}
			return s, nil
		})
		requireClosed(t, p, 4401, "session_revoked")
	})
}

// A session backend that hangs does not hold the request of a client that has gone.
func TestRestore_AtAdmissionEndsWithTheRequest(t *testing.T) {
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
		r := readRequest(handshake(app.ticketFor(t, annsGrant())))
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

// Restore is asked about the current end. Returning its argument changes nothing.
func TestRecheck_KeepsTheEndThatExtendMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{
			sockets: middleware.SocketsOptions{
				Restore:      (&restores{}).restore, // returns s, nil: it stands
				RecheckEvery: 10 * time.Minute}})
		g := annsGrant()
		begin := time.Now()
		g.SessionExpiresAt = begin.Add(time.Hour)
		p := app.live(t, g)
		require.Equal(t, 1, app.sockets.Extend(g.SessionID, begin.Add(5*time.Hour)))
		require.Equal(t, 5*time.Hour, lifetime(t, p).Round(time.Second))
	})
}

// A socket that ends during a call of Restore says nothing about its session.
func TestRestore_HangingEndsNoOtherSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := &restores{}
		app := newSocketApp(t, &echoes{},
			socketAppOptions{sockets: middleware.SocketsOptions{Restore: rs.restore}})
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
		rs.set(hangs)
		require.Equal(t, time.Hour, lifetime(t, p).Round(time.Minute))
	})
}

// A Restore that only fills in Value does not make a session immortal.
func TestRestore_WithoutAnEndKeepsTheTicketsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{
			Restore: func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
				return &middleware.Session{
					ID: s.ID, Provider: s.Provider, UserID: s.UserID, Value: 1}, nil
			}}})
		g := annsGrant()
		g.SessionExpiresAt = time.Now().Add(time.Hour)
		app.live(t, g)
		time.Sleep(100 * time.Hour)
		require.Zero(t, app.sockets.Len(), "the ticket said that the session ends in an hour")
	})
}

// A Restore that ignores its context counts until it returns.
func TestRestore_HangingCallsAreBounded(t *testing.T) {
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
