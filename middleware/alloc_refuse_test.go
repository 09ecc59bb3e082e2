//go:build !race

package middleware_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/middleware"
)

// Refusals come in floods. Each costs its Rejection; one that got as far as a
// ticket costs the reading of the query too, and what the audit and the
// operator are told of it. The answer is not counted.
func TestRefusalAllocations(t *testing.T) {
	guard, _ := benchGuard(t, middleware.GuardOptions{OnReject: func(http.ResponseWriter, *http.Request, *middleware.Rejection) {}})
	h := guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("came in") }))
	for _, c := range []struct {
		name, request string
		most          float64
	}{
		{"no upgrade", get("/ws"), 1},
		{"version", upgrade("GET", "/ws", "Sec-WebSocket-Version: 8"), 1},
		{"no ticket", upgrade("GET", "/ws"), 1},
		{"two tickets", upgrade("GET", "/ws?ticket="+minted+"&ticket="+minted), 3},
		{"malformed ticket", upgrade("GET", "/ws?ticket=a"), 6},
		{"unknown ticket", upgrade("GET", "/ws?ticket="+strings.Repeat("A", 43)), 7},
		{"origin", upgrade("GET", "/ws?ticket="+minted, "Origin: https://evil.example"), 4},
	} {
		r := readRequest(c.request)
		assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() { h.ServeHTTP(nil, r) }), c.most, c.name)
	}
}
