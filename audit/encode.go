package audit

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	softLine = 32 << 10  // a longer record has its values cut
	hardLine = 60 << 10  // no line is longer than this and the little that ends it
	maxText  = 64 << 10  // of a string, no more is looked at
	maxRoom  = 128 << 10 // bytes that the parts of one value may have
	maxJSON  = 8 << 10   // of a JSON text that is decoded; a longer one is like any text
	maxName  = 256       // bytes of a name in a record that is cut
	minValue = 16        // bytes that every value may have in a record that is cut
	maxDepth = 128       // steps into a value: one or two for an object, a list, a LogValuer
	maxAsked = 10_000    // LogValuers that one record may ask
	badValue = "!ERROR"
)

var errValue = errors.New("audit: value can't be encoded")

// A record is what becomes of one call of Record: plain values, redacted, no
// more than a line has room for. It is built before any lock is taken: the
// values may have methods that record events themselves.
type record struct {
	event     string
	attrs     []slog.Attr
	truncated bool
	raw       bool // redacted before
	asked     int  // LogValuers
	room      int  // bytes that the value at hand may still gather
	inText    bool // the value at hand is in a JSON text
	hidden    bool // a secret was found in it
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
	r.add(attrs)
	if r.encode(now); len(r.buf) > softLine {
		r.cut()
	} else if !r.truncated {
		return r
	}
	r.truncated = true
	r.attrs = slices.DeleteFunc(r.attrs, func(a slog.Attr) bool {
		return strings.EqualFold(a.Key, "truncated")
	})
	r.attrs = append(r.attrs, slog.Bool("truncated", true))
	r.encode(now)
	return r
}

// add adds the record's fields, redacted.
func (r *record) add(attrs []slog.Attr) {
	for _, a := range attrs {
		if r.secret(a.Key, weakName) {
			continue // before its method is called
		}
		if a.Value.Kind() == slog.KindString {
			r.put(a.Key, slog.StringValue(r.text(a.Value.String())))
			continue
		}
		v := r.value(a.Value)
		group := v.Kind() == slog.KindGroup
		switch {
		case group && len(v.Group()) == 0, a.Equal(slog.Attr{}):
		case group && a.Key == "":
			for _, m := range v.Group() {
				r.put(m.Key, m.Value)
			}
		default:
			r.put(a.Key, v)
		}
	}
}

// value returns a value that is no string: as it is, or what its JSON says,
// redacted. It is !ERROR where it can't be encoded, or a method of it panics.
func (r *record) value(v slog.Value) (clean slog.Value) {
	defer func() {
		if recover() != nil {
			clean = slog.StringValue(badValue)
		}
	}()
	switch v.Kind() {
	case slog.KindAny, slog.KindGroup, slog.KindLogValuer:
		r.room = maxRoom
		walked := r.walk(v, 0)
		if walked.Kind() == slog.KindGroup && len(walked.Group()) == 0 {
			return walked
		}
		return r.decode(appendValue(nil, walked))
	}
	_ = appendValue(r.buf, v) // panics for NaN, and for a time beyond RFC 3339
	return v
}

// group has attributes as slog does: those of a group without a name beside the
// others, and no empty group.
func (r *record) group(attrs []slog.Attr, depth int) slog.Value {
	var all []slog.Attr
	for _, a := range attrs {
		if a.Equal(slog.Attr{}) || r.secret(a.Key, weakName) || !r.hasRoom() {
			continue
		}
		v := r.walk(a.Value, depth)
		switch group := v.Kind() == slog.KindGroup; {
		case group && a.Key == "":
			all = append(all, v.Group()...)
		case !group || len(v.Group()) > 0:
			all = append(all, slog.Attr{Key: a.Key, Value: v})
		}
	}
	return slog.GroupValue(all...)
}

