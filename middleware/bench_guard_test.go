package middleware_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func benchGuard(tb testing.TB, opts middleware.GuardOptions) (*middleware.Guard, *tickets.Issuer) {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1 << 30})
	issuer := must(tickets.NewIssuer(store, &tickets.IssuerOptions{MaxPerSession: 1 << 20}))
	opts.Audit = audit.New(slog.DiscardHandler)
	return must(middleware.NewGuard(issuer, &opts)), issuer
}

// BenchmarkUpgrade is the rate of guarded upgrades over loopback beside that of
// unguarded ones, which take turns: "guarded/unguarded" is 1 where the guard
// costs nothing. It goes by medians, which a busy machine disturbs least. The
// client is a WebSocket library, as an application's are; and a bare one, which
// writes bytes and reads bytes, and so shows the most of the guard.
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
				target := "/ws?ticket=" + string(must(issuer.Mint(b.Context(), tickets.Grant{UserID: "ann"})))
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

// BenchmarkRefuse is what a bad upgrade costs: the decision alone, and with the
// audit's line and the answer.
func BenchmarkRefuse(b *testing.B) {
	guard, _ := benchGuard(b, middleware.GuardOptions{})
	silent, _ := benchGuard(b, middleware.GuardOptions{OnReject: func(http.ResponseWriter, *http.Request, *middleware.Rejection) {}})
	for _, bad := range []struct{ name, request string }{
		{"no upgrade", get("/ws")},
		{"version", upgrade("GET", "/ws", "Sec-WebSocket-Version: 8")},
		{"no ticket", upgrade("GET", "/ws")},
		{"two tickets", upgrade("GET", "/ws?ticket="+minted+"&ticket="+minted)},
		{"malformed ticket", upgrade("GET", "/ws?ticket=a")},
		{"unknown ticket", upgrade("GET", "/ws?ticket="+strings.Repeat("A", 43))},
		{"origin", upgrade("GET", "/ws?ticket="+minted, "Origin: https://evil.example")},
	} {
		r := readRequest(bad.request)
		b.Run(bad.name+"/decision", func(b *testing.B) {
			b.ReportAllocs()
			h := silent.Wrap(accepts)
			w := &nowhere{header: make(http.Header)}
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
		b.Run(bad.name+"/answered", func(b *testing.B) {
			b.ReportAllocs()
			h := guard.Wrap(accepts)
			w := &nowhere{header: make(http.Header)}
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkPass is what a request pays that is none of this package's business.
func BenchmarkPass(b *testing.B) {
	guard, _ := benchGuard(b, middleware.GuardOptions{PassOthers: true})
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	r := readRequest(get("/page?a=1&b=2", "Accept: text/html", "User-Agent: x", "Referer: https://app.example/page?c=3"))
	for name, h := range map[string]http.Handler{"PassOthers": guard.Wrap(nothing), "ConcealTicket": middleware.ConcealTicket(nothing)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(nil, r)
			}
		})
	}
}
