package middleware_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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

func TestShutdown_ClosesAndWaits(t *testing.T) {
	for _, tt := range []struct {
		name     string
		shutdown func(ctx context.Context, app *socketApp) error
	}{
		{"alone", func(ctx context.Context, app *socketApp) error {
			return app.sockets.Shutdown(ctx)
		}},
		{"before the server's", func(ctx context.Context, app *socketApp) error {
			return errors.Join(app.sockets.Shutdown(ctx), app.server.Shutdown(ctx))
		}},
		{"after the server's", func(ctx context.Context, app *socketApp) error {
			return errors.Join(app.server.Shutdown(ctx), app.sockets.Shutdown(ctx))
		}},
		{"hung on the server", func(ctx context.Context, app *socketApp) error {
			gone := make(chan error, 1)
			app.server.RegisterOnShutdown(func() { gone <- app.sockets.Shutdown(ctx) })
			return errors.Join(app.server.Shutdown(ctx), <-gone)
		}},
		{"many times at once", func(ctx context.Context, app *socketApp) error {
			var all sync.WaitGroup
			for range 5 {
				all.Go(func() { assert.NoError(t, app.sockets.Shutdown(ctx)) })
			}
			all.Wait()
			return app.sockets.Shutdown(ctx)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &echoes{}
			app := newSocketApp(t, h, socketAppOptions{tcp: true})
			pages := []*page{app.live(t, annsGrant()), app.live(t, annsGrant())}
			var reading sync.WaitGroup
			for _, p := range pages {
				reading.Go(func() { requireClosed(t, p, 1001, "going_away") })
			}
			require.NoError(t, tt.shutdown(t.Context(), app))
			require.Len(t, app.audit.Events(t, audit.SocketClosed), 2, "gone, and recorded")
			reading.Wait()
			for _, cause := range h.ended(t, 2) {
				require.ErrorIs(t, cause, http.ErrServerClosed)
			}
			require.NoError(t, app.sockets.Shutdown(t.Context()))
		})
	}
}

func TestShutdown_WithoutSocketsReturnsAtOnce(t *testing.T) {
	app := newSocketApp(t, &echoes{}, socketAppOptions{tcp: true})
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, app.sockets.Shutdown(done), "there was nothing to wait for")

	request := handshake(app.ticketFor(t, annsGrant()))
	require.Equal(t, http.StatusServiceUnavailable, app.send(t, request).status)
	require.Equal(t, "going_away", app.audit.Events(t, audit.UpgradeRefused)[0]["reason"])
	// The ticket is not spent: another server may take it.
	_, err := app.issuer.Consume(t.Context(), tickets.Ticket(request[len("GET /ws?ticket="):][:43]))
	require.NoError(t, err)
}

// When its time is up, Shutdown closes what is left.
func TestShutdown_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{},
			socketAppOptions{sockets: middleware.SocketsOptions{CloseGrace: time.Hour}})
		app.live(t, annsGrant()) // and reads nothing
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		require.ErrorIs(t, app.sockets.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(begin))
		require.NoError(t, app.sockets.Shutdown(t.Context()), "nothing is left")
		require.Equal(t, 3*time.Second, time.Since(begin))
	})
}

// A request that was admitted before, and upgrades afterwards, is closed too.
func TestShutdown_BeforeHijackCloses1001(t *testing.T) {
	admitted, proceed := make(chan struct{}), make(chan struct{})
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(admitted)
		<-proceed
		(&echoes{}).ServeHTTP(w, r)
	}), socketAppOptions{tcp: true})
	var reading sync.WaitGroup
	reading.Go(func() { requireClosed(t, app.open(t, annsGrant()), 1001, "going_away") })
	<-admitted
	gone := make(chan error)
	go func() { gone <- app.sockets.Shutdown(context.Background()) }()
	eventually(t, "the shutdown", func() bool {
		return app.sockets.Len() == 0 && app.open(t, annsGrant()).status == 503
	})
	close(proceed)
	require.NoError(t, <-gone)
	reading.Wait()
}

// A handler that writes its first bytes after the end of its socket opens nothing.
func TestSocket_OpensNothingAfterItsEnd(t *testing.T) {
	hijacked, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			close(hijacked)
			<-goOn
			_, _ = conn.Write(wire(1, "x"))
		}
	}), socketAppOptions{tcp: true,
		sockets: middleware.SocketsOptions{CloseGrace: 20 * time.Millisecond}})
	app.begin(t, handshake(app.ticketFor(t, annsGrant())))
	<-hijacked
	revokeAnn(t, app)
	app.await(t, audit.UpgradeRefused, 1)
	close(goOn)
	<-done
	require.Empty(t, app.audit.Events(t, audit.SocketOpened))
}

// Bytes that a client sends right behind its handshake stay where a library reads them.
func TestSocket_PipelinedBytesReachTheLibrary(t *testing.T) {
	early := wire(1, "early")
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := upgradeByHand(w, 1000)
		if !assert.NoError(t, err) {
			return
		}
		defer c.Close()
		assert.Equal(t, len(early), rw.Reader.Buffered())
		got := make([]byte, len(early)+4)
		_, err = io.ReadFull(rw, got)
		assert.NoError(t, err)
		assert.Equal(t, string(early)+"late", string(got))
		_, err = rw.Write(wire(1, "answer"))
		assert.NoError(t, err)
		assert.NoError(t, rw.Flush())
		<-r.Context().Done()
	}), socketAppOptions{tcp: true})
	p := app.send(t, handshake(app.ticketFor(t, annsGrant()))+string(early))
	write(t, p, "late")
	requireFrame(t, p, wireFrame{1, "answer"})
	require.EqualValues(t, len(early)+4, onlySocket(t, app.sockets).BytesIn)
	require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", ""))
	requireClosed(t, p, 4401, "session_revoked")
}

