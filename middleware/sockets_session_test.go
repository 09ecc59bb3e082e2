package middleware_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// roleOf is what a handler that decides per message looks at.
func roleOf(ctx context.Context) string {
	s, ok := middleware.SessionFrom(ctx)
	if !ok {
		return "nobody"
	}
	role, _ := s.Value.(string)
	return role
}

// A person who loses a role loses it in the sockets that are open, in every
// context that was made of the socket's.
func TestSession_OfALiveSocketChangesWithRestore(t *testing.T) {
	for _, inner := range []struct {
		name string
		wrap func(http.Handler) http.Handler
	}{
		{"alone", func(next http.Handler) http.Handler { return next }},
		{"a gate inside", must(middleware.NewGate(middleware.ContextSessions, nil)).Wrap},
		{"two gates inside", func(next http.Handler) http.Handler {
			gate := must(middleware.NewGate(middleware.FirstOf(middleware.ContextSessions), nil))
			return gate.Wrap(gate.Wrap(next))
		}},
	} {
		runInBubble(t, inner.name, func(t *testing.T) {
			role := &restores{}
			role.set(hasRole("admin", time.Time{}))
			contexts := make(chan []context.Context, 1)
			app := newSocketApp(t, inner.wrap(byHand(t, func(c net.Conn, r *http.Request) {
				child, cancel := context.WithCancel(context.WithValue(r.Context(), contextKey{}, 1))
				defer cancel()
				contexts <- []context.Context{r.Context(), child, context.WithoutCancel(child)}
				_, _ = io.Copy(io.Discard, c)
			})), socketAppOptions{sockets: middleware.SocketsOptions{Restore: role.restore, RecheckEvery: time.Minute}})
			g := annsGrant()
			g.Data, g.StartedAt = "room 7", time.Now().Add(-time.Hour)
			g.SessionExpiresAt = time.Now().Add(time.Hour)
			p := app.live(t, g)
			all := <-contexts
			for _, ctx := range all {
				require.Equal(t, "admin", roleOf(ctx))
			}

			end := time.Now().Add(2 * time.Hour)
			role.set(hasRole("guest", end))
			time.Sleep(time.Minute)
			for _, ctx := range all {
				require.Equal(t, "guest", roleOf(ctx))
				s, _ := middleware.SessionFrom(ctx)
				require.True(t, end.Equal(s.ExpiresAt))
				require.Equal(t, "room 7", s.Data, "the ticket's")
				require.True(t, g.StartedAt.Equal(s.StartedAt), "the ticket's")
			}
			role.set(hasRole("guest", time.Time{})) // zero: the end stays
			time.Sleep(time.Minute)
			require.Equal(t, 1, app.sockets.Len(), "it stayed open")
			require.True(t, end.Equal(onlySocket(t, app.sockets).EndsAt))

			later := end.Add(time.Hour)
			require.Equal(t, 1, app.sockets.Extend(g.SessionID, later))
			s, _ := middleware.SessionFrom(all[2])
			require.True(t, later.Equal(s.ExpiresAt), "Extend shows too")
			p.Close()
		})
	}
}

// hasRole answers with a Value and an end, and tries to change what is not its
// to change.
func hasRole(role string, end time.Time) restoreFunc {
	return func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
		s.Value, s.ExpiresAt = role, end // s is a copy
		s.Data, s.StartedAt = "elsewhere", time.Now().Add(time.Hour)
		return s, nil
	}
}
