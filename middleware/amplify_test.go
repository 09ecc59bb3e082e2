package middleware_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
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

// CWE-405: a stranger's URL of 1 MB is not split into its parts.
func TestConcealTicket_CopiesNoLongURL(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login"})
	long := strings.Repeat("a.", 490_000)
	for name, h := range map[string]http.Handler{
		"ConcealTicket": middleware.ConcealTicket(http.NotFoundHandler()),
		"gate":          gate.Wrap(whoami),
	} {
		for _, query := range []string{
			"ticket=" + long, "ticket=%zz" + long, "a=%25zz.ticket=" + long,
		} {
			r := httptest.NewRequest("GET", "/", nil)
			r.URL.RawQuery, r.RequestURI = query, "/?"+query
			r.Header.Set("Referer", "https://app.example/?"+query)
			cost := allocated(func() { h.ServeHTTP(httptest.NewRecorder(), r) })
			require.Less(t, cost, uint64(16<<20), "%s %.20s", name, query)
		}
	}
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

	r.Header.Set("Sec-WebSocket-Protocol", "chat")
	r.Header.Set("Upgrade", "websocket"+strings.Repeat(",a", 1<<19))
	require.Less(t, allocated(func() { b.guard.Admit(r) }), uint64(8<<20))
}

// CWE-405: the header of a peer that is not trusted is not read.
func TestForwardedFor_ReadsOnlyWhatItTrusts(t *testing.T) {
	client := middleware.ForwardedFor(netip.MustParsePrefix("10.0.0.0/8"))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-For", strings.Repeat(",", 1<<20)+"198.51.100.7")
	for peer, want := range map[string]string{
		"203.0.113.9:1": "203.0.113.9", "10.0.0.1:1": "198.51.100.7",
	} {
		r.RemoteAddr = peer
		require.Less(t, allocated(func() { require.Equal(t, want, client(r)) }), uint64(1<<20))
	}
}

// amplifiers are what a redactor reads slowly (HOSTILE A16).
var amplifiers = []string{"token:", "ticket.", "=", "bearer%20", "eyJ.", "%C3%BC"}

// A stranger's path and Origin take at most 1 KiB each of a refusal's line.
func TestRefusalLine_PathAndOriginAreCut(t *testing.T) {
	const limit = 1 << 10
	gate, gateLog := newGate(t, middleware.GateOptions{})
	b := newBed(t, middleware.GuardOptions{})
	minting := newMintBed(t, middleware.MintOptions{}, ann())
	for _, part := range amplifiers {
		path := "/" + strings.Repeat(part, 60_000/len(part))
		long := strings.Repeat(strings.ReplaceAll(part, "%20", " "), 60_000/len(part))
		for name, door := range map[string]struct {
			handler http.Handler
			rec     *recorder
			request string
		}{
			"gate":  {gate.Wrap(whoami), gateLog, get(path, sid(deadCookie))},
			"guard": {b.guard.Wrap(accepts), b.rec, upgrade("GET", path+"?ticket=a")},
			"guard, origin": {b.guard.Wrap(accepts), b.rec,
				upgrade("GET", path, "Origin: "+long, "Origin: "+long)},
			"mint": {minting.handler, minting.rec, get(path, "Origin: "+long)},
		} {
			send(t, serve(t, door.handler), door.request)
			lines := door.rec.Lines(t)
			door.rec.Take()
			require.Len(t, lines, 1, name)
			logged := lines[0]["path"].(string)
			assert.LessOrEqual(t, len(logged), limit, name)
			if part == "%C3%BC" {
				// nothing in it is redacted, and limit is in the middle of a character
				assert.Len(t, logged, limit-1, name)
			}
			assert.True(t, utf8.ValidString(logged) && !strings.Contains(logged, "\uFFFD"),
				"%s: %q", name, logged)
			if origin, ok := lines[0]["origin"].(string); ok {
				assert.LessOrEqual(t, len(origin), limit, name)
			} else {
				assert.NotEqual(t, "guard, origin", name)
			}
		}
	}
}

// BenchmarkRefuseLong is the cost of a refusal with a path that the audit reads slowly.
func BenchmarkRefuseLong(b *testing.B) {
	log := must(audit.OpenFile(filepath.Join(b.TempDir(), "auth.log"), &audit.FileOptions{
		RepeatsPerMinute: 1 << 30, RefusalsPerMinute: 1 << 30,
	}))
	defer log.Close()
	guard := must(middleware.NewGuard(newIssuer(b), &middleware.GuardOptions{Audit: log}))
	for _, part := range append([]string{"harmless/"}, amplifiers...) {
		r := readRequest(get("/" + strings.Repeat(part, 60_000/len(part))))
		w := &nowhere{header: make(http.Header)}
		b.Run(part, func(b *testing.B) {
			for b.Loop() {
				clear(w.header)
				guard.Wrap(accepts).ServeHTTP(w, r)
			}
		})
	}
}