// A hijacked connection behaves as the real one.
func TestHijack_ConnectionBehavesAsTheRealOne(t *testing.T) {
	app := newSocketApp(t, byHand(t, func(c net.Conn, _ *http.Request) {
		raw, ok := c.(interface{ NetConn() net.Conn })
		if assert.True(t, ok) {
			assert.IsType(t, &net.TCPConn{}, raw.NetConn())
			assert.Equal(t, raw.NetConn().RemoteAddr(), c.RemoteAddr())
		}
		var timeout net.Error
		assert.NoError(t, c.SetReadDeadline(time.Now()))
		_, err := c.Read(make([]byte, 1))
		assert.ErrorAs(t, err, &timeout)
		assert.NoError(t, c.SetDeadline(time.Time{}))
		buffers := net.Buffers{wire(1, "a"), wire(1, "b")}
		_, err = buffers.WriteTo(c)
		assert.NoError(t, err)
		n, err := io.Copy(c, io.LimitReader(bufio.NewReader(c), 3))
		assert.NoError(t, err)
		assert.EqualValues(t, 3, n)
		half, ok := c.(interface{ CloseWrite() error })
		if assert.True(t, ok) {
			assert.NoError(t, half.CloseWrite())
		}
		_, err = c.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		assert.NoError(t, c.Close())
		assert.ErrorIs(t, c.Close(), net.ErrClosed)
		_, err = c.Write([]byte("x"))
		assert.ErrorIs(t, err, net.ErrClosed)
	}), socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	write(t, p, string(wire(1, "c")))
	got, err := io.ReadAll(p.br)
	require.NoError(t, err)
	require.Equal(t, string(wire(1, "a"))+string(wire(1, "b"))+string(wire(1, "c")), string(got))
	p.Close()
	eventually(t, "the end", func() bool { return app.sockets.Len() == 0 })
}

// A reverse proxy is a handler that upgrades, too.
func TestGuard_ReverseProxyBehindItUpgrades(t *testing.T) {
	backend := httptest.NewServer(&echoes{})
	defer backend.Close()
	target := must(url.Parse(backend.URL))
	app := newSocketApp(t, httputil.NewSingleHostReverseProxy(target), socketAppOptions{tcp: true})
	p := app.live(t, annsGrant())
	write(t, p, "\x81\x82\x00\x00\x00\x00hi")
	requireFrame(t, p, wireFrame{1, "hi"})
	revokeAnn(t, app)
	requireClosed(t, p, 4401, "session_revoked")
}

// Until the hijack the context ends with the request.
func TestContext_BeforeHijackEndsWithRequest(t *testing.T) {
	waiting, causes := make(chan struct{}), make(chan error, 1)
	app := newSocketApp(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(waiting)
		<-r.Context().Done()
		causes <- context.Cause(r.Context())
	}), socketAppOptions{tcp: true})
	c := app.begin(t, handshake(app.ticketFor(t, annsGrant())))
	<-waiting
	c.Close()
	require.ErrorIs(t, <-causes, context.Canceled)
}

// net/http ends a request's context when its handler returns, and there are
// libraries whose handlers return at once, as gobwas is used.
func TestContext_OutlivesHandler(t *testing.T) {
	type key struct{}
	for _, by := range []string{"handler", "CloseUser"} {
		out, causes, returned := make(chan held, 1), make(chan error, 1), make(chan struct{})
		app := newSocketApp(t, nil, socketAppOptions{})
		guarded := app.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			assert.NoError(t, err)
			go func() {
				<-r.Context().Done()
				causes <- context.Cause(r.Context())
			}()
			out <- held{conn, r.Context()}
		}))
		app.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			guarded.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "v")))
		}), true)
		conn := app.begin(t, handshake(app.ticketFor(t, annsGrant())))
		<-returned
		h := <-out
		require.NoError(t, h.ctx.Err())
		require.Equal(t, "v", h.ctx.Value(key{}))
		write(t, h.conn, switching+"\r\n")
		p := &page{Conn: conn, br: bufio.NewReader(conn)}
		res, err := http.ReadResponse(p.br, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		require.NoError(t, h.ctx.Err())
		if by == "handler" {
			require.NoError(t, h.conn.Close())
		} else {
			require.Equal(t, 1, app.sockets.CloseUser("oidc", "ann", ""))
			requireClosed(t, p, 4401, "session_revoked")
		}
		var closed *middleware.CloseError
		require.ErrorAs(t, <-causes, &closed, "closed by %s", by)
	}
}

// When Shutdown's context ends, sockets that were closing before are cut too.
func TestShutdown_CutsSocketsThatAreClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newSocketApp(t, &echoes{},
			socketAppOptions{sockets: middleware.SocketsOptions{CloseGrace: time.Minute}})
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
