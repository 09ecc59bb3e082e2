package middleware_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// What a handler or a peer may do to be in the way; each is ended within
// CloseGrace, to the millisecond.
func TestEndedWithinGrace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler func(c net.Conn, done <-chan struct{})
		silent  bool // the peer reads nothing more
		want    time.Duration
		told    bool
	}{
		{"handler ignores everything", func(_ net.Conn, done <-chan struct{}) { <-done }, false, 0, true},
		{"handler ignores everything, peer reads nothing", func(_ net.Conn, done <-chan struct{}) { <-done }, true, time.Second, false},
		{"handler writes, peer reads nothing", func(c net.Conn, _ <-chan struct{}) {
			for {
				if _, err := c.Write(wire(2, strings.Repeat("x", 5000))); err != nil {
					return
				}
			}
		}, true, time.Second, false},
		{"handler never ends its frame", func(c net.Conn, done <-chan struct{}) {
			_, _ = c.Write([]byte{0x82, 5, 'a'})
			<-done
		}, false, time.Second, false},
		{"handler reads with a deadline in the way", func(c net.Conn, _ <-chan struct{}) {
			for {
				_ = c.SetDeadline(time.Now().Add(time.Hour))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					assert.ErrorIs(t, err, tickets.ErrRevoked)
					_ = c.SetReadDeadline(time.Now())
					_ = c.SetWriteDeadline(time.Now())
					_ = c.Close()
					return
				}
			}
		}, false, 0, true},
		{"handler's deadline is over", func(c net.Conn, done <-chan struct{}) {
			_ = c.SetDeadline(time.Now().Add(-time.Hour))
			<-done
		}, false, 0, true},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			done := make(chan struct{})
			h := byHand(t, func(c net.Conn, _ *http.Request) { tt.handler(c, done) })
			app := newSocketApp(t, h, socketAppOptions{})
			p := app.live(t, annsGrant())
			var got []wireFrame
			var err error
			var reading sync.WaitGroup
			if !tt.silent {
				reading.Go(func() { got, err = p.frames() })
			}
			synctest.Wait()
			begin := time.Now()
			revokeAnn(t, app)
			require.NoError(t, app.sockets.Shutdown(t.Context())) // waits until it is gone
			require.Equal(t, tt.want, time.Since(begin))
			reading.Wait()
			line := app.audit.Events(t, audit.SocketClosed)
			require.Len(t, line, 1)
			require.Equal(t, "session_revoked", line[0]["reason"])
			if tt.told {
				require.NoError(t, err)
				requireCloseFrame(t, got, 4401, "session_revoked")
				require.Equal(t, 4401.0, line[0]["close_code"])
			} else {
				require.Equal(t, 1006.0, line[0]["close_code"])
			}
			close(done)
		})
	}
}

// A peer that never closes its side is not waited for longer than CloseGrace.
func TestEndedWithinGraceOfAPeerThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{}, socketAppOptions{sockets: middleware.SocketsOptions{CloseGrace: 3 * time.Second}})
		p := app.live(t, annsGrant())
		go func() { _, _ = io.Copy(io.Discard, p.br) }()
		synctest.Wait()
		begin := time.Now()
		require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", "bye"))
		require.NoError(t, app.sockets.Shutdown(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(begin))
		line := app.audit.Events(t, audit.SocketClosed)[0]
		require.Equal(t, "bye", line["reason"])
		require.Equal(t, 4401.0, line["close_code"], "it was told, all the same")
	})
}
