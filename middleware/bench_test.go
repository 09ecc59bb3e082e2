package middleware_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// opaque hides a handler from the compiler, which would put the copy of the request on the
// stack. It cannot in a program that chains handlers.
var opaque http.Handler

// BenchmarkGatePass measures a request that a Gate lets through, over CookieSessions and a
// map. The floor is a bare r.WithContext, which every middleware that passes on a value
// needs. They take turns, so that other work on the machine hits both. "ratio" is the gate's
// time over the floor's; "with-value" is the floor with the context's value over the floor.
func BenchmarkGatePass(b *testing.B) {
	for _, c := range []struct {
		name    string
		cookies string
		end     time.Time
	}{
		{name: "one cookie", cookies: "sid=" + goodCookie},
		{name: "five cookies, session with an end", end: time.Now().Add(time.Hour),
			cookies: "_ga=GA1.1.1234567890.1234567890; theme=dark; sid=" + goodCookie +
				"; lang=en-GB; csrf=0123456789abcdef"},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := ann()
			s.ExpiresAt = c.end
			sessions := map[string]*middleware.Session{goodCookie: s}
			lookup := func(_ context.Context, value string) (*middleware.Session, error) {
				return sessions[value], nil
			}
			sessionsByCookie := middleware.CookieSessions("sid", lookup)
			gate := must(middleware.NewGate(sessionsByCookie, &middleware.GateOptions{
				LoginURL: "/login", Public: []string{"/static/"}, Audit: quiet,
			}))
			reached := 0
			next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ })
			opaque = next
			type key struct{}
			ctx := context.WithValue(b.Context(), key{}, s)
			handlers := []http.Handler{
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					opaque.ServeHTTP(w, r.WithContext(ctx))
				}),
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					opaque.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, s)))
				}),
				gate.Wrap(next),
			}
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/dashboard", nil)
			r.Header.Set("Cookie", c.cookies)

			const turn = 1000
			took := make([]time.Duration, len(handlers))
			n := 0
			for b.Loop() {
				n++
				for i, h := range handlers {
					start := time.Now()
					for range turn {
						h.ServeHTTP(w, r)
					}
					took[i] += time.Since(start)
				}
			}
			if reached != len(handlers)*turn*n {
				b.Fatalf("%d of %d came in", reached, len(handlers)*turn*n)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(turn*n), "floor-ns")
			b.ReportMetric(float64(took[2].Nanoseconds())/float64(turn*n), "gate-ns")
			b.ReportMetric(float64(took[1])/float64(took[0]), "with-value")
			b.ReportMetric(float64(took[2])/float64(took[0]), "ratio")
		})
	}
}

func benchGuard(tb testing.TB, opts middleware.GuardOptions) (*middleware.Guard, *tickets.Issuer) {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1 << 30})
	issuer := must(tickets.NewIssuer(store, &tickets.IssuerOptions{MaxPerSession: 1 << 20}))
	opts.Audit = quiet
	return must(middleware.NewGuard(issuer, &opts)), issuer
}

// BenchmarkUpgrade is the rate of guarded upgrades over loopback beside that of unguarded
// ones, by turns and by medians: "guarded/unguarded" is 1 where the guard costs nothing. The
// clients are a WebSocket library, and a bare one that only writes and reads bytes.
func BenchmarkUpgrade(b *testing.B) {
	guard, issuer := benchGuard(b, middleware.GuardOptions{})
	accept := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := websocket.Accept(w, r, nil); err == nil {
			_ = c.CloseNow()
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/ws", guard.Wrap(accept))
	mux.Handle("/no", accept)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	buf := make([]byte, 1024)
	bare := func(target string) {
		conn := must(net.Dial("tcp", srv.Listener.Addr().String()))
		defer conn.Close()
		must(io.WriteString(conn, upgrade("GET", target)))
		n, err := conn.Read(buf)
		if !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101 ") {
			b.Fatalf("%q, %v", buf[:n], err)
		}
		for err == nil { // until the server has closed: its end costs the next one nothing
			_, err = conn.Read(buf)
		}
	}
	library := func(target string) {
		c, _, err := websocket.Dial(b.Context(), srv.URL+target, nil)
		if err != nil {
			b.Fatal(err)
		}
		_, _, _ = c.Read(b.Context())
		_ = c.CloseNow()
	}
	for name, once := range map[string]func(target string){"bare": bare, "library": library} {
		b.Run(name, func(b *testing.B) {
			var guarded, unguarded []time.Duration
			run := func(took *[]time.Duration, target string) {
				start := time.Now()
				once(target)
				*took = append(*took, time.Since(start))
			}
			other := "/no?ticket=" + strings.Repeat("A", 43) // of the same length
			for i := 0; b.Loop(); i++ {
				target := "/ws?ticket=" +
					string(must(issuer.Mint(b.Context(), tickets.Grant{UserID: "ann"})))
				if i%2 == 0 { // neither always follows the other
					run(&guarded, target)
				}
				run(&unguarded, other)
				if i%2 == 1 {
					run(&guarded, target)
				}
			}
			slices.Sort(guarded)
			slices.Sort(unguarded)
			g, u := float64(guarded[len(guarded)/2]), float64(unguarded[len(unguarded)/2])
			b.ReportMetric(u/g, "guarded/unguarded")
			b.ReportMetric(g, "guarded-ns")
			b.ReportMetric(u, "unguarded-ns")
		})
	}
}

