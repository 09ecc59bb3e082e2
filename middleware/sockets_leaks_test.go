package middleware_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// HOSTILE W34: whatever peer and handler do during a close, no goroutine is left, and
// no descriptor for longer than CloseGrace.

// times is how often a test with chance in it runs: ENDINGS_LONG=1 runs it often.
func times(short, long int) int {
	if os.Getenv("ENDINGS_LONG") != "" {
		return long
	}
	return short
}

// goroutines has the ids of all goroutines, and their stacks.
func goroutines() map[string]string {
	all := make(map[string]string)
	for stack := range strings.SplitSeq(allStacks(), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		all[id] = stack
	}
	return all
}

// requireNoneLeft fails if a goroutine lives on that is not in before.
func requireNoneLeft(t *testing.T, before map[string]string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		left = left[:0]
		for id, stack := range goroutines() {
			if _, ok := before[id]; !ok && !isOfTheRun(stack) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			require.Fail(t, "goroutines are left", "%s", strings.Join(left, "\n\n"))
		}
	}
}

// descriptors are the server's ends of the connections that were hijacked.
type descriptors struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (d *descriptors) watch(c net.Conn, state http.ConnState) {
	if state != http.StateHijacked {
		return
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	d.mu.Lock()
	d.conns = append(d.conns, c)
	d.mu.Unlock()
}

// open returns how many of them are not closed yet.
func (d *descriptors) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.conns {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil && raw.Control(func(uintptr) {}) == nil {
			n++
		}
	}
	return n
}

// big is a frame that no buffer on the way can hold.
var big = sync.OnceValue(func() []byte { return wire(2, strings.Repeat("x", 4<<20)) })

// duplexByHand reads and writes frames by hand at the same time, mostly in the middle
// of one.
func duplexByHand(w http.ResponseWriter, _ *http.Request) {
	if conn, rw, err := upgradeByHand(w, 1000); err == nil {
		duplex(conn, rw)
	}
}

// leavesByHand does so in a goroutine of its own.
func leavesByHand(w http.ResponseWriter, _ *http.Request) {
	if conn, rw, err := upgradeByHand(w, 1000); err == nil {
		go duplex(conn, rw)
	}
}

func duplex(conn net.Conn, r io.Reader) {
	defer conn.Close()
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(io.Discard, r) })
	for err := error(nil); err == nil; {
		_, err = conn.Write(big())
	}
	reading.Wait()
}

// idleByHand does nothing until its reading ends.
func idleByHand(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := upgradeByHand(w, 1000)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(io.Discard, rw)
}

// duplexOfCoder is duplexByHand with a library.
func duplexOfCoder(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	var reading sync.WaitGroup
	reading.Go(func() {
		for err := error(nil); err == nil; {
			_, _, err = c.Read(context.WithoutCancel(r.Context()))
		}
	})
	for err == nil {
		err = c.Write(context.WithoutCancel(r.Context()), websocket.MessageBinary, big())
	}
	_ = c.CloseNow()
	reading.Wait()
}

// proxyTo is a reverse proxy in front of a server of its own.
func proxyTo(t *testing.T, backend http.HandlerFunc) http.Handler {
	server := httptest.NewServer(backend)
	t.Cleanup(server.Close)
	target := must(url.Parse(server.URL))
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	return proxy
}

// The peers. Each runs until the test closes its connection, or stop.
var badPeers = []struct {
	name string
	be   func(p *page, stop <-chan struct{})
}{
	{"reads nothing", func(_ *page, stop <-chan struct{}) { <-stop }},
	{"resets", func(p *page, stop <-chan struct{}) {
		<-stop
		tcpOf(p.Conn).SetLinger(0)
		_ = tcpOf(p.Conn).Close()
	}},
	{"floods and reads nothing", func(p *page, _ <-chan struct{}) { flood(p) }},
	{"floods", func(p *page, _ <-chan struct{}) {
		go func() { _, _ = io.Copy(io.Discard, p.br) }()
		flood(p)
	}},
	{"half closes and reads nothing", func(p *page, stop <-chan struct{}) {
		_ = tcpOf(p.Conn).CloseWrite()
		<-stop
	}},
}

