// Package flood puts a server under floods of requests that it refuses, and looks how honest people
// are served meanwhile, and what is left when the flood is over.
package flood

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

const (
	attackers = 8
	cookie    = "session"
	// How many more than before may be left of goroutines and of the heap when all is over.
	fewGoroutines = 20
	littleHeap    = 32 << 20
	// What an audit file may grow by: floods are counted in it, not written.
	littleLog = 8 << 20
)

// A server as the README builds it, but for the pages.
type server struct {
	addr string
	log  string
	http *http.Server
}

func start(t *testing.T) *server {
	s := &server{log: filepath.Join(t.TempDir(), "auth.log")}
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(t, err)
	events, err := audit.OpenFile(s.log, nil)
	check(t, err)
	lookUp := func(_ context.Context, value string) (*middleware.Session, error) {
		return &middleware.Session{ID: value, UserID: "ada"}, nil
	}
	sessions := middleware.CookieSessions(cookie, lookUp)
	gate, err := middleware.NewGate(sessions, &middleware.GateOptions{Audit: events})
	check(t, err)
	mint, err := middleware.NewMint(issuer, &middleware.MintOptions{Audit: events})
	check(t, err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: events})
	check(t, err)
	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint))
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(echo)))
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // as after a refused upgrade
		w.WriteHeader(http.StatusUnauthorized)
	})
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout: 30 * time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s.addr = l.Addr().String()
	served := make(chan struct{})
	go func() { s.http.Serve(l); close(served) }()
	t.Cleanup(func() {
		check(t, guard.Sockets().Shutdown(context.Background()))
		s.http.Close()
		<-served
		check(t, issuer.Close())
		check(t, events.Close())
	})
	return s
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	kind, message, err := c.Read(r.Context())
	if err == nil && c.Write(r.Context(), kind, message) == nil {
		c.Read(r.Context())
	}
}

func check(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

// honest is one person who asks for a ticket, opens a socket, says something, hears it, and goes.
func (s *server) honest(ctx context.Context, client *http.Client, n int) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"http://"+s.addr+"/api/auth/ws-ticket", nil)
	if err != nil {
		return err
	}
	r.AddCookie(&http.Cookie{Name: cookie, Value: fmt.Sprint("honest-", n)})
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var minted struct{ Ticket string }
	if err := json.NewDecoder(res.Body).Decode(&minted); err != nil {
		return err
	}
	c, _, err := websocket.Dial(ctx, "ws://"+s.addr+"/ws?ticket="+minted.Ticket, nil)
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	if _, _, err = c.Read(ctx); err != nil {
		return err
	}
	return c.Close(websocket.StatusNormalClosure, "")
}

// latencies of honest people, one after the other, for as long as ctx is not done.
func (s *server) latencies(t *testing.T, ctx context.Context) []time.Duration {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var took []time.Duration
	for n := 0; ctx.Err() == nil; n++ {
		patient, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		began := time.Now()
		err := s.honest(patient, client, n)
		cancel()
		if err != nil {
			t.Errorf("an honest person was not served: %v", err)
			return took
		}
		took = append(took, time.Since(began))
		time.Sleep(2 * time.Millisecond) // people are not a flood
	}
	slices.Sort(took)
	return took
}

// A flood is what attackers send. Slow ones send nothing more, and hold the connection.
type flood struct {
	name    string
	rate    int // requests per second; 0: as fast as it goes
	request func() string
	status  string
	slow    bool
}

func upgrade(query string) string {
	return "GET /ws" + query + " HTTP/1.1\r\nHost: app.example\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

func random() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

const rate = 12_000 // a second, of all attackers together

var floods = []flood{
	{name: "what a handler without ticketgate refuses", rate: rate, status: "401",
		request: func() string { return strings.Replace(upgrade(""), "/ws", "/plain", 1) }},
	{name: "upgrades without a ticket", rate: rate, status: "401",
		request: func() string { return upgrade("") }},
	{name: "tickets that do not exist", rate: rate, status: "401",
		request: func() string { return upgrade("?ticket=" + random()) }},
	{name: "upgrades of a foreign page", rate: rate, request: func() string {
		return strings.Replace(upgrade("?ticket="+random()), "Upgrade: ",
			"Origin: https://evil.example\r\nUpgrade: ", 1)
	}, status: "403"},
	{name: "mints of one session", rate: rate, request: func() string {
		return "POST /api/auth/ws-ticket HTTP/1.1\r\nHost: app.example\r\n" +
			"Cookie: session=one\r\nContent-Length: 0\r\n\r\n"
	}, status: "429"},
	{name: "tickets, as fast as it goes", status: "401",
		request: func() string { return upgrade("?ticket=" + random()) }},
	{name: "slow handshakes", slow: true,
		request: func() string { return strings.TrimSuffix(upgrade(""), "\r\n") }},
}

// run attacks until ctx is done, and returns how many requests were refused.
func (f *flood) run(t *testing.T, ctx context.Context, addr string) int64 {
	if f.slow {
		return f.hold(t, ctx, addr)
	}
	var refused atomic.Int64
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() { f.attack(t, ctx, addr, &refused) })
	}
	wg.Wait()
	return refused.Load()
}