// nowhere is a ResponseWriter that costs nothing but its header.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}

// badUpgrades are bad upgrades of every kind.
var badUpgrades = []struct{ name, request string }{
	{"no upgrade", get("/ws")},
	{"version", upgrade("GET", "/ws", "Sec-WebSocket-Version: 8")},
	{"no ticket", upgrade("GET", "/ws")},
	{"two tickets", upgrade("GET", "/ws?ticket="+minted+"&ticket="+minted)},
	{"malformed ticket", upgrade("GET", "/ws?ticket=a")},
	{"unknown ticket", upgrade("GET", "/ws?ticket="+strings.Repeat("A", 43))},
	{"own origin", upgrade("GET", "/ws", "Origin: http://app.example")},
	{"origin", upgrade("GET", "/ws?ticket="+minted, evilOrigin)},
}

// saysNothing is an OnReject without an answer.
func saysNothing(http.ResponseWriter, *http.Request, *middleware.Rejection) {}

// doesNothing is a handler without an answer.
func doesNothing(http.ResponseWriter, *http.Request) {}

// pageRequest is a request of no concern to a guard.
var pageRequest = get("/page?a=1&b=2", "Accept: text/html", "Connection: keep-alive",
	"Referer: https://app.example/page?c=3")

// BenchmarkRefuse is what a bad upgrade costs: the decision alone, and with the
// audit's line and the answer.
func BenchmarkRefuse(b *testing.B) {
	guard, _ := benchGuard(b, middleware.GuardOptions{})
	silent, _ := benchGuard(b, middleware.GuardOptions{OnReject: saysNothing})
	for _, bad := range badUpgrades {
		r := readRequest(bad.request)
		for name, h := range map[string]http.Handler{
			"decision": silent.Wrap(accepts), "answered": guard.Wrap(accepts),
		} {
			b.Run(bad.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				w := &nowhere{header: make(http.Header)}
				for b.Loop() {
					clear(w.header)
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}

// BenchmarkPass is the cost of a request that is no upgrade.
func BenchmarkPass(b *testing.B) {
	guard, _ := benchGuard(b, middleware.GuardOptions{PassOthers: true})
	nothing, r := http.HandlerFunc(doesNothing), readRequest(pageRequest)
	for name, h := range map[string]http.Handler{
		"PassOthers": guard.Wrap(nothing), "ConcealTicket": middleware.ConcealTicket(nothing),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(nil, r)
			}
		})
	}
}

// deadResponse is a ResponseWriter whose connection goes nowhere.
type deadResponse struct {
	nowhere
	conn deadConn
	rw   *bufio.ReadWriter
}

func newDeadResponse() *deadResponse {
	rw := bufio.NewReadWriter(bufio.NewReader(nil), bufio.NewWriter(nil))
	return &deadResponse{nowhere: nowhere{make(http.Header)}, rw: rw}
}

func (w *deadResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) { return &w.conn, w.rw, nil }

type deadConn struct{ addr net.TCPAddr }

func (*deadConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (*deadConn) Write(p []byte) (int, error)      { return len(p), nil }
func (*deadConn) Close() error                     { return nil }
func (c *deadConn) LocalAddr() net.Addr            { return &c.addr }
func (c *deadConn) RemoteAddr() net.Addr           { return &c.addr }
func (*deadConn) SetDeadline(time.Time) error      { return nil }
func (*deadConn) SetReadDeadline(time.Time) error  { return nil }
func (*deadConn) SetWriteDeadline(time.Time) error { return nil }

var bareSwitching = []byte("HTTP/1.1 101 Switching Protocols\r\n\r\n")

// opensAndCloses does to a connection what a WebSocket library does, and no more.
var opensAndCloses = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = conn.Write(bareSwitching)
	_ = conn.Close()
})

