package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// Handlers that accept an upgrade and end it.
var accepts = []struct {
	name string
	http.HandlerFunc
}{
	{"coder/websocket v1.8.15", func(w http.ResponseWriter, r *http.Request) {
		if c, err := coder.Accept(w, r, nil); err == nil {
			_ = c.CloseNow()
		}
	}},
	{"gorilla/websocket v1.5.3", func(w http.ResponseWriter, r *http.Request) {
		if c, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil); err == nil {
			_ = c.Close()
		}
	}},
}

func newGuard(opts middleware.GuardOptions) (*middleware.Guard, *tickets.Issuer) {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1 << 30})
	issuer := must(tickets.NewIssuer(store, &tickets.IssuerOptions{MaxPerSession: 1 << 20}))
	opts.Audit = audit.New(slog.DiscardHandler)
	return must(middleware.NewGuard(issuer, &opts)), issuer
}

func handshake(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: app.example\r\n" +
		"Origin: http://app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

func read(request string) *http.Request {
	r := must(http.ReadRequest(bufio.NewReader(strings.NewReader(request))))
	r.RemoteAddr = "203.0.113.9:4711"
	return r
}

// mintTargets gives a fresh ticket for each of n upgrades; the one for the unguarded is as long.
func mintTargets(issuer *tickets.Issuer, n int) []string {
	targets := make([]string, n)
	for i := range targets {
		session := fmt.Sprint("session-", i%1000)
		g := tickets.Grant{SessionID: session, Provider: "oidc", UserID: "ann"}
		targets[i] = "/ws?ticket=" + string(must(issuer.Mint(context.Background(), g)))
	}
	return targets
}

var noTicket = "/no?ticket=" + strings.Repeat("A", 43)

// refusalRow is what a bad upgrade costs: the decision with its audit, and with the answer.
func refusalRow(r *report) {
	saysNothing := func(http.ResponseWriter, *http.Request, *middleware.Rejection) {}
	silent, issuer := newGuard(middleware.GuardOptions{OnReject: saysNothing})
	guard, _ := newGuard(middleware.GuardOptions{})
	used := mintTargets(issuer, 1)[0]
	silent.Wrap(accepts[0]).ServeHTTP(httptest.NewRecorder(), read(handshake(used)))
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("came in") })
	var decisions, answers, alone []thing
	for _, bad := range []struct{ name, request string }{
		{"no upgrade", "GET /ws HTTP/1.1\r\nHost: app.example\r\n\r\n"},
		{"no ticket", handshake("/ws")},
		{"malformed ticket", handshake("/ws?ticket=a")},
		{"unknown ticket", handshake(noTicket)},
		{"used ticket", handshake(used)},
		{"foreign origin", strings.Replace(handshake(noTicket),
			"http://app.example", "https://evil.example", 1)},
	} {
		req := read(bad.request)
		w := &nowhere{make(http.Header)}
		decide, answer := silent.Wrap(next), guard.Wrap(next)
		decisions = append(decisions, thing{
			name: bad.name,
			do:   repeat(func() { decide.ServeHTTP(w, req) }),
		})
		answers = append(answers, thing{
			name: bad.name + ", answered",
			do:   repeat(func() { clear(w.header); answer.ServeHTTP(w, req) }),
		})
		_, rej := guard.Admit(req)
		alone = append(alone, thing{do: repeat(func() { clear(w.header); rej.ServeHTTP(w, req) })})
	}
	t := r.inTurns(6*time.Second, r.many(block), append(decisions, answers...)...)
	t.print(r, "refusing a bad upgrade, in process")
	for i, one := range decisions {
		// What is handed to an OnReject is part of its answer: here there is none.
		count, bytes := allocations(r.many(10_000), func() { answers[i].do(1) })
		response, responseBytes := allocations(r.many(10_000), func() { alone[i].do(1) })
		count, bytes = count-response, max(0, bytes-responseBytes)
		r.line("refusing a bad upgrade, in process", one.name+", allocations beyond the response",
			fmt.Sprintf("%.0f, %.0f B", count, bytes), "")
		r.bench("refusal, allocations", one.name, r.many(10_000), count, "allocs/op", bytes, "B/op")
	}
}

// A hijackable response that goes nowhere.
type hijackable struct {
	nowhere
	conn deadConn
	rw   *bufio.ReadWriter
}

func (w *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return &w.conn, w.rw, nil }

type deadConn struct{ local net.TCPAddr }

