package middleware_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// Ways to find out about the end of a context, and its cause.
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
					ready, revoked, causes := make(chan struct{}), make(chan struct{}), make(chan error, 1)
					app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						ctx := r.Context()
						assert.NotNil(t, ctx.Value(http.ServerContextKey), "the request's own values")
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
					}), socketAppOptions{})
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
