package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// hostileRows are what HOSTILE.md throws at values and names. What is written must be the same for
// every sink.
var hostileRows = []struct {
	source, name string
	attrs        []slog.Attr
	want         string
}{
	{"A1", "control characters in values and names",
		[]slog.Attr{slog.String("a\r\n\x00\x1b[0m", "b\r\n\x00\x1b]0;x\a\u202e")},
		`{"a\r\n\u0000\u001b[0m":"b\r\n\u0000\u001b]0;x\u0007\u202e"}`},
	{"A3", "invalid UTF-8",
		[]slog.Attr{slog.String("a\xff", "b\xc3("), slog.Any("l", []string{"\xff"})},
		`{"a` + "\ufffd" + `":"b` + "\ufffd" + `(","l":["` + "\ufffd" + `"]}`},
	{"A4", "reserved and equal names",
		[]slog.Attr{slog.String("ts", "x"), slog.String("event", "x"), slog.Int("seq", 1),
			slog.Int("a", 1), slog.Int("a", 2), slog.Any("m", json.RawMessage(`{"b":1,"b":2}`))},
		`{"seq":1,"a":1,"m":{"b":1}}`},
	{"A6", "names of secrets at every depth",
		[]slog.Attr{slog.String("X-API-KEY", "S"), slog.String("ｔｉｃｋｅｔ", "S"),
			slog.String("bot.token", "S"),
			slog.Any("m", map[string]any{
				"pwd": "S", "l": []any{map[string]string{"Set-Cookie": "S"}}}),
			slog.Any("s", struct{ Password, B string }{"S", "b"}),
			slog.Any("p", &struct{ SessionToken, B string }{"S", "b"}),
			slog.Any("v", group{[]slog.Attr{slog.String("webhook_secret", "S"), slog.Int("c", 1)}}),
			slog.Any("h", http.Header{"Authorization": {"S"}, "B": {"b"}}),
			slog.Any("q", url.Values{"ticket": {"S"}, "b": {"b"}}),
			slog.String("ticket_id", "kept"), slog.Int("close_code", 1001)},
		`{"m":{"l":[{}]},"s":{"B":"b"},"p":{"B":"b"},"v":{"c":1},"h":{"B":["b"]},"q":{"b":["b"]},` +
			`"ticket_id":"kept","close_code":1001}`},
	{"A7", "secrets inside values",
		[]slog.Attr{slog.String("path", "/ws?ticket=S&a=b"), slog.String("u", "https://u:S@h/"),
			slog.String("p", "/ticket/S"), slog.Any("e", errors.New("got Bearer S")),
			slog.Any("l", []any{"ticket=S", []byte("token=S")})},
		`{"path":"/ws?ticket=***&a=b","u":"https://***@h/","p":"/ticket/***",` +
			`"e":"got Bearer ***","l":["ticket=***","token=***"]}`},
	{"A8", "100 MB", []slog.Attr{slog.String("v", strings.Repeat("x", 100<<20)), slog.Int("b", 1)},
		""}, // below
	{"A15", "times of a clock that steps back, in other zones",
		[]slog.Attr{slog.Any("at", []time.Time{
			time.Date(2026, 5, 27, 1, 12, 27, 123_999, time.FixedZone("east", 7200)),
			time.Date(2026, 5, 26, 22, 12, 27, 0, time.FixedZone("west", -3600)),
			time.Date(2026, 5, 26, 22, 59, 59, 0, time.UTC)})},
		`{"at":["2026-05-26T23:12:27.000123+00:00","2026-05-26T23:12:27.000000+00:00",` +
			`"2026-05-26T22:59:59.000000+00:00"]}`},
	{"A16", "a path of secrets", []slog.Attr{slog.String("path", strings.Repeat("token:", 10_000))},
		`{"path":"token:***"}`},
	{"A17", "a JSON text", []slog.Attr{slog.String("v", `{"token":{"x":"S"},"a":1}`)},
		`{"v":"{\"token\":\"***\",\"a\":1}"}`},
	{"A18", "a LogValuer that holds itself",
		[]slog.Attr{slog.Any("v", selfish{[]string{"", ""}}), slog.Int("a", 1)},
		`{"v":"!ERROR","a":1}`},
	{"slog.Handler", "groups that become empty, and then a field of their name",
		[]slog.Attr{
			slog.Group("session", slog.String("token", "CANARY")), slog.String("session", "abc"),
			slog.Any("g", says{slog.Group("x", slog.Attr{})}), slog.Int("g", 1),
		}, `{"session":"abc","g":1}`},
	{"slog.Handler", "a group without a name that a LogValuer returns",
		[]slog.Attr{
			slog.String("a", "first"),
			slog.Any("", says{
				slog.String("user_id", "u1"), slog.String("event", "x"), slog.Int("a", 2)}),
			slog.Group("h", slog.String("a", "1"), slog.Any("", says{slog.String("a", "2")})),
		}, `{"a":"first","user_id":"u1","h":{"a":"1"}}`},
	{"slog.JSONHandler", "a member without a name",
		[]slog.Attr{
			slog.Any("claims", json.RawMessage(`{"x":{"":null}}`)), slog.String("z", "1"),
		}, `{"claims":{"x":{"_":null}},"z":"1"}`},
	{"A18", "a method that panics, what JSON does not have, a cycle",
		[]slog.Attr{slog.Any("v", chain(-2)), slog.Any("c", make(chan int)),
			slog.Any("l", cyclic())},
		`{"v":"!ERROR","c":"!ERROR","l":"!ERROR"}`},
}