// attack sends one request after the other, over a new connection where the last one
// was closed: a refused upgrade ends its connection.
func (f *flood) attack(t *testing.T, ctx context.Context, addr string, refused *atomic.Int64) {
	var c net.Conn
	var in *bufio.Reader
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if f.rate > 0 { // in bursts: a timer is not exact to the microsecond
			due := time.Duration(n) * attackers * time.Second / time.Duration(f.rate)
			if ahead := due - time.Since(began); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
		}
		if c == nil {
			var err error
			if c, err = net.Dial("tcp", addr); err != nil {
				t.Error(err)
				return
			}
			in = bufio.NewReader(c)
		}
		if _, err := io.WriteString(c, f.request()); err != nil {
			t.Error(err)
			return
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, res.Body)
		if res.Close {
			c.Close()
			c = nil
		}
		if strings.HasPrefix(res.Status, f.status) {
			refused.Add(1)
		} else if res.StatusCode != http.StatusOK || f.status != "429" {
			// One session's share is minted.
			t.Errorf("%s, want %s", res.Status, f.status)
			return
		}
	}
}

// hold opens connections that never finish their request, and waits for the server to end them.
func (f *flood) hold(t *testing.T, ctx context.Context, addr string) int64 {
	const many = 2000
	var ended atomic.Int64
	var wg sync.WaitGroup
	for range many {
		c, err := net.Dial("tcp", addr)
		check(t, err)
		wg.Go(func() {
			defer c.Close()
			if _, err := io.WriteString(c, f.request()); err != nil {
				t.Error(err)
			}
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.ReadAll(c); err != nil {
				t.Errorf("the server did not end it: %v", err)
				return
			}
			ended.Add(1)
		})
	}
	wg.Wait()
	return ended.Load()
}

// heap returns what is live.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestFlood prints a table; FLOOD_SECONDS says how long each flood is (1). It fails where an honest
// person is not served, or where something is left of a flood.
func TestFlood(t *testing.T) {
	long := time.Second
	if s := os.Getenv("FLOOD_SECONDS"); s != "" {
		var err error
		long, err = time.ParseDuration(s + "s")
		check(t, err)
	}
	t.Logf("| flood | refused/s | honest p50, p99 before | during | ratio of p50 | " +
		"most goroutines | heap left | log |")
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) { trial(t, f, long) })
	}
}

func trial(t *testing.T, f flood, long time.Duration) {
	s := start(t)
	for range 3 {
		check(t, s.honest(t.Context(), http.DefaultClient, -1)) // what is made once
	}
	http.DefaultClient.CloseIdleConnections()
	during := func(attack func(ctx context.Context)) (took []time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { took = s.latencies(t, ctx) })
		if attack != nil {
			attack(ctx)
		}
		wg.Wait()
		return took
	}
	quiet := during(nil)
	goroutines, before := runtime.NumGoroutine(), heap()
	logged := size(s.log)

	most := int64(0)
	watch := time.NewTicker(20 * time.Millisecond)
	watched := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-watch.C:
				most = max(most, int64(runtime.NumGoroutine()))
			case <-stop:
				return
			}
		}
	}()
	var refused int64
	began := time.Now()
	var took time.Duration
	busy := during(func(ctx context.Context) {
		refused = f.run(t, ctx, s.addr)
		took = time.Since(began)
	})
	watch.Stop()
	close(stop)
	<-watched

	end := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > goroutines+fewGoroutines && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines+fewGoroutines {
		t.Errorf("%d goroutines are left, %d were there before", n, goroutines)
	}
	left := heap() - before
	if left > littleHeap {
		t.Errorf("%d KiB of the heap are left", left>>10)
	}
	grown := size(s.log) - logged
	if grown > littleLog {
		t.Errorf("the audit file grew by %d KiB", grown>>10)
	}
	if refused == 0 || len(quiet) == 0 || len(busy) == 0 {
		t.Fatal("nothing was measured")
	}
	t.Logf("| %s | %.0f | %v, %v | %v, %v | %.2f | %d | %d KiB | %d KiB |",
		f.name, float64(refused)/took.Seconds(),
		at(quiet, 50), at(quiet, 99), at(busy, 50), at(busy, 99),
		float64(at(busy, 50))/float64(at(quiet, 50)), most, left>>10, grown>>10)
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)-1)*percent/100].Round(10 * time.Microsecond)
}

func size(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}
