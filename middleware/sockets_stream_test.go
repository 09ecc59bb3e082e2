package middleware_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// ticks writes long lines, as fast as the page reads them, until its context ends.
func ticks(causes chan<- error) http.Handler {
	line := "data: " + strings.Repeat("tick ", 10_000) + "\n\n"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, line); err != nil {
				break
			}
			if http.NewResponseController(w).Flush() != nil {
				break
			}
		}
		<-r.Context().Done()
		causes <- context.Cause(r.Context())
	})
}

// A stream ends with its session, though its peer reads nothing and its handler blocks
// in Write. In HTTP/1.1 over TLS, crypto/tls would wait 5 s for a peer that does not
// read: that is cut short as well.
func TestRevoke_EndsStreams(t *testing.T) {
	for _, protocol := range []string{"h1", "h1 over TLS", "h2"} {
		causes := make(chan error, 1)
		app := newSocketApp(t, nil,
			socketAppOptions{guard: middleware.GuardOptions{AdmitRequests: true}})
		var ranOut atomic.Bool
		srv := httptest.NewUnstartedServer(app.guard.Wrap(ticks(causes)))
		srv.Listener = patienceListener{srv.Listener, &ranOut}
		srv.EnableHTTP2 = protocol == "h2"
		if protocol == "h1" {
			srv.Start()
		} else {
			srv.StartTLS()
		}
		t.Cleanup(srv.Close)
		client := srv.Client()
		res, err := client.Get(srv.URL + app.ticketFor(t, annsGrant()))
		require.NoError(t, err)
		t.Cleanup(func() { res.Body.Close() })
		require.Equal(t, protocol == "h2", res.ProtoMajor == 2)
		_, err = io.ReadFull(res.Body, make([]byte, 100))
		require.NoError(t, err)
		standstill(t, app)

		info := onlySocket(t, app.sockets)
		require.True(t, info.Stream)
		require.Positive(t, info.BytesOut)
		revokeAnn(t, app)
		eventually(t, "the end of the handler", func() bool { return len(causes) == 1 })
		require.ErrorIs(t, <-causes, tickets.ErrRevoked)
		_, err = io.Copy(io.Discard, res.Body)
		require.Error(t, err, "a stream that is cut must not look whole")
		res.Body.Close()
		client.CloseIdleConnections()
		line := app.await(t, audit.SocketClosed, 1)[0]
		require.Equal(t, "session_revoked", line["reason"])
		require.Equal(t, 0.0, line["close_code"], "there are no close codes in HTTP")
		require.Len(t, app.audit.Events(t, audit.SocketOpened), 1)
		require.Zero(t, app.sockets.Len())
		require.NoError(t, app.sockets.Shutdown(t.Context()))
		require.False(t, ranOut.Load(),
			"%s: a Write waited for as long as crypto/tls does", protocol)
	}
}

// A patienceListener records a Write that failed at a deadline that was ahead when it
// was set.
type patienceListener struct {
	net.Listener
	ranOut *atomic.Bool
}

func (l patienceListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &patienceConn{Conn: conn, ranOut: l.ranOut}, err
}

type patienceConn struct {
	net.Conn
	ranOut *atomic.Bool
	ahead  atomic.Bool
}

func (c *patienceConn) SetWriteDeadline(t time.Time) error {
	c.ahead.Store(time.Now().Before(t))
	return c.Conn.SetWriteDeadline(t)
}

func (c *patienceConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.ahead.Load() {
		c.ranOut.Store(true)
	}
	return n, err
}

// standstill waits until the handler of the only stream blocks in a Write.
func standstill(t testing.TB, app *socketApp) {
	t.Helper()
	blocked := func() bool {
		for stack := range strings.SplitSeq(allStacks(), "\n\n") {
			state, calls, _ := strings.Cut(stack, "\n")
			waits := strings.Contains(state, "[IO wait") || strings.Contains(state, "[select")
			if waits && strings.Contains(calls, "middleware.(*socketWriter).") {
				return true
			}
		}
		return false
	}
	out, still := int64(0), 0
	eventually(t, "the standstill", func() bool {
		if sent := onlySocket(t, app.sockets).BytesOut; sent == out && blocked() {
			still++
		} else {
			out, still = sent, 0
		}
		return still == 10 // the kernel may still have been moving what was written
	})
}

// RFC 9113 section 5.4.2: one RST_STREAM is enough, however long the handler of a
// revoked stream goes on.
func TestRevoke_ResetsAStreamOnce(t *testing.T) {
	app := newSocketApp(t, nil, socketAppOptions{
		guard:   middleware.GuardOptions{AdmitRequests: true},
		sockets: middleware.SocketsOptions{CloseGrace: 40 * time.Millisecond},
	})
	in, quit := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(in)
		<-quit
	})
	srv := serveTLS(t, app.guard.Wrap(h))
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), config)
	require.NoError(t, err)
	defer conn.Close()
	target := app.ticketFor(t, annsGrant())
	require.NoError(t, exchangeH2(conn, h2EndStream|h2EndHeaders, getH2(target)...))
	<-in
	revokeAnn(t, app)
	time.AfterFunc(200*time.Millisecond, func() { close(quit) }) // time for many more
	resets := 0
	for ended := false; !ended; {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(400*time.Millisecond)))
		f, err := readH2Frame(conn)
		if ended = err != nil; !ended && f.kind == h2Reset {
			resets++
		}
	}
	require.Equal(t, 1, resets)
	<-quit
}

// A stream whose handler hijacks the connection and closes it has both of its lines.
func TestStream_ThatHijacksHasBothLines(t *testing.T) {
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			_ = conn.Close()
		}
	}), socketAppOptions{tcp: true, guard: middleware.GuardOptions{AdmitRequests: true}})
	conn := app.begin(t, get(app.ticketFor(t, annsGrant())))
	_, _ = io.ReadAll(conn)
	line := app.await(t, audit.SocketClosed, 1)[0]
	require.Equal(t, 0.0, line["close_code"])
	require.Len(t, app.audit.Events(t, audit.SocketOpened), 1)
	require.Empty(t, app.audit.Events(t, audit.UpgradeRefused))
}

// A stream ends by itself, and the next request uses the same connection.
func TestStream_EndIsRecordedAndTheConnectionStays(t *testing.T) {
	app := newSocketApp(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, &io.LimitedReader{R: zeros{}, N: 100_000})
	}), socketAppOptions{tcp: true, guard: middleware.GuardOptions{AdmitRequests: true},
		sockets: middleware.SocketsOptions{MaxPerUser: 1}})
	client := app.client()
	defer client.CloseIdleConnections()
	for i := range 3 {
		res, err := client.Get("http://app.example" + app.ticketFor(t, annsGrant()))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Len(t, body, 100_000)
		res.Body.Close()
		app.await(t, audit.SocketClosed, i+1)
		require.Equal(t, "closed", app.audit.Events(t, audit.SocketClosed)[i]["reason"])
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