// says is a LogValuer that is a group.
type says []slog.Attr

func (s says) LogValue() slog.Value { return slog.GroupValue(s...) }

func cyclic() []any {
	l := []any{nil}
	l[0] = l
	return l
}

// sinks are the ways to record: to a file, to a handler, and to both.
func sinks(t *testing.T) map[string]func(func(*audit.Log)) []string {
	lines := func(b []byte) []string {
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	return map[string]func(func(*audit.Log)) []string{
		"file": func(do func(*audit.Log)) []string {
			l, path := open(t, nil)
			do(l)
			require.NoError(t, l.Close())
			return lines([]byte(readAll(t, path)))
		},
		"handler": func(do func(*audit.Log)) []string {
			var out bytes.Buffer
			l := audit.New(slog.NewJSONHandler(&out, nil))
			do(l)
			require.NoError(t, l.Close())
			return lines(out.Bytes())
		},
		"both": func(do func(*audit.Log)) []string {
			var out bytes.Buffer
			file, path := open(t, nil)
			l := audit.New(slog.NewMultiHandler(file.Handler(), slog.NewJSONHandler(&out, nil)))
			do(l)
			require.NoError(t, l.Close())
			require.NoError(t, file.Close())
			written := lines([]byte(readAll(t, path)))
			require.Len(t, lines(out.Bytes()), len(written))
			for i, line := range lines(out.Bytes()) {
				require.JSONEq(t, fieldsOf(t, written[i]), fieldsOf(t, line))
			}
			return written
		},
	}
}

// fieldsOf returns a line without what each kind of sink writes in its own way.
func fieldsOf(t *testing.T, line string) string {
	var got map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(line), &got), "%.300s", line)
	for _, own := range []string{"ts", "event", "time", "level", "msg"} {
		delete(got, own)
	}
	b, err := json.Marshal(got)
	require.NoError(t, err)
	return string(b)
}

func TestSinks_HostileInputIsTheSameInEach(t *testing.T) {
	for name, sink := range sinks(t) {
		for _, row := range hostileRows {
			t.Run(fmt.Sprintf("%s, %s: %s", name, row.source, row.name), func(t *testing.T) {
				lines := sink(func(l *audit.Log) { l.Record(ctx, "e", row.attrs...) })
				require.Len(t, lines, 1)
				assert.Less(t, len(lines[0]), 64<<10)
				got := fieldsOf(t, lines[0])
				if row.source == "A8" {
					assert.Contains(t, got, `"truncated":true`)
					assert.Contains(t, got, `"b":1`)
					return
				}
				assert.JSONEq(t, row.want, got)
			})
		}
	}
}

// HOSTILE A14: a counter of events counts the same, whatever is behind the log.
func TestSinks_FloodIsSuppressedAndCountedInEach(t *testing.T) {
	for name := range sinks(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := sinks(t)[name](func(l *audit.Log) {
					for i := range 2000 {
						refuse(l, "unknown", fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
						refuse(l, "used", "203.0.113.9")
					}
					l.Record(ctx, audit.LoginSuccess)
					time.Sleep(time.Minute)
				})
				assert.Less(t, len(lines), 600+300)
				counted := map[string]int{}
				for _, line := range lines {
					var rec struct {
						Event, Reason string
						Suppressed    int
					}
					require.NoError(t, json.Unmarshal([]byte(line), &rec))
					counted[rec.Event+" "+rec.Reason] += max(rec.Suppressed, 1)
				}
				want := map[string]int{
					"ws_ticket_rejected unknown": 2000, "ws_ticket_rejected used": 2000,
					"login_success ": 1,
				}
				assert.Equal(t, want, counted)
			})
		})
	}
}

// HOSTILE A9 to A13: what goes wrong with one sink is no matter of another's.
func TestSinks_OneThatFailsDoesNotStopTheOther(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	var out bytes.Buffer
	file, path := open(t, nil)
	l := audit.New(slog.NewMultiHandler(file.Handler(), slog.NewJSONHandler(&out, nil)))
	require.NoError(t, file.Close())
	l.Record(ctx, audit.Logout)
	assert.Equal(t, audit.Stats{Failed: 1}, l.Stats())
	assert.Equal(t, audit.Stats{Failed: 1}, file.Stats())
	assert.Contains(t, out.String(), `"event":"logout"`)

	require.NoError(t, os.Symlink(filepath.Join(t.TempDir(), "x"), path+".link"))
	_, err := audit.OpenFile(path+".link", nil)
	require.ErrorContains(t, err, "not a regular file")
}
