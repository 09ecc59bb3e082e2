package audit_test

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/audit"
)

// HOSTILE A16: what a stranger sends as a path or an Origin. 60 kB of "token:" took 100 times as
// long as 60 kB of anything else.
func TestRedaction_HostileTextTakesNoLongerThanFewTimesPlainText(t *testing.T) {
	l := audit.New(slog.NewJSONHandler(io.Discard, nil))
	const size = 60_000
	fastest := func(text string) time.Duration {
		best := time.Hour
		for range 3 {
			start := time.Now()
			l.Record(ctx, "e", slog.String("path", text))
			best = min(best, time.Since(start))
		}
		return best
	}
	repeat := func(part string) string { return strings.Repeat(part, size/len(part)) }
	plain := fastest(repeat("/harmless"))
	for _, part := range []string{
		"token:", "ticket.", "=", "bearer ", "eyJ.", "eyJ", "ticket=", "//a:b", "token=[", "/token",
		"/token/", "%25", "%3D", `"token":"`, "Cookie: ", "password:", `\"`, "x=[", `'`, "@", "://",
		"a:b@", ".", "%", "%2", "[", "Bearer", "Bearer%20", "token%3D", "Cookie: a\\r\\n", "-",
		"a.", "//", "//:x", "%3a//", ":", "ticket=''", "/token//", `bearer "`,
	} {
		assert.Less(t, fastest(repeat(part)), 30*plain, "%q over and over", part)
	}
}

// selfish is a LogValuer whose groups hold itself.
type selfish struct{ keys []string }

func (s selfish) LogValue() slog.Value {
	var members []slog.Attr
	for _, key := range s.keys {
		members = append(members, slog.Any(key, s))
	}
	return slog.GroupValue(members...)
}

// HOSTILE A18: the depth was bounded, but not the number of values.
func TestRecord_LogValuerThatHoldsItselfTwiceEnds(t *testing.T) {
	for _, keys := range [][]string{{"", ""}, {"a", "b"}, {"a", "a"}, {"", "a"}, {"token", ""}} {
		s := selfish{keys}
		for name, v := range map[string]any{
			"bare": s, "in a list": []any{s, s}, "in a map": map[string]any{"x": s, "y": &s},
			"in a group": slog.GroupValue(slog.Any("", s), slog.Any("x", s)),
		} {
			line := record(t, "e", slog.Any("v", v), slog.Any("", v), slog.Int("n", 1))
			assert.Less(t, len(line), 64<<10)
			ended := strings.Contains(line, "!ERROR") || strings.Contains(line, `"truncated":true`)
			assert.True(t, ended, "%q %s: %.200s", keys, name, line)
		}
	}
}