func tcpOf(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// flood writes masked frames until its connection is closed.
func flood(p *page) {
	frame := append([]byte{0x82, 0xfe, 0x10, 0, 0, 0, 0, 0}, make([]byte, 1<<12)...)
	for {
		if _, err := p.Write(frame); err != nil {
			return
		}
	}
}

// The ends, of the one socket that app has.
var hardEnds = []struct {
	name string
	end  func(t *testing.T, app *socketApp)
}{
	{"revoked", func(t *testing.T, app *socketApp) { revokeAnn(t, app) }},
	{"evicted", func(t *testing.T, app *socketApp) {
		p := app.live(t, annsGrant())
		eventually(t, "the eviction", func() bool { return app.sockets.Len() == 1 })
		p.Close()
	}},
	{"shut down hard", func(t *testing.T, app *socketApp) {
		done, cancel := context.WithCancel(t.Context())
		cancel()
		_ = app.sockets.Shutdown(done)
	}},
	{"shut down hard while it closes", func(t *testing.T, app *socketApp) {
		app.sockets.CloseUser("oidc", "ann", "")
		done, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_ = app.sockets.Shutdown(done)
	}},
}

func plainHandler(h http.HandlerFunc) func(*testing.T) http.Handler {
	return func(*testing.T) http.Handler { return h }
}

func TestClose_LeavesNothing(t *testing.T) {
	for _, h := range []struct {
		name string
		make func(t *testing.T) http.Handler
	}{
		{"frames by hand", plainHandler(duplexByHand)},
		{"only reads", plainHandler(idleByHand)},
		{"handler returns", plainHandler(leavesByHand)},
		{"coder", plainHandler(duplexOfCoder)},
		{"reverse proxy", func(t *testing.T) http.Handler { return proxyTo(t, duplexOfCoder) }},
	} {
		for _, peer := range badPeers {
			for _, end := range hardEnds {
				name := fmt.Sprintf("%s/%s/%s", h.name, peer.name, end.name)
				for i := range times(1, 5) {
					before := goroutines()
					t.Run(name, func(t *testing.T) {
						endBadly(t, h.make(t), i%2 == 1, peer.be, end.end)
					})
					requireNoneLeft(t, before) // the server is closed
				}
			}
		}
	}
}

// endBadly closes a socket whose handler and peer are in the way.
func endBadly(t *testing.T, h http.Handler, overTLS bool, be func(*page, <-chan struct{}),
	end func(*testing.T, *socketApp)) {
	grace := 50 * time.Millisecond
	app := newSocketApp(t, nil, socketAppOptions{tls: overTLS, sockets: middleware.SocketsOptions{
		MaxPerSession: 1, EvictOldest: true, CloseGrace: grace}})
	fds := &descriptors{}
	app.connState = fds.watch
	app.serve(t, app.guard.Wrap(h), true)
	p := app.live(t, annsGrant())
	stop := make(chan struct{})
	var peer sync.WaitGroup
	peer.Go(func() { be(p, stop) })
	// The handler's frame fills every buffer on the way, or the page's does.
	time.Sleep(5 * time.Millisecond)
	end(t, app)
	close(stop)
	eventually(t, "the closed descriptor", func() bool { return fds.open() == 0 })
	require.NoError(t, app.sockets.Shutdown(t.Context()), "nothing is left to wait for")
	p.Close()
	peer.Wait()
}

// A guarded socket has no goroutine beyond those of its library and its
// handler, whatever these do with its context.
func TestGuard_AddsNoGoroutinePerSocket(t *testing.T) {
	const n = 40
	for _, tt := range []struct {
		name string
		h    http.Handler
	}{
		{"a library that reads with the context", &echoes{}},
		{"a handler that returns at once", byHand(t, func(net.Conn, *http.Request) {})},
		{"contexts made of its context", byHand(t, func(c net.Conn, r *http.Request) {
			defer c.Close()
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(ctx, func() {})()
			_, _ = c.Read(make([]byte, 1))
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			count := func(guarded bool) (more int) {
				synctest.Test(t, func(t *testing.T) {
					app := newSocketApp(t, nil, socketAppOptions{
						sockets: middleware.SocketsOptions{RecheckEvery: time.Hour}})
					h := tt.h
					if guarded {
						h = app.guard.Wrap(h)
					}
					app.serve(t, h, false)
					synctest.Wait()
					before := runtime.NumGoroutine()
					for i := range n {
						g := annsGrant()
						g.SessionID += strconv.Itoa(i)
						p := app.open(t, g)
						require.Equal(t, http.StatusSwitchingProtocols, p.status)
					}
					synctest.Wait() // all that are left are waiting
					more = runtime.NumGoroutine() - before
				})
				return more
			}
			bare, guarded := count(false), count(true)
			// Goroutines of an earlier test may end just now: half of one each is tolerated.
			require.Less(t, guarded, bare+n/2,
				"%d sockets have %d goroutines without the guard", n, bare)
		})
	}
}
