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
	softLine = 32 << 10  // a longer record has its values cut
	hardLine = 60 << 10  // no line is longer than this and the little that ends it
	maxText  = 64 << 10  // of a string, no more is looked at
	maxRoom  = 128 << 10 // a value with more JSON than this is cut
	maxJSON  = 8 << 10   // of a JSON text that is decoded; a longer one is like any text
	maxName  = 256       // bytes of a name in a record that is cut
	minValue = 16        // bytes that every value may have in a record that is cut
	maxDepth = 128       // steps into a value: one or two for an object, a list, a LogValuer
	maxAsked = 10_000    // LogValuers that one record may ask
	badValue = "!ERROR"  // for what can't be encoded; add recovers from it as a panic
)

// A record is what becomes of one call of Record: plain values, redacted, no more than a line has
// room for. It is built before any lock is taken: the values' methods may record events themselves.
type record struct {
	event     string
	attrs     []slog.Attr
	truncated bool
	raw       bool // redacted before
	asked     int  // LogValuers
	inText    bool // what is decoded is a JSON text in a value
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

// newRecord builds a record and its line, which is in buf until it is freed.
func newRecord(now time.Time, e Event, attrs []slog.Attr, raw bool) *record {
	r := records.Get().(*record)
	r.raw = raw
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
	for r.encode(now); len(r.buf) > hardLine; r.encode(now) { // the names are too long
		r.attrs = r.attrs[:len(r.attrs)*15/16]
	}
	r.attrs = append(r.attrs, slog.Bool("truncated", true))
	r.encode(now)
	return r
}

// add adds a field, redacted: a plain value as it is, or what its JSON says. It is !ERROR where it
// can't be encoded, or a method of it panics.
func (r *record) add(a slog.Attr) {
	if r.secret(a.Key, weakName) {
		return // before its method is called
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

// put adds a field, unless it is there already or a line has no room for more.
func (r *record) put(name string, v slog.Value) {
	if !isToken(name) {
		name = strings.ToValidUTF8(r.text(name), "\ufffd")
	}
	switch {
	case len(r.attrs) > softLine/minValue:
		r.truncated = true
	case strings.EqualFold(name, "ts"), strings.EqualFold(name, "event"): // the log's own
	case slices.ContainsFunc(r.attrs, func(a slog.Attr) bool { return a.Key == name }):
	default:
		r.attrs = append(r.attrs, slog.Attr{Key: name, Value: v})
	}
}

// members appends attributes as slog does: it inlines groups without a name, and omits empty ones.
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

// resolve returns what a LogValuer says.
func (r *record) resolve(v slog.Value) slog.Value {
	for v.Kind() == slog.KindLogValuer && !isNil(reflect.ValueOf(v.Any())) {
		if r.asked++; r.asked > maxAsked {
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
	r.truncated = r.truncated || len(b) > maxRoom
	return len(b) <= maxRoom
}

// encode writes the record's line to buf.
func (r *record) encode(now time.Time) {
	b := appendTime(append(r.buf[:0], `{"ts":`...), now)
	b = appendString(append(b, `,"event":`...), r.event)
	r.buf = append(appendMembers(append(b, ','), r.attrs), '\n')
}

// appendMembers appends the members of an object, and its end.
func appendMembers(b []byte, attrs []slog.Attr) []byte {
	for _, a := range attrs {
		b = append(appendString(b, a.Key), ':')
		b = append(appendValue(b, a.Value), ',')
	}
	return closeJSON(b, '}')
}

// appendTime appends t in UTC, with microseconds. AppendText is several times as fast as a layout,
// but leaves out zeros at the end: with a nanosecond more there are none.
func appendTime(b []byte, t time.Time) []byte {
	b, err := t.UTC().Truncate(time.Microsecond).Add(1).AppendText(append(b, '"'))
	if err != nil { // a year beyond RFC 3339
		panic(badValue)
	}
	return append(bytes.TrimSuffix(b, []byte("001Z")), `+00:00"`...)
}

// appendValue appends v as JSON. It panics for what JSON does not have.
func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() { // those of most fields, without an allocation
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

// closeJSON ends an object or a list, of which each part ends in a comma.
func closeJSON(b []byte, end byte) []byte {
	return append(bytes.TrimSuffix(b, []byte(",")), end)
}

// appendString appends s as a JSON string. Escaped are control characters, and those that make a
// line look like another: line ends, UAX #9's bidi controls (CVE-2021-42574), the byte order mark.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	plain := 0 // bytes, most often all of them
	for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f &&
		s[plain] != '"' && s[plain] != '\\' {
		plain++
	}
	b = append(append(b, '"'), s[:plain]...)
	for _, c := range s[plain:] { // U+FFFD for what is not UTF-8
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

// cut cuts a record to what a line has room for: each value to an equal share. A group or a list
// that is too long becomes a string, of its JSON.
func (r *record) cut() {
	names := 128 // with the time
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

// cutText returns the beginning of s that takes no more than room bytes of a line.
func cutText(s string, room int) string {
	var written [8]byte
	room -= len(`""`)
	for i, r := range s {
		if room -= len(appendString(written[:0], string(r))) - len(`""`); room < 0 {
			return s[:i]
		}
	}
	return s
}
