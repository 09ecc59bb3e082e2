//go:build !race

package middleware_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// A gate allocates a context with the session and a copy of the request with it. A
// public request without a session costs its path, and what http.ServeMux allocates.
func TestGate_PassAllocatesLittle(t *testing.T) {
	s := ann()
	lookup := func(_ context.Context, value string) (*middleware.Session, error) {
		if value == goodCookie {
			return s, nil
		}
		return nil, nil
	}
	cookie, bearer := middleware.CookieSessions("sid", lookup), middleware.BearerSessions(lookup)
	token := http.Header{"Authorization": {"Bearer " + goodCookie}}
	for _, c := range []struct {
		name   string
		a      middleware.Authenticator
		target string
		header http.Header
		most   float64
	}{
		{"cookie", cookie, "/", http.Header{"Cookie": {"a=b; sid=" + goodCookie}}, 2},
		{"quoted cookie", cookie, "/", http.Header{"Cookie": {`sid="` + goodCookie + `"`}}, 2},
		{"bearer", bearer, "/", token, 2},
		{"bearer behind cookies", middleware.FirstOf(cookie, bearer), "/", token, 2},
		{"sign-in page", cookie, "/login", nil, 1},
		{"public", cookie, "/static/a.js", nil, 4},
	} {
		gate := must(middleware.NewGate(c.a, &middleware.GateOptions{
			LoginURL: "/login", Public: []string{"/static/"}, Audit: quiet,
		}))
		reached := 0
		h := gate.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", c.target, nil)
		r.Header = c.header
		allocs := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) })
		assert.LessOrEqual(t, allocs, c.most, c.name)
		assert.Equal(t, 101, reached, c.name)
	}
}

// A request that passes costs what reading its query costs.
func TestPassOthers_AllocatesOnlyForTheQuery(t *testing.T) {
	guard, _ := benchGuard(t, middleware.GuardOptions{PassOthers: true})
	h := middleware.ConcealTicket(guard.Wrap(http.HandlerFunc(doesNothing)))
	r := readRequest(pageRequest)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { h.ServeHTTP(nil, r) }), 6.0)
}

// Refusals come in floods. One costs its answer and a few allocations.
func TestGuard_RefusalAllocatesLittle(t *testing.T) {
	next := mustNotRun(t)
	guard, _ := benchGuard(t, middleware.GuardOptions{})
	silent, _ := benchGuard(t, middleware.GuardOptions{OnReject: saysNothing})
	answered, handed := guard.Wrap(next), silent.Wrap(next)
	const most = 12.0
	for _, c := range badUpgrades {
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
