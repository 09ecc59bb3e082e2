package middleware_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

// blocksOn is a log's file that takes no line that contains text, until release is closed.
type blocksOn struct {
	io.Writer
	text    string
	release chan struct{}
}

func (b blocksOn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(b.text)) {
		<-b.release
	}
	return b.Writer.Write(p)
}

// A page sees the end of its session, and a revocation finds its sockets, while the audit is
// slow (HOSTILE D10).
func TestRecheck_ClosesBeforeItRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, nil, socketAppOptions{})
		slow := blocksOn{app.audit, "session_verify_failure", make(chan struct{})}
		rs := &restores{}
		sockets, err := middleware.NewSockets(app.issuer, &middleware.SocketsOptions{
			Audit: audit.New(slog.NewJSONHandler(slow, nil)), Restore: rs.restore,
		})
		require.NoError(t, err)
		guard, err := middleware.NewGuard(app.issuer, &middleware.GuardOptions{Sockets: sockets})
		require.NoError(t, err)
		app.sockets = sockets
		app.serve(t, guard.Wrap(&echoes{}), false)
		g := annsGrant()
		g.SessionExpiresAt = time.Now().Add(time.Hour)
		p := app.live(t, g)
		rs.set(says(errDown))
		require.Equal(t, time.Hour, lifetime(t, p).Round(time.Second))
		close(slow.release)
	})
}

// A Restore that never returns occupies one recheck: those of other sessions go on.
func TestRecheck_HangsForOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, hung atomic.Int32
		release := make(chan struct{})
		rs := &restores{}
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{
			Restore: rs.restore, RecheckEvery: time.Minute}})
		hangs, other := annsGrant(), annsGrant()
		hangs.SessionID += "-hangs"
		app.live(t, hangs)
		app.live(t, other)
		rs.set(func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			if s.ID == hangs.SessionID {
				hung.Add(1)
				<-release
			}
			calls.Add(1)
			return s, nil
		})
		time.Sleep(time.Hour)
		require.GreaterOrEqual(t, calls.Load(), int32(60), "at least once in a minute")
		require.Equal(t, int32(1), hung.Load())
		require.Len(t, app.audit.Events(t, audit.SessionVerifyFailure), 1)
		close(release)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		require.Greater(t, hung.Load(), int32(1), "it is asked again when it has answered")
	})
}

// Restore is asked about the socket that ends last: the end of an older one is not theirs.
func TestRestore_AnOlderSocketEndsNoOther(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name  string
		hours []time.Duration // the end of each socket; 0: none is known
		live  []int           // after 90 minutes
	}{
		{"one without an end", []time.Duration{1, 0}, []int{1}},
		{"the oldest without an end", []time.Duration{0, 1}, []int{0}},
		{"a later end is the session's", []time.Duration{1, 3, 2}, []int{0, 1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				app := newSocketApp(t, &echoes{}, socketAppOptions{
					sockets: middleware.SocketsOptions{Restore: (&restores{}).restore}})
				begin := time.Now()
				for _, hours := range tt.hours {
					g := annsGrant()
					if hours > 0 {
						g.SessionExpiresAt = begin.Add(hours * hour)
					}
					app.live(t, g)
					time.Sleep(time.Millisecond) // All is in order of opening
				}
				ids := []string{}
				for info := range app.sockets.All() {
					ids = append(ids, info.ID)
				}
				time.Sleep(90 * time.Minute)
				var left, want []string
				for info := range app.sockets.All() {
					left = append(left, info.ID)
				}
				for _, i := range tt.live {
					want = append(want, ids[i])
				}
				require.Equal(t, want, left)
			})
		})
	}
}

// A stream's writes fail when its session ends, not when a middleware around the guard ends
// the context of the request: its own answer must go out.
func TestStream_WritesGoOnWhenAnOuterContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			time.Sleep(time.Second)
			return s, nil
		}
		app := newSocketApp(t, nil, socketAppOptions{
			guard:   middleware.GuardOptions{AdmitRequests: true},
			sockets: middleware.SocketsOptions{Restore: restoreFunc(slow)},
		})
		guarded := app.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusGatewayTimeout)
		}))
		app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Millisecond)
			defer cancel()
			guarded.ServeHTTP(w, r.WithContext(ctx))
		}), false)
		p := app.send(t, get(app.ticketFor(t, annsGrant())))
		require.Equal(t, http.StatusGatewayTimeout, p.status)
		p.Close()
	})
}
