package compat

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	xnet "golang.org/x/net/websocket"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// HOSTILE W34: whatever the peer does while a socket is closed, no goroutine is
// left of it, ours or the library's, and no descriptor for longer than CloseGrace.

// A duplex handler reads in one goroutine and writes without end in another: it is
// in the middle of a frame when a peer reads nothing.
var duplexes = []struct {
	name string
	make func(t *testing.T) http.Handler
}{
	{"coder", handler(duplexCoder)},
	{"gorilla", handler(duplexGorilla)},
	{"gobwas", handler(duplexGobwas)},
	{"gws", handler(duplexGws)},
	{"x_net", handler(xnet.Server{Handler: duplexXnet}.ServeHTTP)},
	{"reverse_proxy", func(t *testing.T) http.Handler {
		return proxied(t, http.HandlerFunc(duplexCoder))
	}},
}

// duplex writes without end in this goroutine and reads in another one, and waits
// for both.
func duplex(read, write func() error, closing func()) {
	var reading sync.WaitGroup
	reading.Go(func() {
		for read() == nil {
		}
	})
	for write() == nil {
	}
	closing()
	reading.Wait()
}

func duplexCoder(w http.ResponseWriter, r *http.Request) {
	c := coderAccept(w, r)
	if c == nil {
		return
	}
	ctx := context.WithoutCancel(r.Context()) // or the library would wake by itself
	duplex(func() error {
		_, _, err := c.Read(ctx)
		return err
	}, func() error {
		return c.Write(ctx, coder.MessageBinary, unsendable())
	}, func() { _ = c.CloseNow() })
}

func duplexGorilla(w http.ResponseWriter, r *http.Request) {
	c, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	duplex(func() error {
		_, _, err := c.ReadMessage()
		return err
	}, func() error {
		return c.WriteMessage(gorilla.BinaryMessage, unsendable())
	}, func() { _ = c.Close() })
}

func duplexGobwas(w http.ResponseWriter, r *http.Request) {
	c, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	go duplex(func() error {
		_, _, err := wsutil.ReadClientData(c)
		return err
	}, func() error {
		return wsutil.WriteServerBinary(c, unsendable())
	}, func() { _ = c.Close() })
}

func duplexGws(w http.ResponseWriter, r *http.Request) {
	options := &gws.ServerOption{ReadMaxPayloadSize: maxMessage}
	u := gws.NewUpgrader(gws.BuiltinEventHandler{}, options)
	c, err := u.Upgrade(w, r)
	if err != nil {
		return
	}
	go duplex(func() error {
		c.ReadLoop()
		return io.EOF
	}, func() error {
		return c.WriteMessage(gws.OpcodeBinary, unsendable())
	}, func() { _ = c.NetConn().Close() })
}

func duplexXnet(c *xnet.Conn) {
	duplex(func() error {
		var msg []byte
		return xnet.Message.Receive(c, &msg)
	}, func() error {
		return xnet.Message.Send(c, unsendable())
	}, func() { _ = c.Close() })
}

// unsendable is a message that no buffer on the way can hold.
var unsendable = sync.OnceValue(func() []byte { return make([]byte, 8<<20) })

// The peers. Each begins when its socket is open; ending is closed when its socket
// is being closed, and its connection when all is over.
var badPeers = []struct {
	name string
	be   func(c *gorilla.Conn, ending <-chan struct{})
}{
	{"resets", func(c *gorilla.Conn, ending <-chan struct{}) {
		<-ending
		tcp := tcpOf(c.NetConn())
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}},
	{"reads nothing", func(*gorilla.Conn, <-chan struct{}) {}},
	{"floods", func(c *gorilla.Conn, _ <-chan struct{}) {
		for c.WriteMessage(gorilla.BinaryMessage, pageMessage()) == nil {
		}
	}},
}

func tcpOf(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// The ends, of a session's one socket.
var ends = []struct {
	name string
	end  func(t *testing.T, a *app, session string)
}{
	{"revoked", func(t *testing.T, a *app, session string) {
		a.revoke(t, tickets.Revocation{SessionID: session})
	}},
	{"evicted", func(t *testing.T, a *app, session string) {
		c := a.dialAny(t, session)
		eventually(t, "the newer socket", func() bool { return len(a.lines.of("ws_opened")) == 2 })
		c.Close()
	}},
	{"shut down hard", func(t *testing.T, a *app, _ string) {
		done, cancel := context.WithCancel(t.Context())
		cancel()
		_ = a.sockets.Shutdown(done)
	}},
}

func (a *app) dialAny(t *testing.T, session string) *gorilla.Conn {
	dialer := gorilla.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	c, _, err := dialer.Dial(a.url(t, session, "u"), nil)
	require.NoError(t, err)
	return c
}

func TestClose_LeavesNothing(t *testing.T) {
	for _, d := range duplexes {
		for _, peer := range badPeers {
			for _, end := range ends {
				for i := range times(1, 12) {
					before := goleak.IgnoreCurrent()
					t.Run(d.name+"/"+peer.name+"/"+end.name, func(t *testing.T) {
						endBadly(t, d.make(t), i%2 == 1, peer.be, end.end)
					})
					requireNoneLeft(t, before) // the server is closed
				}
			}
		}
	}
}

func requireNoneLeft(t *testing.T, before goleak.Option) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = goleak.Find(before); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// endBadly closes a socket whose peer is in the way.
func endBadly(t *testing.T, h http.Handler, overTLS bool,
	be func(*gorilla.Conn, <-chan struct{}), end func(*testing.T, *app, string)) {
	fds := &descriptors{}
	a := newApp(t, h, appOptions{
		tls: overTLS, connState: fds.watch,
		sockets: middleware.SocketsOptions{
			MaxPerSession: 1, EvictOldest: true, CloseGrace: 50 * time.Millisecond,
		},
	})
	session := a.session()
	c := a.dialAny(t, session)
	ending := make(chan struct{})
	var peer sync.WaitGroup
	peer.Go(func() { be(c, ending) })
	time.Sleep(5 * time.Millisecond) // the handler's frame fills every buffer on the way
	end(t, a, session)
	close(ending)
	eventually(t, "the closed descriptor", func() bool { return fds.open() == 0 })
	require.NoError(t, a.sockets.Shutdown(t.Context()), "nothing is left to wait for")
	require.Zero(t, a.sockets.Len())
	c.Close()
	peer.Wait()
	require.Len(t, a.lines.of("ws_closed"), len(a.lines.of("ws_opened")))
}

// descriptors are the server's ends of the connections that were hijacked.
type descriptors struct {
	mu    sync.Mutex
	conns []*net.TCPConn
}

func (d *descriptors) watch(c net.Conn, state http.ConnState) {
	if state == http.StateHijacked {
		d.mu.Lock()
		d.conns = append(d.conns, tcpOf(c))
		d.mu.Unlock()
	}
}

// open returns how many of them are not closed yet.
func (d *descriptors) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.conns {
		raw, err := c.SyscallConn()
		if err == nil && raw.Control(func(uintptr) {}) == nil {
			n++
		}
	}
	return n
}
