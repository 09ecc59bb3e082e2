package middleware_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

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
			"gate":          {gate.Wrap(whoami), gateLog, get(path, sid(deadCookie))},
			"guard":         {b.guard.Wrap(accepts), b.rec, upgrade("GET", path+"?ticket=a")},
			"guard, origin": {b.guard.Wrap(accepts), b.rec, upgrade("GET", path, "Origin: "+long, "Origin: "+long)},
			"mint":          {minting.handler, minting.rec, get(path, "Origin: "+long)},
		} {
			send(t, serve(t, door.handler), door.request)
			lines := door.rec.Lines(t)
			door.rec.Take()
			require.Len(t, lines, 1, name)
			logged := lines[0]["path"].(string)
			assert.LessOrEqual(t, len(logged), limit, name)
			if part == "%C3%BC" { // nothing in it is redacted, and limit is in the middle of a character
				assert.Len(t, logged, limit-1, name)
			}
			assert.True(t, utf8.ValidString(logged) && !strings.Contains(logged, "\uFFFD"), "%s: %q", name, logged)
			if origin, ok := lines[0]["origin"].(string); ok {
				assert.LessOrEqual(t, len(origin), limit, name)
			} else {
				assert.NotEqual(t, "guard, origin", name)
			}
		}
	}
}

// BenchmarkRefuseLong is what a refusal costs whose path is the audit's worst.
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
