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

// Refusals come in floods: one costs its answer, and a few allocations beside it.
func TestRefusalAllocations(t *testing.T) {
	next := mustNotRun(t)
	guard, _ := benchGuard(t, middleware.GuardOptions{})
	silent, _ := benchGuard(t, middleware.GuardOptions{OnReject: func(http.ResponseWriter, *http.Request, *middleware.Rejection) {}})
	answered, handed := guard.Wrap(next), silent.Wrap(next)
	const most = 12.0
	for _, c := range []struct {
		name, request string
	}{
		{"no upgrade", get("/ws")},
		{"version", upgrade("GET", "/ws", "Sec-WebSocket-Version: 8")},
		{"no ticket", upgrade("GET", "/ws")},
		{"two tickets", upgrade("GET", "/ws?ticket="+minted+"&ticket="+minted)},
		{"malformed ticket", upgrade("GET", "/ws?ticket=a")},
		{"unknown ticket", upgrade("GET", "/ws?ticket="+strings.Repeat("A", 43))},
		{"own origin", upgrade("GET", "/ws", "Origin: http://app.example")},
		{"origin", upgrade("GET", "/ws?ticket="+minted, "Origin: https://evil.example")},
	} {
		r := readRequest(c.request)
		_, rej := guard.Admit(r)
		require.NotNil(t, rej, c.name)
		w := &nowhere{header: make(http.Header)}
		counted := func(h http.Handler) float64 {
			return testing.AllocsPerRun(1000, func() { clear(w.header); h.ServeHTTP(w, r) })
		}
		answer := counted(rej)
		assert.LessOrEqual(t, counted(answered)-answer, most, c.name)
		assert.LessOrEqual(t, counted(handed), most, c.name)
	}
}
