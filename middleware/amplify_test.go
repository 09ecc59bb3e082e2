package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// CWE-407: a stranger's request may have sixty thousand Referer lines.
func TestConcealTicket_CostIsLinearInReferers(t *testing.T) {
	h := middleware.ConcealTicket(http.NotFoundHandler())
	cost := func(lines int) uint64 {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.Header.Set("Upgrade", "x")
		for range lines {
			r.Header.Add("Referer", "?ticket")
		}
		return allocated(func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	}
	require.Less(t, cost(8000), 4*cost(2000)*2, "four times as many lines")
}

// CWE-405: what is no upgrade is refused before its lists are split.
func TestGuard_LongListOfProtocolsIs400(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	ticket := b.mint(t)
	list := "Sec-WebSocket-Protocol: chat" + strings.Repeat(",a", 1<<10)
	r := readRequest(upgrade("GET", "/ws?ticket="+ticket, list))
	_, rej := b.guard.Admit(r)
	require.NotNil(t, rej)
	require.Equal(t, []any{http.StatusBadRequest, "key"}, []any{rej.Status, rej.Reason})
	_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
	require.NoError(t, err, "the ticket stays valid")

	r.Header.Set("Sec-WebSocket-Protocol", strings.Repeat("a,", 1<<19))
	require.Less(t, allocated(func() { b.guard.Admit(r) }), uint64(8<<20))
}

// CWE-405: nobody reads the header of a peer that is not trusted.
func TestForwardedFor_ReadsOnlyWhatItTrusts(t *testing.T) {
	client := middleware.ForwardedFor(netip.MustParsePrefix("10.0.0.0/8"))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-For", strings.Repeat(",", 1<<20)+"198.51.100.7")
	for peer, want := range map[string]string{"203.0.113.9:1": "203.0.113.9", "10.0.0.1:1": "198.51.100.7"} {
		r.RemoteAddr = peer
		require.Less(t, allocated(func() { require.Equal(t, want, client(r)) }), uint64(1<<20))
	}
}
