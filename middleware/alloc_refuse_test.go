//go:build !race

package middleware_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// Refusals come in floods. One costs its answer, and nothing beside it but what
// the issuer says of a ticket that it was asked about; to an OnReject, which may
// keep it, goes a Rejection that is its own.
func TestRefusalAllocations(t *testing.T) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("came in") })
	guard, _ := benchGuard(t, middleware.GuardOptions{})
	silent, _ := benchGuard(t, middleware.GuardOptions{OnReject: func(http.ResponseWriter, *http.Request, *middleware.Rejection) {}})
	answered, handed := guard.Wrap(next), silent.Wrap(next)
	for _, c := range []struct {
		name, request string
		most          float64 // beside the answer
	}{
		{"no upgrade", get("/ws"), 0},
		{"version", upgrade("GET", "/ws", "Sec-WebSocket-Version: 8"), 0},
		{"no ticket", upgrade("GET", "/ws"), 0},
		{"two tickets", upgrade("GET", "/ws?ticket="+minted+"&ticket="+minted), 0},
		{"malformed ticket", upgrade("GET", "/ws?ticket=a"), 1},
		{"unknown ticket", upgrade("GET", "/ws?ticket="+strings.Repeat("A", 43)), 1},
		{"own origin", upgrade("GET", "/ws", "Origin: http://app.example"), 0},
		{"origin", upgrade("GET", "/ws?ticket="+minted, "Origin: https://evil.example"), 0},
	} {
		r := readRequest(c.request)
		_, rej := guard.Admit(r)
		require.NotNil(t, rej, c.name)
		w := &nowhere{header: make(http.Header)}
		counted := func(h http.Handler) float64 {
			return testing.AllocsPerRun(1000, func() { clear(w.header); h.ServeHTTP(w, r) })
		}
		answer := counted(rej)
		assert.LessOrEqual(t, counted(answered)-answer, c.most, c.name)
		assert.LessOrEqual(t, counted(handed), c.most+2, c.name) // and the value of Connection
	}
}
