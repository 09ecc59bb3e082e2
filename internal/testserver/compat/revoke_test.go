package compat

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// runs is how often each library is revoked in the midst of its work.
var runs = times(50, 200)

// A page that echoes 300 kB messages in both directions must see 4401 and
// "session_revoked" whenever the revocation comes: in a frame, between two,
// or before the first.
func TestRevokeMidstEcho(t *testing.T) {
	for _, lib := range libraries {
		for _, mode := range []struct {
			name    string
			handler http.Handler
			deflate bool
			runs    int
		}{
			{"plain", lib.echo, false, runs},
			{"deflate", lib.deflate, true, runs / 4}, // it is slow under the race detector
		} {
			if mode.handler == nil {
				continue
			}
			t.Run(lib.name+"/"+mode.name, func(t *testing.T) {
				a := newApp(t, mode.handler, appOptions{sockets: patientSockets})
				a.requireEchoes(t, mode.deflate)
				for range mode.runs {
					a.echoUntilRevoked(t, mode.deflate)
				}
				eventually(t, "the last line", func() bool {
					return len(a.lines.of("ws_closed")) == 1+mode.runs
				})
				for _, line := range a.lines.of("ws_closed")[1:] {
					require.Equal(t, "session_revoked", line["reason"])
					require.EqualValues(t, 4401, line["close_code"])
				}
				require.Len(t, a.lines.of("ws_opened"), 1+mode.runs)
				require.Len(t, a.lines.of("revoke"), mode.runs)
			})
		}
	}
}

func TestRevokeMidstEchoTLS(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			a := newApp(t, lib.echo, appOptions{tls: true, sockets: patientSockets})
			for range runs / 4 {
				a.echoUntilRevoked(t, false)
			}
		})
	}
}

// requireEchoes fails unless a message comes back, and is compressed both ways
// where it should be: what was only negotiated proves little.
func (a *app) requireEchoes(t *testing.T, deflate bool) {
	dialer := gorilla.Dialer{WriteBufferSize: 1 << 19, EnableCompression: deflate}
	c, _, err := dialer.Dial(a.url(t, a.session(), "u"), nil)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.WriteMessage(gorilla.BinaryMessage, message()))
	_, got, err := c.ReadMessage()
	require.NoError(t, err)
	require.True(t, bytes.Equal(message(), got))
	for info := range a.sockets.All() {
		if deflate {
			require.Less(t, info.BytesIn, int64(len(got)/2), "what the page sent")
			require.Less(t, info.BytesOut, int64(len(got)/2), "what came back")
		}
	}
	c.Close()
	eventually(t, "its end", func() bool { return len(a.lines.of("ws_closed")) == 1 })
}

func (a *app) echoUntilRevoked(t *testing.T, deflate bool) {
	session := a.session()
	// From before the first echo to some echoes later, at any byte.
	at := rand.Int64N(900_000)
	if deflate {
		at /= 9
	}
	count := &countingConn{}
	dialer := gorilla.Dialer{
		WriteBufferSize:   1 << 19, // one frame a message: x/net hands on frame by frame
		EnableCompression: deflate,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		NetDial: func(network, addr string) (net.Conn, error) {
			c, err := net.Dial(network, addr)
			count.Conn = c
			return count, err
		},
	}
	c, res, err := dialer.Dial(a.url(t, session, "u"), nil)
	require.NoError(t, err)
	defer c.Close()
	extensions := res.Header.Get("Sec-WebSocket-Extensions")
	require.Equal(t, deflate, strings.HasPrefix(extensions, "permessage-deflate"),
		"RFC 7692 section 5")

	revoked := make(chan struct{})
	count.watch(at, func() {
		go func() {
			defer close(revoked)
			a.revoke(t, tickets.Revocation{SessionID: session, Reason: "test"})
		}()
	})
	msg := message()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for c.WriteMessage(gorilla.BinaryMessage, msg) == nil {
		}
	}()
	err = readEchoes(c, msg)
	require.Nil(t, count.then.Load(), "ended by itself: %v", err)
	<-revoked
	c.Close()
	<-written
	var closed *gorilla.CloseError
	require.ErrorAs(t, err, &closed, "revoked at byte %d", at)
	require.Equal(t, 4401, closed.Code, "revoked at byte %d", at)
	require.Equal(t, "session_revoked", closed.Text)
}

func readEchoes(c *gorilla.Conn, want []byte) error {
	for {
		_, got, err := c.ReadMessage()
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("echo of %d bytes differs from the %d sent", len(got), len(want))
		}
	}
}

// message is 300 kB, an eighth of which deflate cannot make smaller: it is slow
// under the race detector, and frames are what this is about.
var message = sync.OnceValue(func() []byte {
	b := make([]byte, 300_000)
	for i := range b {
		if i&0x1c00 == 0 {
			b[i] = byte(rand.Uint32())
		}
	}
	return b
})

// countingConn calls back once so many bytes have been read.
type countingConn struct {
	net.Conn
	left atomic.Int64
	then atomic.Pointer[func()]
}

func (c *countingConn) watch(n int64, then func()) {
	c.left.Store(n)
	c.then.Store(&then)
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if then := c.then.Load(); then != nil && c.left.Add(-int64(n)) <= 0 {
		if then = c.then.Swap(nil); then != nil {
			(*then)()
		}
	}
	return n, err
}
