package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

var ctx = context.Background()

// open returns a log in a folder of its own, and the path of its file.
func open(t testing.TB, opts *audit.FileOptions) (*audit.Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.log")
	l, err := audit.OpenFile(path, opts)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l, path
}

// record returns the line that one call writes.
func record(t testing.TB, e audit.Event, attrs ...slog.Attr) string {
	t.Helper()
	l, path := open(t, nil)
	l.Record(ctx, e, attrs...)
	assert.Equal(t, audit.Stats{Written: 1}, l.Stats())
	return readLine(t, path)
}

func readLine(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	line, ok := strings.CutSuffix(string(b), "\n")
	require.True(t, ok, "no newline at the end of %q", b)
	require.NotContains(t, line, "\n")
	require.True(t, json.Valid([]byte(line)), "not JSON: %s", line)
	return line
}

// fields returns what stands in a line after ts and event.
func fields(t testing.TB, line string) string {
	t.Helper()
	_, rest, ok := strings.Cut(line, `"event":"e"`)
	require.True(t, ok, line)
	return "{" + strings.TrimPrefix(rest, ",")
}

func TestLine_Format(t *testing.T) {
	line := record(t, audit.TicketMinted,
		slog.String("provider", "oidc"), slog.String("user_id", "u1"),
		slog.String("ip", "203.0.113.9"))
	require.Regexp(t, `^\{"ts":"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{6}\+00:00",`+
		`"event":"ws_ticket_minted","provider":"oidc","user_id":"u1","ip":"203\.0\.113\.9"\}$`,
		line)

	ts := line[len(`{"ts":"`):][:len("2026-05-27T09:12:27.000123+00:00")]
	at, err := time.Parse(time.RFC3339Nano, ts)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
}

type (
	inner struct {
		N int `json:"n"`
	}
	embedding struct {
		*inner
		Inner
		Name  string `json:"name,omitempty"`
		Skip  string `json:"-"`
		Zero  int    `json:",omitzero"`
		quiet string
	}
	Inner struct {
		N    int
		Name string
	}
	chain      int
	namedBytes []byte
	group      struct{ attrs []slog.Attr }
	badJSON    struct{ fail any }
	text       string
	stringer   struct{}
	ownError   struct{}
	selfEmbeds struct{ *selfEmbeds }
)

func (c chain) LogValue() slog.Value {
	if c == 0 {
		return slog.StringValue("end")
	}
	if c == -2 {
		panic("no value")
	}
	return slog.AnyValue(max(c-1, -1))
}
func (g group) LogValue() slog.Value { return slog.GroupValue(g.attrs...) }
func (b badJSON) MarshalJSON() ([]byte, error) {
	switch f := b.fail.(type) {
	case error:
		return nil, f
	case []byte:
		return f, nil
	}
	panic(b.fail)
}
func (s text) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, errors.New("empty")
	}
	return []byte(s), nil
}
func (stringer) String() string { return "not asked" }
func (*ownError) Error() string { panic("no text") }