func (*deadConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (*deadConn) Write(p []byte) (int, error)      { return len(p), nil }
func (*deadConn) Close() error                     { return nil }
func (c *deadConn) LocalAddr() net.Addr            { return &c.local }
func (c *deadConn) RemoteAddr() net.Addr           { return &c.local }
func (*deadConn) SetDeadline(time.Time) error      { return nil }
func (*deadConn) SetReadDeadline(time.Time) error  { return nil }
func (*deadConn) SetWriteDeadline(time.Time) error { return nil }

// upgradeRow is whole upgrades without a network: a bare library's, and the same behind the guard.
func upgradeRow(r *report) {
	for _, lib := range accepts {
		guard, issuer := newGuard(middleware.GuardOptions{})
		upgrades := func(h http.Handler, targets func(n int) []string) thing {
			var requests []*http.Request
			var responses []*hijackable
			return thing{prepare: func(n int) {
				requests, responses = requests[:0], responses[:0]
				for _, target := range targets(n) {
					requests = append(requests, read(handshake(target)))
					rw := bufio.NewReadWriter(bufio.NewReader(nil), bufio.NewWriter(nil))
					responses = append(responses,
						&hijackable{nowhere: nowhere{make(http.Header)}, rw: rw})
				}
				for _, w := range responses {
					w.rw.Reader.Reset(&w.conn)
					w.rw.Writer.Reset(&w.conn)
				}
			}, do: func(n int) {
				for i := range n {
					h.ServeHTTP(responses[i], requests[i])
				}
			}}
		}
		bare := upgrades(lib, func(n int) []string {
			return strings.Split(strings.Repeat(noTicket+" ", n)[:n*(len(noTicket)+1)-1], " ")
		})
		guarded := upgrades(guard.Wrap(lib), func(n int) []string { return mintTargets(issuer, n) })
		bare.name, guarded.name = lib.name, lib.name+", guarded"
		t := r.inTurns(5*time.Second, r.many(200), bare, guarded)
		t.print(r, "upgrade, in process")
		if n := guard.Sockets().Len(); n != 0 {
			panic(fmt.Sprint(n, " sockets are left"))
		}
	}
}

// dialersRow is the rate of upgrades over loopback, of 64 clients at a time.
func dialersRow(r *report) {
	const dialers = 64
	for _, lib := range accepts {
		guard, issuer := newGuard(middleware.GuardOptions{})
		mux := http.NewServeMux()
		mux.Handle("/ws", guard.Wrap(lib))
		mux.Handle("/no", lib)
		server := httptest.NewServer(mux)
		upgrades := func(name string, mint func(n int) []string) thing {
			var targets []string
			prepare := func(n int) { targets = mint(n) }
			return thing{name: name, batch: true, prepare: prepare, do: func(n int) {
				work := make(chan string, n)
				for _, target := range targets {
					work <- target
				}
				close(work)
				var wg sync.WaitGroup
				for range dialers {
					wg.Go(func() {
						for target := range work {
							upgradeOnce(server.Listener.Addr().String(), target)
						}
					})
				}
				wg.Wait()
			}}
		}
		t := r.inTurns(10*time.Second, r.many(512),
			upgrades(lib.name, func(n int) []string {
				targets := make([]string, n)
				for i := range targets {
					targets[i] = noTicket
				}
				return targets
			}),
			upgrades(lib.name+", guarded", func(n int) []string { return mintTargets(issuer, n) }))
		t.print(r, "upgrade, loopback, 64 dialers")
		goal := 0.92
		if strings.HasPrefix(lib.name, "coder") {
			goal = 0.95
		}
		r.atLeast("guarded upgrade rate against unguarded, loopback, 64 dialers, "+lib.name,
			t.ratio(lib.name, lib.name+", guarded"), goal, "%.3f")
		server.Close()
	}
}

// upgradeOnce is a client that costs little itself: it writes bytes, and reads to the end.
func upgradeOnce(address, target string) {
	conn := must(net.Dial("tcp", address)).(*net.TCPConn)
	defer conn.Close()
	_ = conn.SetLinger(0) // no port is left waiting for what is over
	request := strings.Replace(handshake(target), "Origin: http://app.example\r\n", "", 1)
	_, _ = io.WriteString(conn, request)
	var answer [1024]byte
	n, err := conn.Read(answer[:])
	if !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 101 ") {
		panic(fmt.Sprintf("%q, %v", answer[:n], err))
	}
	for err == nil {
		_, err = conn.Read(answer[:])
	}
}
