//go:build !race

package middleware_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// What passes by costs what reading its query takes.
func TestPassAllocations(t *testing.T) {
	guard, _ := benchGuard(t, middleware.GuardOptions{PassOthers: true})
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	h := middleware.ConcealTicket(guard.Wrap(nothing))
	r := readRequest(get("/page?a=1&b=2", "Accept: text/html", "Connection: keep-alive", "Referer: https://app.example/page?c=3"))
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { h.ServeHTTP(nil, r) }), 6.0)
}