// upgrades are n requests with a ticket each.
func upgrades(tb testing.TB, issuer *tickets.Issuer, n int) []*http.Request {
	rs := make([]*http.Request, n)
	for i := range rs {
		g := tickets.Grant{SessionID: fmt.Sprint("session-", i), Provider: "oidc", UserID: "ann"}
		t := must(issuer.Mint(tb.Context(), g))
		rs[i] = readRequest(upgrade("GET", "/ws?ticket="+string(t), "Origin: http://app.example"))
	}
	return rs
}

// BenchmarkAdmit measures an admitted upgrade, bare and guarded, from the request to the
// closed connection.
func BenchmarkAdmit(b *testing.B) {
	guard, issuer := benchGuard(b, middleware.GuardOptions{})
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"bare", opensAndCloses}, {"guarded", guard.Wrap(opensAndCloses)}} {
		b.Run(c.name, func(b *testing.B) {
			const batch = 500
			b.ReportAllocs()
			w := newDeadResponse()
			for i := 0; i < b.N; i += batch {
				b.StopTimer()
				rs := upgrades(b, issuer, min(batch, b.N-i))
				b.StartTimer()
				for _, r := range rs {
					c.h.ServeHTTP(w, r)
				}
			}
		})
	}
}

// BenchmarkIdleMemory opens idle sockets, without and with the guard, and
// reports what one costs more: 700 bytes at most.
func BenchmarkIdleMemory(b *testing.B) {
	const n = 2000
	idleBytes(b, n, false) // the runtime keeps what goroutines are made of
	for b.Loop() {
		bare := idleBytes(b, n, false)
		guarded := idleBytes(b, n, true)
		b.ReportMetric(bare, "bare-B/socket")
		b.ReportMetric(guarded, "guarded-B/socket")
		b.ReportMetric(guarded-bare, "more-B/socket")
	}
	b.ReportMetric(0, "ns/op")
}

// idleBytes returns the live bytes of one idle socket, measured over the second n of them.
// Tickets are minted before. Stacks are left out: the runtime keeps those that have ended.
func idleBytes(b *testing.B, n int, guarded bool) float64 {
	var handlers sync.WaitGroup
	app := newBenchApp(b, guarded, idle(&handlers))
	app.mint(b, 2*n)
	app.open(b, n)
	before := liveBytes()
	app.open(b, n)
	after := liveBytes()
	app.close()
	handlers.Wait()
	return float64(int64(after)-int64(before)) / float64(n)
}

// idle holds a socket until its read fails.
func idle(handlers *sync.WaitGroup) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		_, _, _ = c.Read(r.Context())
	})
}

func liveBytes() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchApp is an endpoint, guarded or not, and clients of it that cost nothing
// but their descriptor.
type benchApp struct {
	issuer  *tickets.Issuer
	guard   *middleware.Guard
	server  *httptest.Server
	targets []string
	clients []net.Conn
}

func newBenchApp(b testing.TB, guarded bool, h http.Handler) *benchApp {
	app := &benchApp{}
	if guarded {
		shares := &tickets.IssuerOptions{MaxPerSession: 1 << 20}
		app.issuer = must(tickets.NewIssuer(tickets.NewMemoryStore(nil), shares))
		app.guard = must(middleware.NewGuard(app.issuer, &middleware.GuardOptions{Audit: quiet}))
		h = app.guard.Wrap(h)
	}
	app.server = httptest.NewServer(h)
	return app
}

// mint makes tickets for n sessions of one person.
func (app *benchApp) mint(b testing.TB, n int) {
	for i := range n {
		t := tickets.Ticket(strings.Repeat("x", 43))
		if app.issuer != nil {
			var err error
			t, err = app.issuer.Mint(context.Background(), tickets.Grant{
				SessionID: fmt.Sprintf("session-%d", i), Provider: "oidc", UserID: "ann",
			})
			require.NoError(b, err)
		}
		app.targets = append(app.targets, "/ws?ticket="+string(t))
	}
}

// open opens n sockets with tickets that mint has made.
func (app *benchApp) open(b testing.TB, n int) {
	br := bufio.NewReader(nil)
	for _, target := range app.targets[:n] {
		c, err := net.Dial("tcp", app.server.Listener.Addr().String())
		require.NoError(b, err)
		_, err = io.WriteString(c, handshake(target))
		require.NoError(b, err)
		br.Reset(c)
		res, err := http.ReadResponse(br, nil)
		require.NoError(b, err)
		require.Equal(b, http.StatusSwitchingProtocols, res.StatusCode)
		app.clients = append(app.clients, c)
	}
	app.targets = app.targets[n:]
}

func (app *benchApp) close() {
	for _, c := range app.clients {
		c.Close()
	}
	app.server.Close()
}

