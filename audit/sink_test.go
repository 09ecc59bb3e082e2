package audit_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What comes through Handler was redacted by the log that hands it on.
func TestHandler_WritesAndDoesNotRedact(t *testing.T) {
	l, path := open(t, nil)
	h := slog.New(l.Handler())
	h.Debug("e", "a", 1, "token", "T", "path", "/ws?ticket=T", "event", "forged")
	h.With("first", 1).WithGroup("").WithGroup("g").With("b", 2).Info("e", "c", 3)
	a := h.With("x", 1)
	a.With("y", 1).Info("e")
	a.With("z", 1).Info("e")
	h.WithGroup("empty").Info("e")
	var got []string
	for _, line := range splitLines(readAll(t, path)) {
		got = append(got, fields(t, line))
	}
	assert.Equal(t,
		[]string{`{"a":1,"token":"T","path":"/ws?ticket=T"}`, `{"first":1,"g":{"b":2,"c":3}}`,
			`{"x":1,"y":1}`, `{"x":1,"z":1}`, `{}`}, got)
}

func splitLines(s string) (lines []string) {
	for len(s) > 0 {
		i := 0
		for s[i] != '\n' {
			i++
		}
		lines, s = append(lines, s[:i]), s[i+1:]
	}
	return lines
}
