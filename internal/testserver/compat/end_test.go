package compat

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func (a *app) dial(t testing.TB, session string) (*gorilla.Conn, *http.Response, error) {
	return gorilla.DefaultDialer.Dial(a.url(t, session, "u"), nil)
}

// Idle sockets, of a person, of every library.
func TestRevokeIdle(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			a := newApp(t, lib.echo, appOptions{})
			var pages []*gorilla.Conn
			for range 20 {
				c, _, err := a.dial(t, a.session())
				require.NoError(t, err)
				pages = append(pages, c)
			}
			eventually(t, "the last hijack", func() bool { return a.sockets.Len() == len(pages) })
			a.revoke(t, tickets.Revocation{Provider: "test", UserID: "u", Reason: "everywhere"})
			for _, c := range pages {
				requireClosed(t, c, 4401, "session_revoked")
			}
			require.NoError(t, a.sockets.Shutdown(t.Context()))
			require.EqualValues(t, len(pages), a.lines.of("revoke")[0]["sockets"])
			require.Len(t, a.lines.of("ws_closed"), len(pages))
		})
	}
}

// Whichever comes first, the admission or the revocation: none stays. The time
// between the two is led to where now one comes first, now the other.
func TestRevokeRacesUpgrade(t *testing.T) {
	const enough = 20
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			a := newApp(t, lib.echo, appOptions{})
			var delay time.Duration
			refused, closed := 0, 0
			for end := time.Now().Add(patience); refused < enough || closed < enough; {
				require.True(t, time.Now().Before(end),
					"%d were refused, %d closed: never enough of both", refused, closed)
				session := a.session()
				url := a.url(t, session, "u")
				var revoking sync.WaitGroup
				revoking.Go(func() {
					for begun := time.Now(); time.Since(begun) < delay; {
					}
					a.revoke(t, tickets.Revocation{SessionID: session})
				})
				c, res, err := gorilla.DefaultDialer.Dial(url, nil)
				revoking.Wait()
				if err == nil {
					requireClosed(t, c, 4401, "session_revoked")
					closed++
					delay -= delay/8 + time.Microsecond
				} else {
					require.NotNil(t, res, "%v", err)
					require.Equal(t, http.StatusUnauthorized, res.StatusCode)
					refused++
					delay += delay/8 + 10*time.Microsecond
				}
			}
			require.Zero(t, a.sockets.Len())
		})
	}
}

// The two shutdowns, in either order, with sockets of every library.
func TestShutdowns(t *testing.T) {
	for _, lib := range libraries {
		for _, serverFirst := range []bool{false, true} {
			t.Run(lib.name+"/server_first_"+strconv.FormatBool(serverFirst), func(t *testing.T) {
				a := newApp(t, lib.echo, appOptions{})
				c, _, err := a.dial(t, a.session())
				require.NoError(t, err)
				eventually(t, "the hijack", func() bool { return a.sockets.Len() == 1 })
				var reading sync.WaitGroup
				reading.Go(func() { requireClosed(t, c, 1001, "going_away") })
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if serverFirst {
					err = errors.Join(a.server.Config.Shutdown(ctx), a.sockets.Shutdown(ctx))
				} else {
					err = errors.Join(a.sockets.Shutdown(ctx), a.server.Config.Shutdown(ctx))
				}
				require.NoError(t, err)
				reading.Wait()
				require.Equal(t, "going_away", a.lines.of("ws_closed")[0]["reason"])
			})
		}
	}
}

// A peer that reads nothing, and libraries that are blocked in writing to it.
func TestDeafPeer(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			a := newApp(t, lib.echo,
				appOptions{sockets: middleware.SocketsOptions{CloseGrace: 50 * time.Millisecond}})
			c, _, err := a.dial(t, a.session())
			require.NoError(t, err)
			require.NoError(t, c.NetConn().(*net.TCPConn).SetReadBuffer(4096))
			var writing sync.WaitGroup
			writing.Go(func() {
				for c.WriteMessage(gorilla.BinaryMessage, message()) == nil {
				}
			})
			// The echoes fill every buffer on the way, and then nothing moves.
			out, still := int64(-1), 0
			eventually(t, "the standstill", func() bool {
				for info := range a.sockets.All() {
					// What the kernel holds differs.
					if info.BytesOut > 1<<16 && info.BytesOut == out {
						still++
					} else {
						out, still = info.BytesOut, 0
					}
				}
				return still > 20
			})
			a.revoke(t, tickets.Revocation{Provider: "test", UserID: "u"})
			assert.NoError(t, a.sockets.Shutdown(t.Context()),
				"it is gone, and was not waited for any longer")
			require.Len(t, a.lines.of("ws_closed"), 1)
			c.Close()
			writing.Wait()
		})
	}
}