// BenchmarkRevokeTenThousand revokes a person with ten thousand idle sockets, and
// reports when the last page is told and the last socket gone: 2 s at most on two
// cores. The pages are a process with descriptors of its own.
func BenchmarkRevokeTenThousand(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		var handlers sync.WaitGroup
		app := newBenchApp(b, true, idle(&handlers))
		app.mint(b, n)
		pages := startPages(b, app)
		for app.guard.Sockets().Len() < n {
			require.NoError(b, pages.await("open"))
		}
		runtime.GC()

		begin := time.Now()
		require.NoError(b, app.issuer.Revoke(context.Background(), allOfAnn))
		returned := time.Since(begin)
		require.NoError(b, pages.await("told"))
		told := time.Since(begin)
		require.NoError(b, app.guard.Sockets().Shutdown(context.Background()))
		b.ReportMetric(returned.Seconds()*1000, "ms-to-return")
		b.ReportMetric(told.Seconds()*1000, "ms-to-told")
		b.ReportMetric(time.Since(begin).Seconds()*1000, "ms-to-gone")
		app.close()
	}
	b.ReportMetric(0, "ns/op")
}

// pages is a process that has opened sockets.
type pages struct{ out *bufio.Reader }

const pagesEnv = "TICKETGATE_TEST_PAGES"

// startPages opens all the tickets that app has minted, from a process of its own.
func startPages(b testing.TB, app *benchApp) *pages {
	cmd := exec.Command(os.Args[0], "-test.run=^TestPagesProcess$")
	cmd.Env = append(os.Environ(), pagesEnv+"="+app.server.Listener.Addr().String())
	cmd.Stdin = strings.NewReader(strings.Join(app.targets, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Wait() })
	app.targets = nil
	return &pages{bufio.NewReader(out)}
}

func (p *pages) await(want string) error {
	got, err := p.out.ReadString('\n')
	if err == nil && got != want+"\n" {
		err = fmt.Errorf("the pages said %q, want %q", got, want)
	}
	return err
}

// TestPagesProcess is the other process of BenchmarkRevokeTenThousand. It is skipped
// otherwise.
func TestPagesProcess(t *testing.T) {
	addr := os.Getenv(pagesEnv)
	if addr == "" {
		t.Skip("started by BenchmarkRevokeTenThousand")
	}
	var told sync.WaitGroup
	targets := bufio.NewScanner(os.Stdin)
	for targets.Scan() {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		write(t, c, handshake(targets.Text()))
		br := bufio.NewReaderSize(c, 512)
		_, err = http.ReadResponse(br, nil)
		require.NoError(t, err)
		told.Go(func() {
			defer c.Close()
			got, err := io.ReadAll(br)
			if err != nil || string(got) != "\x88\x11\x11\x31session_revoked" {
				fmt.Printf("got %q, %v\n", got, err)
			}
		})
	}
	fmt.Println("open")
	told.Wait()
	fmt.Println("told")
}

// BenchmarkEcho echoes messages through a bare and a guarded socket by turns. It reports the
// guarded throughput as a share of the bare one, of the medians: 0.97 at least.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{128, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			sockets := []*websocket.Conn{echoSocket(b, false), echoSocket(b, true)}
			msg := make([]byte, size)
			var times [2][]time.Duration
			const batch = 20
			for i := 0; b.Loop(); i++ {
				for j := range 2 {
					which := (i + j) % 2
					times[which] = append(times[which], echo(b, sockets[which], msg, batch))
				}
			}
			for i := range times {
				slices.Sort(times[i])
			}
			bare, guarded := times[0][len(times[0])/2], times[1][len(times[1])/2]
			b.ReportMetric(float64(bare)/float64(guarded), "of-bare")
			b.ReportMetric(float64(bare.Nanoseconds())/batch, "bare-ns/echo")
			b.ReportMetric(float64(guarded.Nanoseconds())/batch, "guarded-ns/echo")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func echoSocket(b *testing.B, guarded bool) *websocket.Conn {
	app := newBenchApp(b, guarded, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, msg) != nil {
				return
			}
		}
	}))
	app.mint(b, 1)
	c, _, err := websocket.Dial(b.Context(), app.server.URL+app.targets[0], nil)
	require.NoError(b, err)
	c.SetReadLimit(1 << 20)
	b.Cleanup(func() {
		_ = c.CloseNow()
		app.close()
	})
	return c
}

func echo(b *testing.B, c *websocket.Conn, msg []byte, n int) time.Duration {
	ctx := context.Background()
	begin := time.Now()
	for range n {
		if err := c.Write(ctx, websocket.MessageBinary, msg); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Read(ctx); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin)
}
