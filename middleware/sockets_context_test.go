package middleware_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// Ways to learn of the end of a context, and of its cause.
var lookers = map[string]func(ctx context.Context) error{
	"Cause": context.Cause,
	"Err": func(ctx context.Context) error {
		if err := ctx.Err(); err != context.Canceled {
			return errors.New("Err is no context.Canceled")
		}
		return context.Cause(ctx)
	},
	"Done": func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	},
	"AfterFunc": func(ctx context.Context) error {
		done := make(chan struct{})
		context.AfterFunc(ctx, func() { close(done) })
		<-done
		return context.Cause(ctx)
	},
	"derived": func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, contextKey{}, 1), time.Hour)
		defer cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	},
}

// A socket's context has the same cause whether it is asked early or late, and
// whether the handler or a revocation closes the socket.
func TestContext_HasTheSameCauseInEveryWayToAsk(t *testing.T) {
	for name, look := range lookers {
		for _, when := range []string{"early", "late"} {
			for _, by := range []string{"handler", "revocation"} {
				t.Run(name+"/"+when+"/"+by, func(t *testing.T) {
					t.Parallel()
					ready, revoked := make(chan struct{}), make(chan struct{})
					causes := make(chan error, 1)
					h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						ctx := r.Context()
						assert.NotNil(t, ctx.Value(http.ServerContextKey),
							"the request's own values")
						if when == "early" {
							assert.Nil(t, ctx.Value(contextKey{}))
							assert.NoError(t, ctx.Err())
						}
						conn, _, err := upgradeByHand(w, 1<<10)
						if !assert.NoError(t, err) {
							return
						}
						if by == "handler" {
							_ = conn.Close()
						}
						close(ready)
						<-revoked
						causes <- look(ctx)
					})
					app := newSocketApp(t, h, socketAppOptions{})
					p := app.live(t, annsGrant())
					<-ready
					revokeAnn(t, app)
					if by == "revocation" { // the context ends when the close frame is out
						requireClosed(t, p, 4401, "session_revoked")
					}
					require.NoError(t, app.sockets.Shutdown(t.Context()))
					close(revoked)
					var end *middleware.CloseError
					require.ErrorAs(t, <-causes, &end)
					want := map[string]int{"handler": 1006, "revocation": 4401}[by]
					require.Equal(t, want, end.Code)
				})
			}
		}
	}
}

// roleOf reads the role as a handler that decides per message does.
func roleOf(ctx context.Context) string {
	s, ok := middleware.SessionFrom(ctx)
	if !ok {
		return "nobody"
	}
	role, _ := s.Value.(string)
	return role
}

// A person who loses a role loses it in open sockets, in every context made of the socket's.
func TestSession_OfALiveSocketChangesWithRestore(t *testing.T) {
	for _, inner := range []struct {
		name string
		wrap func(http.Handler) http.Handler
	}{
		{"alone", func(next http.Handler) http.Handler { return next }},
		{"a gate inside", must(middleware.NewGate(middleware.ContextSessions, nil)).Wrap},
		{"a gate inside that takes its time", func(next http.Handler) http.Handler {
			slow := middleware.AuthenticatorFunc(func(_ http.ResponseWriter, r *http.Request) (
				*middleware.Session, error,
			) {
				s, _ := middleware.SessionFrom(r.Context())
				time.Sleep(2 * time.Minute) // Restore returns it anew meanwhile
				return s, nil
			})
			return must(middleware.NewGate(slow, nil)).Wrap(next)
		}},
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
			})), socketAppOptions{sockets: middleware.SocketsOptions{Restore: role.restore,
				RecheckEvery: time.Minute}})
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

// hasRole sets Value and the end, and tries to change fields that stay the ticket's.
func hasRole(role string, end time.Time) restoreFunc {
	return func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
		s.Value, s.ExpiresAt = role, end // s is a copy
		s.Data, s.StartedAt = "elsewhere", time.Now().Add(time.Hour)
		return s, nil
	}
}