func TestLine_Values(t *testing.T) {
	cyclicMap := map[string]any{"a": 1}
	cyclicMap["self"] = cyclicMap
	cyclicList := []any{nil}
	cyclicList[0] = cyclicList
	type node struct{ Left, Right *node }
	cyclicNode := &node{}
	cyclicNode.Left, cyclicNode.Right = cyclicNode, cyclicNode
	address, err := url.Parse("https://example.com/a?b=c")
	require.NoError(t, err)
	var nilPointer *ownError
	at := time.Date(2026, 5, 27, 11, 12, 27, 123_999, time.FixedZone("CEST", 7200))

	tests := []struct {
		name string
		v    any
		want string
	}{
		{"string", "s", `"s"`},
		{"quotes", `"\/<&>`, `"\"\\/<&>"`},
		{"int", -5, `-5`},
		{"uint64", uint64(math.MaxUint64), `18446744073709551615`},
		{"bool", true, `true`},
		{"nil", nil, `null`},
		{"float", 1234567.5, `1234567.5`},
		{"small float", 1e-9, `1e-9`},
		{"float32", []float32{0.1}, `[0.1]`},
		{"NaN", math.NaN(), `"!ERROR"`},
		{"infinity in a list", []float64{1, math.Inf(1)}, `"!ERROR"`},
		{"complex", 1i, `"!ERROR"`},
		{"duration", 90 * time.Second, `"1m30s"`},
		{"duration in a list", []time.Duration{time.Millisecond}, `["1ms"]`},
		{"time", at, `"2026-05-27T09:12:27.000123+00:00"`},
		{"time in a map", map[string]any{"at": &at}, `{"at":"2026-05-27T09:12:27.000123+00:00"}`},
		{"time beyond RFC 3339", at.AddDate(9000, 0, 0), `"!ERROR"`},
		{"error", errors.New("no\nluck"), `"no\u000aluck"`},
		{"wrapped error in a list", []error{fmt.Errorf("a: %w", os.ErrNotExist)},
			`["a: file does not exist"]`},
		{"error that panics", &ownError{}, `"!ERROR"`},
		{"nil pointer with a method", nilPointer, `null`},
		{"text bytes", []byte("grüße"), `"grüße"`},
		{"other bytes", []byte{0xff, 0}, `"/wA="`},
		{"bytes of a named type", []namedBytes{namedBytes("ticket=v"), {0xff, 0}, {}, nil},
			`["ticket=***","/wA=","",null]`},
		{"byte array", [2]byte{1, 2}, `[1,2]`},
		{"netip.Addr", netip.MustParseAddr("2001:db8::1"), `"2001:db8::1"`},
		{"http.Header", http.Header{"B": {"2"}, "A": {"1", "x"}}, `{"A":["1","x"],"B":["2"]}`},
		{"url.Values", url.Values{"q": {"1"}}, `{"q":["1"]}`},
		{"url.URL", *address, `"https://example.com/a?b=c"`},
		{"*url.URL", address, `"https://example.com/a?b=c"`},
		{"int keys", map[int]bool{2: true, -1: false}, `{"-1":false,"2":true}`},
		{"text keys", map[netip.Addr]int{netip.MustParseAddr("::1"): 1}, `{"::1":1}`},
		{"struct keys", map[struct{}]int{{}: 1}, `"!ERROR"`},
		{"struct",
			embedding{inner: &inner{1}, Inner: Inner{2, "in"}, Skip: "s", quiet: "q", Name: "out"},
			`{"name":"out","N":2,"Name":"in"}`},
		{"Stringer", stringer{}, `{}`},
		{"json.Marshaler", json.RawMessage(`{"b": [1e3, null, {"x":"\u2028"}], "a":false}`),
			`{"b":[1e3,null,{"x":"\u2028"}],"a":false}`},
		{"json.Number", json.Number("1.50"), `1.50`},
		{"json.Number that is none", json.Number("{}"), `"!ERROR"`},
		{"MarshalJSON fails", badJSON{errors.New("x")}, `"!ERROR"`},
		{"MarshalJSON panics", badJSON{"x"}, `"!ERROR"`},
		{"MarshalJSON lies", badJSON{[]byte("{}\n{")}, `"!ERROR"`},
		{"MarshalJSON lies deep", []any{badJSON{[]byte(`{"a":}`)}}, `"!ERROR"`},
		{"MarshalText", text("t"), `"t"`},
		{"MarshalText fails", text(""), `"!ERROR"`},
		{"chan", make(chan int), `"!ERROR"`},
		{"func", func() {}, `"!ERROR"`},
		{"func in a struct", struct{ F func() }{}, `"!ERROR"`},
		{"cyclic map", cyclicMap, `"!ERROR"`},
		{"cyclic list", cyclicList, `"!ERROR"`},
		{"cyclic pointers", cyclicNode, `"!ERROR"`},
		{"embeds itself", func() any { s := selfEmbeds{}; s.selfEmbeds = &s; return s }(), `{}`},
		{"LogValuer", chain(3), `"end"`},
		{"LogValuer that panics", chain(-2), `"!ERROR"`},
		{"LogValuer without end", chain(-1), `"!ERROR"`},
		{"LogValuer in a list", []any{chain(0), group{[]slog.Attr{
			slog.Int("a", 1), slog.Group("", slog.Int("b", 2))}}}, `["end",{"a":1,"b":2}]`},
		{"LogValuer in a list panics", []any{chain(-2)}, `"!ERROR"`},
		{"slog values in a map", map[string]any{
			"v": slog.IntValue(1), "a": slog.Int("k", 2), "l": []slog.Attr{slog.Int("m", 3)}},
			`{"a":{"k":2},"l":{"m":3},"v":1}`},
		{"group",
			slog.GroupValue(slog.Int("a", 1), slog.Int("a", 2), slog.Group("g", slog.Int("ts", 3))),
			`{"a":1,"g":{"ts":3}}`},
		{"invalid UTF-8 (RFC 3629)", "a\xff\xc3b", `"a��b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := record(t, "e", slog.Any("v", tt.v), slog.Int("after", 1))
			assert.Equal(t, `{"v":`+tt.want+`,"after":1}`, fields(t, line))
		})
	}
}

func TestLine_ControlAndBidiCharactersAreEscaped(t *testing.T) {
	var in, want strings.Builder
	for r := rune(0); r <= 0xffff; r++ {
		switch {
		case r < 0x20, r >= 0x7f && r <= 0x9f, r == 0x2028, r == 0x2029,
			r == 0x61c, r == 0x200e, r == 0x200f, // UAX #9, 2.6
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff: // CVE-2021-42574
			in.WriteRune(r)
			fmt.Fprintf(&want, `\u%04x`, r)
		case r == 0x20, r == 0x7e, r == 0xa0, r == 0x61b, r == 0x200d, r == 0x2010,
			r == 0x2027, r == 0x202f, r == 0x2065, r == 0x206a, r == 0xfefe:
			in.WriteRune(r)
			want.WriteRune(r)
		}
	}
	line := record(t, "e", slog.String("v"+in.String(), in.String()))
	assert.Equal(t, `{"v`+want.String()+`":"`+want.String()+`"}`, fields(t, line))
}

func TestLine_FieldsAndOrder(t *testing.T) {
	many := make([]slog.Attr, 0, 60)
	for i := range 30 {
		many = append(many, slog.Int(fmt.Sprint("k", i), i), slog.Int(fmt.Sprint("k", i/2), -1))
	}
	var wantMany []string
	for i := range 30 {
		wantMany = append(wantMany, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	tests := []struct {
		name  string
		attrs []slog.Attr
		want  string
	}{
		{"none", nil, `{}`},
		{"order", []slog.Attr{
			slog.Int("z", 1), slog.Int("a", 2), slog.Int("m", 3)}, `{"z":1,"a":2,"m":3}`},
		{"the first stays", []slog.Attr{
			slog.Int("a", 1), slog.Int("b", 2), slog.Int("a", 3)}, `{"a":1,"b":2}`},
		{"the first of many stays", many, "{" + strings.Join(wantMany, ",") + "}"},
		{"equal only once they are UTF-8", []slog.Attr{
			slog.Int("a\xff", 1), slog.Int("a\xfe", 2)}, `{"a�":1}`},
		{"reserved", []slog.Attr{
			slog.String("ts", "x"), slog.String("event", "x"), slog.Int("a", 1)}, `{"a":1}`},
		{"reserved for readers that fold case", []slog.Attr{
			slog.String("TS", "x"), slog.String("tſ", "x"), slog.String("Event", "x")}, `{}`},
		{"reserved, through an inlined group", []slog.Attr{
			slog.Group("", slog.String("event", "x"), slog.Int("a", 1))}, `{"a":1}`},
		{"time and seq are free", []slog.Attr{
			slog.Int("time", 1), slog.Int("seq", 2)}, `{"time":1,"seq":2}`},
		{"empty attr, empty group", []slog.Attr{{}, slog.Group("g"), slog.Int("a", 1)}, `{"a":1}`},
		{"empty name", []slog.Attr{slog.Int("", 1)}, `{"":1}`},
		{"line ends in a name", []slog.Attr{slog.Int("a\r\n\"b", 1)}, `{"a\u000d\u000a\"b":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, fields(t, record(t, "e", tt.attrs...)))
		})
	}
}

