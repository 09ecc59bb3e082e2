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

// idleBytes returns the live bytes of one idle socket, by the second n of them:
// what came before is garbage by then. A ticket is the store's for its minute,
// so it is there beforehand. Stacks are left out: what the runtime keeps of those
// that have ended is a multiple of the difference.
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

// idle holds a socket and waits for what never comes.
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
	var err error
	if guarded {
		app.issuer, err = tickets.NewIssuer(tickets.NewMemoryStore(nil), &tickets.IssuerOptions{MaxPerSession: 1 << 20})
		require.NoError(b, err)
		app.guard, err = middleware.NewGuard(app.issuer, &middleware.GuardOptions{Audit: quiet})
		require.NoError(b, err)
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

// BenchmarkRevokeTenThousand revokes a person with ten thousand idle sockets,
// and reports when the last page has been told and the last socket is gone: 2 s
// at most on two cores. The pages are in a process of their own, which has
// descriptors of its own.
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

// TestPagesProcess is the other process of BenchmarkRevokeTenThousand, and
// nothing by itself.
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
		_, err = io.WriteString(c, handshake(targets.Text()))
		require.NoError(t, err)
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

// BenchmarkEcho echoes messages through a bare and through a guarded socket by
// turns, and reports the guarded one's throughput as a share of the bare one's:
// 0.97 at least. It is of the medians, because other work on the machine hits
// both, but not evenly.
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