// put adds a field, unless it is there already or a line has no room for more.
func (r *record) put(name string, v slog.Value) {
	if !isToken(name) {
		name = string([]rune(r.text(name))) // U+FFFD for what is not UTF-8, as in a line
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

func (r *record) hasRoom() bool {
	r.truncated = r.truncated || r.room < 0
	return r.room >= 0
}

// groupOrEmpty is a group, or an empty object: slog leaves out empty groups.
func groupOrEmpty(members []slog.Attr) slog.Value {
	if len(members) == 0 {
		return slog.AnyValue(map[string]any{})
	}
	return slog.GroupValue(members...)
}

// plain returns v as encoding/json and slog's handlers write it in a list.
func plain(v slog.Value) any {
	switch v.Kind() {
	case slog.KindGroup:
		m := map[string]any{}
		for _, a := range v.Group() {
			m[a.Key] = plain(a.Value)
		}
		return m
	case slog.KindDuration:
		return v.Duration().String()
	case slog.KindTime:
		if year := v.Time().UTC().Year(); year < 0 || year > 9999 { // RFC 3339
			panic(errValue)
		}
		return string(appendTime(nil, v.Time()))
	}
	return v.Any()
}

// encode writes the record's line to buf.
func (r *record) encode(now time.Time) {
	b := append(r.buf[:0], `{"ts":"`...)
	b = appendTime(b, now)
	b = appendString(append(b, `","event":`...), r.event)
	for _, a := range r.attrs {
		b = appendString(append(b, ','), a.Key)
		b = appendValue(append(b, ':'), a.Value)
	}
	r.buf = append(b, '}', '\n')
}

// appendTime is t.AppendFormat with "2006-01-02T15:04:05.000000+00:00", for
// which package time has no short cut.
func appendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	b[len(b)-1] = '.' // in the place of Z
	dot := len(b) - 1
	b = strconv.AppendInt(b, int64(t.Nanosecond()/1000+1_000_000), 10)
	b = append(b[:dot+1], b[dot+2:]...)
	return append(b, "+00:00"...)
}

func appendValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return appendString(b, v.String())
	case slog.KindGroup:
		b = append(b, '{')
		for i, a := range v.Group() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, a.Key)
			b = appendValue(append(b, ':'), a.Value)
		}
		return append(b, '}')
	case slog.KindDuration, slog.KindTime:
		return appendString(b, plain(v).(string))
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindFloat64:
		if f := math.Abs(v.Float64()); f == 0 || f >= 1e-6 && f < 1e21 { // as json.Marshal does
			return strconv.AppendFloat(b, v.Float64(), 'f', -1, 64)
		}
	}
	switch x := v.Any().(type) {
	case []any:
		b = append(b, '[')
		for i, x := range x {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, slog.AnyValue(x))
		}
		return append(b, ']')
	case map[string]any:
		members := make([]slog.Attr, 0, len(x))
		for _, name := range slices.Sorted(maps.Keys(x)) {
			members = append(members, slog.Any(name, x[name]))
		}
		return appendValue(b, slog.GroupValue(members...))
	default: // a number, true, false or null
		text, err := json.Marshal(x)
		if err != nil {
			panic(errValue)
		}
		return append(b, text...)
	}
}

// appendString appends s as a JSON string. Escaped are control characters, and
// those that make a line look like another: line ends, the bidi controls of
// UAX #9 (CVE-2021-42574), the byte order mark.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i, r := range s {
		if r >= ' ' && r < 0x7f && r != '"' && r != '\\' {
			continue
		}
		size := utf8.RuneLen(r)
		switch {
		case r == '"' || r == '\\':
			b = append(append(b, s[from:i]...), '\\', byte(r))
		case r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x2028 || r == 0x2029 ||
			r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff:
			b = append(append(b, s[from:i]...), '\\', 'u')
			b = append(b, hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			b = utf8.AppendRune(append(b, s[from:i]...), r)
			size = 1
		default:
			continue
		}
		from = i + size
	}
	return append(append(b, s[from:]...), '"')
}

// cut cuts a record to what a line has room for: each value to an equal share.
// A group or a list that is too long becomes a string, of its JSON.
func (r *record) cut() {
	names := 128 // with the time
	for _, a := range r.attrs {
		names += min(len(a.Key), maxName) + len(`"":,`)
	}
	room := max(minValue, (softLine-names)/max(len(r.attrs), 1))
	left := hardLine - maxName
	r.event = cutText(r.event, maxName)
	for i := range r.attrs {
		a := &r.attrs[i]
		a.Key = cutText(a.Key, maxName)
		start := len(r.buf)
		if a.Value.Kind() == slog.KindString {
			a.Value = slog.StringValue(cutText(a.Value.String(), room))
		} else if r.buf = appendValue(r.buf, a.Value); len(r.buf)-start > room {
			a.Value = slog.StringValue(cutText(string(r.buf[start:]), room))
		}
		r.buf = appendValue(appendString(r.buf[:start], a.Key), a.Value)
		if left -= len(r.buf) - start + len(`:,`); left < 0 {
			r.attrs = r.attrs[:i]
			return
		}
		r.buf = r.buf[:start]
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
