package compat

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	nbio "github.com/lesismal/nbio/nbhttp/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"
	xnet "golang.org/x/net/websocket"
)

// A follower is a handler that acts on its context, in one of the ways in which
// applications do. It echoes, or pushes messages of its own.
type follower struct {
	name   string
	pushes bool // 256 kB messages; the page sends nothing
	make   func(t *testing.T) http.Handler
}

func handler(h http.HandlerFunc) func(*testing.T) http.Handler {
	return func(*testing.T) http.Handler { return h }
}

var followers = []follower{
	{"coder reads and writes with it", false, handler(coderPlain.ServeHTTP)},
	{"coder closes at once", false, handler(coderFollows(func(ctx context.Context, c *coder.Conn) {
		<-ctx.Done()
		_ = c.CloseNow()
	}))},
	{"coder says goodbye", false, handler(coderFollows(func(ctx context.Context, c *coder.Conn) {
		context.AfterFunc(ctx, func() { _ = c.Close(coder.StatusGoingAway, "goodbye") })
	}))},
	{"coder under 1,000 children", false, handler(coderFollows(thousandChildren))},
	{"coder's NetConn", false, handler(coderNetConn)},
	{"coder's CloseRead", true, handler(coderCloseRead)},
	{"coder in an errgroup", false, handler(coderErrgroup)},
	{"gorilla closes at once", false, handler(gorillaFollows(func(c *gorilla.Conn) {
		_ = c.Close()
	}))},
	{"gorilla closes what is below", false, handler(gorillaFollows(func(c *gorilla.Conn) {
		_ = c.NetConn().Close()
	}))},
	{"gorilla says goodbye", false, handler(gorillaFollows(func(c *gorilla.Conn) {
		goodbye := gorilla.FormatCloseMessage(1001, "goodbye")
		_ = c.WriteControl(gorilla.CloseMessage, goodbye, time.Now().Add(time.Second))
		_ = c.Close()
	}))},
	{"gorilla stops reading", false, handler(gorillaFollows(func(c *gorilla.Conn) {
		_ = c.SetReadDeadline(time.Now())
	}))},
	{"gorilla with two pumps", false, handler(gorillaPumps)},
	{"gobwas closes at once", false, handler(gobwasFollows(func(_ *sync.Mutex, c net.Conn) {
		_ = c.Close()
	}))},
	{"gobwas says goodbye", false, handler(gobwasFollows(func(writing *sync.Mutex, c net.Conn) {
		writing.Lock()
		_ = ws.WriteFrame(c, ws.NewCloseFrame(ws.NewCloseFrameBody(1001, "goodbye")))
		writing.Unlock()
		_ = c.Close()
	}))},
	{"gws closes at once", false, handler(gwsFollows(func(c *gws.Conn) {
		_ = c.NetConn().Close()
	}))},
	{"gws says goodbye", false, handler(gwsFollows(func(c *gws.Conn) {
		_ = c.WriteClose(1001, []byte("goodbye"))
	}))},
	{"x_net closes at once", false, handler(xnetFollows(func(c *xnet.Conn) { _ = c.Close() }))},
	{"x_net runs out of time", false, handler(xnetFollows(func(c *xnet.Conn) {
		_ = c.SetDeadline(time.Now())
	}))},
	{"melody closes at once", false, melodyFollows(func(s *melody.Session) { _ = s.Close() })},
	{"melody says goodbye", false, melodyFollows(func(s *melody.Session) {
		_ = s.CloseWithMsg(melody.FormatCloseMessage(1001, "goodbye"))
	})},
	{"nbio closes at once", false, handler(nbioFollows(func(c *nbio.Conn) {
		_ = c.Close()
	}))},
	{"nbio says goodbye", false, handler(nbioFollows(func(c *nbio.Conn) {
		_ = c.WriteClose(1001, "goodbye")
	}))},
	{"reverse proxy", false, func(t *testing.T) http.Handler { return proxied(t, coderPlain) }},
	{"reverse proxy of pushes", true, func(t *testing.T) http.Handler {
		return proxied(t, http.HandlerFunc(coderCloseRead))
	}},
	{"frames by hand close at once", true, handler(pushByHand(func(_ *sync.Mutex, c net.Conn) {
		_ = c.Close()
	}))},
	{"frames by hand stop at once", true, handler(pushByHand(nil))},
	{"frames by hand say goodbye", true, handler(pushByHand(func(writing *sync.Mutex, c net.Conn) {
		writing.Lock()
		_, _ = c.Write([]byte{0x88, 2, 0x03, 0xe9})
		writing.Unlock()
		_ = c.Close()
	}))},
}

var coderPlain = coderEcho(coder.CompressionDisabled)

// closers are the libraries' echoes that select on the context, and close their
// connection at once.
var closers = map[string]string{
	"coder": "coder closes at once", "gorilla": "gorilla closes at once",
	"gobwas": "gobwas closes at once", "gws": "gws closes at once",
	"x_net": "x_net closes at once", "reverse_proxy": "reverse proxy",
}

func followerNamed(name string) follower {
	for _, f := range followers {
		if f.name == name {
			return f
		}
	}
	panic("no follower is called " + name)
}
