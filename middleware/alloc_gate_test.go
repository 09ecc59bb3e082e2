//go:build !race

package middleware_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

// A gate costs a request that it lets through the context that carries the
// session and the copy of the request that carries the context; a public one
// without a session, the path as it was sent, and what http.ServeMux takes.
func TestGateAllocations(t *testing.T) {
	s := ann()
	lookup := func(_ context.Context, value string) (*middleware.Session, error) {
		if value == goodCookie {
			return s, nil
		}
		return nil, nil
	}
	for _, c := range []struct {
		name   string
		a      middleware.Authenticator
		target string
		header http.Header
		most   float64
	}{
		{"cookie", middleware.CookieSessions("sid", lookup), "/", http.Header{"Cookie": {"a=b; sid=" + goodCookie}}, 2},
		{"quoted cookie", middleware.CookieSessions("sid", lookup), "/", http.Header{"Cookie": {`sid="` + goodCookie + `"`}}, 2},
		{"bearer", middleware.BearerSessions(lookup), "/", http.Header{"Authorization": {"Bearer " + goodCookie}}, 2},
		{"bearer behind cookies", middleware.FirstOf(middleware.CookieSessions("sid", lookup), middleware.BearerSessions(lookup)), "/", http.Header{"Authorization": {"Bearer " + goodCookie}}, 2},
		{"sign-in page", middleware.CookieSessions("sid", lookup), "/login", nil, 1},
		{"public", middleware.CookieSessions("sid", lookup), "/static/a.js", nil, 4},
	} {
		gate, err := middleware.NewGate(c.a, &middleware.GateOptions{
			LoginURL: "/login", Public: []string{"/static/"}, Audit: audit.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		reached := 0
		h := gate.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", c.target, nil)
		r.Header = c.header
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }), c.most, c.name)
		assert.Equal(t, 101, reached, c.name)
	}
}
