package audit_test

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// Names in every order, equal ones and secrets among them: a line has the first
// of each, escaped.
func TestLine_NamesBesideSecretsAndEscapes(t *testing.T) {
	stands := map[string]string{ // how a name stands in a line
		"reason": "reason", "truncated": "truncated",
		"a name that is too long to be known": "a name that is too long to be known",

		"é": "é", "\xff": "\ufffd", "\ufffd": "\ufffd", "***": "***",
		`"`: `\"`, `\`: `\\`, `""`: `\"\"`, "\n": `\u000a`, "\u202e": `\u202e`,

		"q?code=5": "q?code=***", "q?ticket=5": "q?ticket=***", "q?ticket=6": "q?ticket=***",
	}
	for _, a := range "xyz" { // names of the same letters get into one another's way
		for _, b := range "xyz" {
			for _, c := range "xyz" {
				name := string([]rune{a, b, c})
				stands[name] = name
			}
		}
	}
	names := []string{"ticket", "access_token", "ts", "Event"} // which don't
	for name := range stands {
		names = append(names, name)
	}
	slices.Sort(names)
	values := []struct {
		value slog.Value
		json  string
	}{
		{slog.StringValue("v"), `"v"`}, {slog.StringValue("/ws/admin"), `"/ws/admin"`},
		{slog.IntValue(5), "5"},
		{slog.StringValue(`a"b`), `"a\"b"`},
		{slog.StringValue("/reset-password/5"), `"/reset-password/***"`},
		{slog.GroupValue(
			slog.String("reason", "v"), slog.String("ts", "v"), slog.String("ts", "w")),
			`{"reason":"v","ts":"v"}`},
	}

	random := rand.New(rand.NewPCG(1, 2))
	fill := func() (attrs []slog.Attr, want string) {
		there := map[string]bool{}
		for range random.IntN(18) {
			name, v := names[random.IntN(len(names))], values[random.IntN(len(values))]
			attrs = append(attrs, slog.Attr{Key: name, Value: v.value})
			if s, ok := stands[name]; ok && !there[s] {
				there[s] = true
				want += `,"` + s + `":` + v.json
			}
		}
		return attrs, "{" + strings.TrimPrefix(want, ",") + "}"
	}
	toHandler := audit.New(slog.NewJSONHandler(io.Discard, nil))
	for range 100 {
		attrs, _ := fill()
		toHandler.Record(ctx, "e", attrs...) // where nothing stands before the first
		l, path := open(t, nil)
		var want []string
		for range 20 {
			attrs, line := fill()
			l.Record(ctx, "e", attrs...)
			want = append(want, line)
		}
		for i, line := range strings.Split(strings.TrimSpace(readAll(t, path)), "\n") {
			require.Equal(t, want[i], fields(t, line))
		}
		l.Close()
	}
}
