package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	softLine    = 32 << 10  // a record with a longer line has its values cut
	hardLine    = 60 << 10  // no line is longer than this and "truncated":true
	maxText     = 64 << 10  // bytes of a string that are read; the rest is dropped
	maxEncoded  = 128 << 10 // a group, list or map with more JSON than this loses the rest
	maxJSON     = 8 << 10   // a longer JSON text is redacted as plain text
	maxName     = 256       // bytes of a name in a record that is cut
	minValue    = 16        // bytes that every value may have in a record that is cut
	maxDepth    = 128       // levels of a value; an object, a list or a LogValuer has one or two
	maxResolved = 10_000    // LogValuers in one record
	badValue    = "!ERROR"  // replaces a value that can't be encoded; also used for the panic
)

// A record is built from one call of Record: plain values, redacted, cut to fit a line. It is built
// before any lock is taken, because the methods of values may call Record themselves.
type record struct {
	event     string
	attrs     []slog.Attr
	truncated bool
	redacted  bool // another Log has redacted it
	resolved  int  // the number of LogValuers so far
	inText    bool // decode reads a JSON text inside a value
	hidden    bool // a secret was found
	buf       []byte
}

var records = sync.Pool{New: func() any { return &record{buf: make([]byte, 0, 1024)} }}

func (r *record) free() {
	if cap(r.buf) > 2*hardLine || cap(r.attrs) > 1024 {
		return
	}
	clear(r.attrs)
	*r = record{attrs: r.attrs[:0], buf: r.buf[:0]}
	records.Put(r)
}

// newRecord builds a record and its line. The line is in buf, until free.
func newRecord(now time.Time, e Event, attrs []slog.Attr, redacted bool) *record {
	r := records.Get().(*record)
	r.redacted = redacted
	r.event = r.text(string(e))
	for _, a := range attrs {
		r.add(a)
	}
	if r.encode(now); len(r.buf) > softLine {
		r.cut()
	} else if !r.truncated {
		return r
	}
	r.attrs = slices.DeleteFunc(r.attrs, func(a slog.Attr) bool {
		return strings.EqualFold(a.Key, "truncated")
	})
	for r.encode(now); len(r.buf) > hardLine; r.encode(now) { // names are not cut further
		r.attrs = r.attrs[:len(r.attrs)*15/16]
	}
	r.attrs = append(r.attrs, slog.Bool("truncated", true))
	r.encode(now)
	return r
}

// add adds a field, redacted. A plain value stays as it is; others are encoded as JSON and decoded.
// A value that can't be encoded, or whose method panics, becomes !ERROR.
func (r *record) add(a slog.Attr) {
	if r.secret(a.Key, weakName) {
		return // its methods are not called
	}
	defer func() {
		if recover() != nil {
			r.put(a.Key, slog.StringValue(badValue))
		}
	}()
	switch a.Value.Kind() {
	case slog.KindString:
		r.put(a.Key, slog.StringValue(r.text(a.Value.String())))
	case slog.KindAny, slog.KindGroup, slog.KindLogValuer:
		members, _ := r.decode(r.walk(nil, slog.GroupValue(a), -1)).([]slog.Attr)
		for _, m := range members {
			r.put(m.Key, m.Value)
		}
	default:
		_ = appendValue(r.buf, a.Value) // panics for NaN, and for a time beyond RFC 3339
		r.put(a.Key, a.Value)
	}
}

// put adds a field, unless its name is taken or there are too many fields.
func (r *record) put(name string, v slog.Value) {
	if !isToken(name) {
		name = strings.ToValidUTF8(r.text(name), "\ufffd")
	}
	switch {
	case len(r.attrs) > softLine/minValue:
		r.truncated = true
	case strings.EqualFold(name, "ts"), strings.EqualFold(name, "event"): // the log sets these
	case slices.ContainsFunc(r.attrs, func(a slog.Attr) bool { return a.Key == name }):
	default:
		r.attrs = append(r.attrs, slog.Attr{Key: name, Value: v})
	}
}

// members appends attributes as slog does: groups without a name are inlined, empty ones omitted.
func (r *record) members(b []byte, attrs []slog.Attr, depth int) []byte {
	if depth > maxDepth {
		panic(badValue)
	}
	for _, a := range attrs {
		if a.Equal(slog.Attr{}) || r.secret(a.Key, weakName) || !r.hasRoom(b) {
			continue
		}
		start, v := len(b), r.resolve(a.Value)
		if a.Key == "" && v.Kind() == slog.KindGroup {
			b = r.members(b, v.Group(), depth+1)
			continue
		}
		b = append(appendString(b, a.Key), ':')
		b = append(r.walk(b, v, depth), ',')
		if v.Kind() == slog.KindGroup && bytes.HasSuffix(b, []byte(":{},")) {
			b = b[:start] // slog leaves out empty groups
		}
	}
	return b
}