func TestLine_DeepGroupsAreCut(t *testing.T) {
	a := slog.Int("bottom", 1)
	inline := slog.Int("bottom", 1)
	for range 100_000 {
		a = slog.Attr{Key: "g", Value: slog.GroupValue(a)}
		inline = slog.Attr{Value: slog.GroupValue(inline)}
	}
	assert.Contains(t, record(t, "e", a), `"!ERROR"`)
	record(t, "e", inline)
}

func TestLine_LongRecordsAreCut(t *testing.T) {
	long := strings.Repeat("x", 100<<20)
	numbered := func(n int, value string) (attrs []slog.Attr) {
		for i := range n {
			attrs = append(attrs, slog.String(fmt.Sprint("key", i), value))
		}
		return attrs
	}
	var headers []string
	for i := range 100_000 {
		headers = append(headers, fmt.Sprint("value", i))
	}
	tests := []struct {
		name  string
		attrs []slog.Attr
		keeps int // fields that must be there
		names bool
	}{
		{"one string of 100 MB", []slog.Attr{
			slog.Int("a", 1), slog.String("v", long), slog.String("b", "kept")}, 3, false},
		{"of control characters", []slog.Attr{
			slog.String("v", strings.Repeat("\x00", 1<<20)), slog.String("b", "kept")}, 2, false},
		{"of letters of three bytes", []slog.Attr{
			slog.String("v", strings.Repeat("界", 1<<20)), slog.String("b", "kept")}, 2, false},
		{"of invalid UTF-8", []slog.Attr{
			slog.String("v", strings.Repeat("\xff", 1<<20)), slog.String("b", "kept")}, 2, false},
		{"of secrets",
			[]slog.Attr{slog.String("v", strings.Repeat("ticket=CANARY&", 1<<20)),
				slog.String("b", "kept")}, 2, false},
		{"an error of 1 MB", []slog.Attr{
			slog.Any("v", errors.New(long[:1<<20])), slog.String("b", "kept")}, 2, false},
		{"bytes",
			[]slog.Attr{slog.Any("v", []byte(strings.Repeat("é", 1<<20))),
				slog.String("b", "kept")}, 2, false},
		{"base64",
			[]slog.Attr{slog.Any("v", []byte(strings.Repeat("\xff", 50<<10))),
				slog.String("b", "kept")}, 2, false},
		{"a long list", []slog.Attr{slog.Any("v", headers), slog.String("b", "kept")}, 2, false},
		{"a long header", []slog.Attr{
			slog.Any("v", http.Header{"A": headers}), slog.String("b", "kept")}, 2, false},
		{"JSON of its own",
			[]slog.Attr{slog.Any("v", json.RawMessage(`["`+long[:1<<20]+`"]`)),
				slog.String("b", "kept")}, 2, false},
		{"members of a group",
			[]slog.Attr{slog.Attr{Key: "g", Value: slog.GroupValue(numbered(100, long[:4096])...)},
				slog.String("b", "kept")}, 2, false},
		{"1000 fields", numbered(1000, "value of some length that is cut"), 1000, false},
		{"of 100,000 fields, those that fit", numbered(100_000, "v"), 1000, true},
		{"100,000 names of a map", []slog.Attr{slog.Any("v", func() any {
			m := map[string]string{}
			for _, h := range headers {
				m[h] = "x"
			}
			return m
		}()), slog.String("b", "kept")}, 2, false},
		{"a name of 1 MB", []slog.Attr{
			slog.String(long[:1<<20], "v"), slog.String("b", "kept")}, 2, true},
		{"an event of 1 MB", nil, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			event := audit.Event("e")
			if tt.attrs == nil {
				event = audit.Event(long[:1<<20])
			}
			line := record(t, event, tt.attrs...)
			assert.Less(t, len(line)+1, 64<<10)
			assert.NotContains(t, line, "CANARY")
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &got))
			assert.GreaterOrEqual(t, len(got), tt.keeps+2)
			if tt.attrs == nil {
				return
			}
			assert.Equal(t, true, got["truncated"])
			if !tt.names {
				for _, a := range tt.attrs {
					assert.Contains(t, got, a.Key)
				}
				assert.LessOrEqual(t, len(line), 33<<10)
			}
			if len(tt.attrs) < 4 && !tt.names {
				assert.Equal(t, "kept", got["b"])
				assert.Greater(t, len(fmt.Sprint(got[tt.attrs[len(tt.attrs)-2].Key])), 1000,
					"it may take more")
			}
		})
	}

	t.Run("no caller can deny it", func(t *testing.T) {
		line := record(t, "e", slog.Bool("truncated", false), slog.String("v", long[:1<<20]))
		assert.True(t, strings.HasSuffix(line, `","truncated":true}`))
		assert.Equal(t, 1, strings.Count(line, "truncated"))
	})
	t.Run("a record just short of it is whole", func(t *testing.T) {
		line := record(t, "e", slog.String("v", long[:32<<10-100]))
		assert.Contains(t, line, long[:32<<10-100])
		assert.NotContains(t, line, "truncated")
	})
}
