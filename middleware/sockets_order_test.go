package middleware_test

import (
	"context"
	"fmt"
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

// What happens first when a socket is closed from outside: the close frame, then
// the end of the context, then the end of the handler's blocked calls.

// HOSTILE W35: a handler that acts on its context must find the close frame out.
func TestClose_ContextEndsAfterCloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := make(chan held, 1)
		app := newSocketApp(t, holder(t, out), socketAppOptions{})
		p := app.live(t, annsGrant())
		h := <-out
		read, written := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := h.conn.Read(make([]byte, 1))
			read <- err
		}()
		go func() {
			_, err := h.conn.Write(wire(2, "frame"))
			written <- err
		}()
		synctest.Wait() // the frame has begun: a pipe holds nothing
		revokeAnn(t, app)
		begin := time.Now()
		time.Sleep(500 * time.Millisecond) // half of CloseGrace; the page has read nothing
		synctest.Wait()
		require.NoError(t, h.ctx.Err(), "no close frame is out")
		require.NoError(t, context.Cause(h.ctx))
		require.Empty(t, read)
		require.Empty(t, written)

		frames, err := p.frames()
		require.NoError(t, err)
		requireCloseFrame(t, frames, 4401, "session_revoked")
		require.Equal(t, []wireFrame{{2, "frame"}}, frames[:1])
		synctest.Wait()
		require.ErrorIs(t, context.Cause(h.ctx), tickets.ErrRevoked)
		require.ErrorIs(t, <-read, tickets.ErrRevoked)
		require.NoError(t, <-written, "a frame that has begun goes out whole")
		_, err = h.conn.Write(wire(2, "one too many"))
		require.ErrorIs(t, err, tickets.ErrRevoked)
		require.Equal(t, 500*time.Millisecond, time.Since(begin))
	})
}

// A frame that never ends keeps the context open for all of CloseGrace: at half
// of it, slow frames were lost.
func TestClose_ContextEndsWithCloseGrace(t *testing.T) {
	const grace = 3 * time.Second
	for _, tt := range []struct {
		name  string
		begin func(c net.Conn) // leaves the connection inside a frame
	}{
		{"handler never ends its frame", func(c net.Conn) {
			_, _ = c.Write([]byte{0x82, 5, 'a'})
		}},
		{"peer reads nothing", func(c net.Conn) {
			_, _ = c.Write(wire(2, strings.Repeat("x", 256<<10)))
		}},
	} {
		runInBubble(t, tt.name, func(t *testing.T) {
			out := make(chan held, 1)
			app := newSocketApp(t, holder(t, out), socketAppOptions{
				sockets: middleware.SocketsOptions{CloseGrace: grace}})
			p := app.live(t, annsGrant())
			h := <-out
			go tt.begin(h.conn)
			_, err := io.ReadFull(p.br, make([]byte, 3))
			require.NoError(t, err)
			synctest.Wait()
			begin := time.Now()
			revokeAnn(t, app)
			<-h.ctx.Done()
			require.Equal(t, grace, time.Since(begin))
			require.ErrorIs(t, context.Cause(h.ctx), tickets.ErrRevoked)
			_, err = h.conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, tickets.ErrRevoked)
			require.NoError(t, app.sockets.Shutdown(t.Context()))
			require.Equal(t, grace, time.Since(begin))
		})
	}
}

// Without a connection there is no close frame to wait for.
func TestClose_ContextEndsAtOnceBeforeHijack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting, causes := make(chan time.Time, 1), make(chan error, 1)
		app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			waiting <- time.Now()
			<-r.Context().Done()
			causes <- context.Cause(r.Context())
			w.WriteHeader(http.StatusServiceUnavailable)
		}), socketAppOptions{})
		go app.open(t, annsGrant())
		begin := <-waiting
		revokeAnn(t, app)
		require.ErrorIs(t, <-causes, tickets.ErrRevoked)
		require.Zero(t, time.Since(begin))
		synctest.Wait()
	})
}

// A stream has no close frame either, not even one that takes its connection.
func TestClose_StreamsContextEndsAtOnce(t *testing.T) {
	for _, hijacks := range []bool{false, true} {
		runInBubble(t, fmt.Sprint("hijacks_", hijacks), func(t *testing.T) {
			out := make(chan held, 1)
			stream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := held{ctx: r.Context()}
				if hijacks {
					var err error
					h.conn, _, err = http.NewResponseController(w).Hijack()
					if !assert.NoError(t, err) {
						return
					}
					defer h.conn.Close()
					go func() { _, _ = h.conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) }()
				}
				out <- h
				<-r.Context().Done()
			})
			app := newSocketApp(t, stream, socketAppOptions{
				guard: middleware.GuardOptions{AdmitRequests: true}})
			app.begin(t, get(app.ticketFor(t, annsGrant())))
			h := <-out
			synctest.Wait() // the page reads nothing: what the handler writes blocks
			begin := time.Now()
			revokeAnn(t, app)
			<-h.ctx.Done()
			require.Zero(t, time.Since(begin))
			require.ErrorIs(t, context.Cause(h.ctx), tickets.ErrRevoked)
		})
	}
}

// What a handler or a peer may do to be in the way. Each socket ends within CloseGrace.
func TestClose_EndsWithinCloseGrace(t *testing.T) {
	ignores := func(_ net.Conn, done <-chan struct{}) { <-done }
	for _, tt := range []struct {
		name    string
		handler func(c net.Conn, done <-chan struct{})
		silent  bool // the peer reads nothing more
		want    time.Duration
		told    bool
	}{
		{"handler ignores everything", ignores, false, 0, true},
		{"handler ignores everything, peer reads nothing", ignores, true, time.Second, false},
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

// A peer that never closes its side is cut after CloseGrace.
func TestClose_PeerThatStaysIsCutAfterCloseGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{},
			socketAppOptions{sockets: middleware.SocketsOptions{CloseGrace: 3 * time.Second}})
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