// resolve returns v, or the value of a LogValuer.
func (r *record) resolve(v slog.Value) slog.Value {
	for v.Kind() == slog.KindLogValuer && !isNil(reflect.ValueOf(v.Any())) {
		if r.resolved++; r.resolved > maxResolved {
			panic(badValue)
		}
		v = v.LogValuer().LogValue()
	}
	return v
}

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Slice:
		return v.IsNil()
	}
	return false
}

func (r *record) hasRoom(b []byte) bool {
	r.truncated = r.truncated || len(b) > maxEncoded
	return len(b) <= maxEncoded
}

// encode writes the record's line to buf.
func (r *record) encode(now time.Time) {
	b := appendTime(append(r.buf[:0], `{"ts":`...), now)
	b = appendString(append(b, `,"event":`...), r.event)
	r.buf = append(appendMembers(append(b, ','), r.attrs), '\n')
}

// appendMembers appends the members of an object and the closing brace.
func appendMembers(b []byte, attrs []slog.Attr) []byte {
	for _, a := range attrs {
		b = append(appendString(b, a.Key), ':')
		b = append(appendValue(b, a.Value), ',')
	}
	return closeJSON(b, '}')
}

// appendTime appends t in UTC, with microseconds. AppendText is several times as fast as a layout,
// but drops trailing zeros. Adding one nanosecond prevents that; the digits "001" are cut off.
func appendTime(b []byte, t time.Time) []byte {
	b, err := t.UTC().Truncate(time.Microsecond).Add(1).AppendText(append(b, '"'))
	if err != nil { // RFC 3339 has the years 0 to 9999
		panic(badValue)
	}
	return append(bytes.TrimSuffix(b, []byte("001Z")), `+00:00"`...)
}

// appendValue appends v as JSON. It panics for values that JSON can't express.
func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() { // the kinds of most fields, without an allocation
	case slog.KindString:
		return appendString(b, v.String())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindFloat64:
		if f := math.Abs(v.Float64()); f == 0 || f >= 1e-6 && f < 1e21 { // as json.Marshal does
			return strconv.AppendFloat(b, v.Float64(), 'f', -1, 64)
		}
	}
	switch x := v.Any().(type) {
	case []slog.Attr:
		return appendMembers(append(b, '{'), x)
	case time.Duration:
		return appendString(b, x.String())
	case time.Time:
		return appendTime(b, x)
	case []any:
		b = append(b, '[')
		for _, x := range x {
			b = append(appendValue(b, slog.AnyValue(x)), ',')
		}
		return closeJSON(b, ']')
	case map[string]any:
		var members []slog.Attr
		for _, name := range slices.Sorted(maps.Keys(x)) {
			members = append(members, slog.Any(name, x[name]))
		}
		return appendMembers(append(b, '{'), members)
	default: // a number, true, false or null
		return appendJSON(b, x)
	}
}

func appendJSON(b []byte, x any) []byte {
	text, err := json.Marshal(x)
	if err != nil {
		panic(badValue)
	}
	return append(b, text...)
}

// closeJSON ends an object or a list. It replaces the comma after the last element.
func closeJSON(b []byte, end byte) []byte {
	return append(bytes.TrimSuffix(b, []byte(",")), end)
}

// appendString appends s as a JSON string. It escapes control characters and all that can make a
// line look different: line ends, bidi controls (UAX #9, CVE-2021-42574), the byte order mark.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	plain := 0 // bytes that need no escape: most often all
	for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f &&
		s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	b = append(append(b, '"'), s[:plain]...)
	for _, c := range s[plain:] { // an invalid byte is U+FFFD
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case unicode.IsControl(c), unicode.Is(unicode.Bidi_Control, c),
			c == 0x2028, c == 0x2029, c == 0xfeff:
			b = append(b, '\\', 'u', hex[c>>12&15], hex[c>>8&15], hex[c>>4&15], hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// cut shortens the values of a record to equal shares of a line. A group or a list that is too long
// becomes a string: the start of its JSON.
func (r *record) cut() {
	names := 128 // bytes for ts and event; then for all other names
	for _, a := range r.attrs {
		names += min(len(a.Key), maxName) + len(`"":,`)
	}
	room := max(minValue, (softLine-names)/max(len(r.attrs), 1))
	r.event = cutText(r.event, maxName)
	for i := range r.attrs {
		a := &r.attrs[i]
		a.Key = cutText(a.Key, maxName)
		if text := string(appendValue(nil, a.Value)); len(text) > room {
			if a.Value.Kind() == slog.KindString {
				text = a.Value.String()
			}
			a.Value = slog.StringValue(cutText(text, room))
		}
	}
}

// cutText returns the start of s that takes at most room bytes of a line.
func cutText(s string, room int) string {
	var scratch [8]byte
	room -= len(`""`)
	for i, r := range s {
		if room -= len(appendString(scratch[:0], string(r))) - len(`""`); room < 0 {
			return s[:i]
		}
	}
	return s
}
