package compat

import (
	"bytes"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// times is how often a test with chance in it runs: few times by default, and as
// often as it takes to be sure with ENDINGS_LONG=1.
func times(short, long int) int {
	if os.Getenv("ENDINGS_LONG") != "" {
		return long
	}
	return short
}

var transports = []struct {
	name string
	tls  bool
}{{"plain", false}, {"tls", true}}

// HOSTILE W35: whatever a handler does when its context ends, the page sees 4401.
func TestRevoke_PageSees4401WhateverFollowsTheContext(t *testing.T) {
	for _, f := range followers {
		for _, transport := range transports {
			t.Run(f.name+"/"+transport.name, func(t *testing.T) {
				revokeOften(t, f, transport.tls, times(2, 100), true)
			})
		}
	}
}

// 100 kB messages in both directions while the session is revoked.
func TestRevoke_PageSees4401MidstEcho(t *testing.T) {
	plain := make(map[string]follower)
	for _, lib := range libraries {
		plain[lib.name] = follower{make: handler(lib.echo.ServeHTTP)}
	}
	plain["reverse_proxy"] = followerNamed("reverse proxy")
	for name, f := range plain {
		for _, transport := range transports {
			t.Run(name+"/"+transport.name, func(t *testing.T) {
				revokeOften(t, f, transport.tls, times(3, 50), false)
			})
			t.Run(name+"/"+transport.name+"/closes at once", func(t *testing.T) {
				revokeOften(t, followerNamed(closers[name]), transport.tls, times(3, 50), false)
			})
		}
	}
}

// patientSockets waits for a frame that has begun as long as a slow machine may
// take to send it.
var patientSockets = middleware.SocketsOptions{CloseGrace: patience}

// revokeOften revokes n sockets, every other one of them quiet if quietToo: what a
// handler says first is not held back by what it writes then.
func revokeOften(t *testing.T, f follower, overTLS bool, n int, quietToo bool) {
	a := newApp(t, f.make(t), appOptions{tls: overTLS, sockets: patientSockets})
	lost := 0
	for i := range n {
		quiet := quietToo && i%2 == 1 && !f.pushes
		if err := a.revokedMidst(t, f.pushes, quiet); !isClose(err, 4401, "session_revoked") {
			t.Errorf("the page saw %v", err)
			lost++
		}
	}
	require.Zero(t, lost, "of %d pages", n)
	eventually(t, "the last line", func() bool { return len(a.lines.of("ws_closed")) == n })
	for _, line := range a.lines.of("ws_closed") {
		require.Equal(t, "session_revoked", line["reason"])
		require.EqualValues(t, 4401, line["close_code"])
	}
}

func isClose(err error, code int, reason string) bool {
	closed, ok := err.(*gorilla.CloseError)
	return ok && closed.Code == code && closed.Text == reason
}

// messageSize is that of the pages' messages.
const messageSize = 100_000

var pageMessage = sync.OnceValue(func() []byte { return message()[:messageSize] })

// revokedMidst opens a socket, revokes its session while messages are on their
// way, and returns with what the page's reading ended. A quiet page sends none.
func (a *app) revokedMidst(t *testing.T, pushes, quiet bool) error {
	session := a.session()
	count := &countingConn{}
	dialer := gorilla.Dialer{
		WriteBufferSize: 1 << 19, // one frame a message: x/net hands on frame by frame
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		NetDial: func(network, addr string) (net.Conn, error) {
			c, err := net.Dial(network, addr)
			count.Conn = c
			return count, err
		},
	}
	c, _, err := dialer.Dial(a.url(t, session, "u"), nil)
	require.NoError(t, err)
	defer c.Close()
	revoked := make(chan struct{})
	revoke := func() {
		go func() {
			defer close(revoked)
			a.revoke(t, tickets.Revocation{SessionID: session, Reason: "test"})
		}()
	}
	if quiet {
		eventually(t, "the hijack", func() bool { return a.sockets.Len() == 1 })
		revoke()
	} else {
		count.watch(rand.Int64N(600_000), revoke)
	}
	var writing sync.WaitGroup
	if !pushes && !quiet {
		writing.Go(func() {
			for c.WriteMessage(gorilla.BinaryMessage, pageMessage()) == nil {
			}
		})
	}
	want := pageMessage()
	if pushes {
		want = pushed()
	}
	for err == nil {
		var got []byte
		if _, got, err = c.ReadMessage(); err == nil && !bytes.Equal(got, want) {
			t.Errorf("a message of %d bytes differs from the %d expected", len(got), len(want))
		}
	}
	if count.then.Load() != nil {
		require.Fail(t, "the socket ended by itself", "%v", err)
	}
	<-revoked
	c.Close()
	writing.Wait()
	return err
}
