package middleware_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

// opaque keeps the compiler from seeing who is behind a handler: it would put
// the copy of the request on the stack, which it cannot in any program that
// chains handlers.
var opaque http.Handler

// BenchmarkGatePass measures a request that a Gate lets through, over
// CookieSessions and a map, beside what no middleware that passes on a value can
// do without: the copy that a bare r.WithContext makes. They take turns, so that
// whatever else the machine does weighs on both. "ratio" is the gate's time over
// that floor's; "with-value" is the floor's with the context that carries the
// value, over the floor's.
func BenchmarkGatePass(b *testing.B) {
	for _, c := range []struct {
		name    string
		cookies string
		end     time.Time
	}{
		{name: "one cookie", cookies: "sid=" + goodCookie},
		{name: "five cookies, session with an end", end: time.Now().Add(time.Hour),
			cookies: "_ga=GA1.1.1234567890.1234567890; theme=dark; sid=" + goodCookie + "; lang=en-GB; csrf=0123456789abcdef"},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := ann()
			s.ExpiresAt = c.end
			sessions := map[string]*middleware.Session{goodCookie: s}
			gate, err := middleware.NewGate(middleware.CookieSessions("sid",
				func(_ context.Context, value string) (*middleware.Session, error) { return sessions[value], nil },
			), &middleware.GateOptions{LoginURL: "/login", Public: []string{"/static/"}, Audit: audit.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			reached := 0
			next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ })
			opaque = next
			type key struct{}
			ctx := context.WithValue(b.Context(), key{}, s)
			handlers := []http.Handler{
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { opaque.ServeHTTP(w, r.WithContext(ctx)) }),
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
