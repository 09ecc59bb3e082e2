package audit

import (
	"encoding/hex"
	"encoding/json"
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
	badValue = "!ERROR"
)

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
	inText    int  // JSON texts around the value at hand
	hidden    int  // secrets in texts
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
	r.room = maxRoom
	r.event = r.text(string(e))
	o := object{attrs: r.attrs[:0], top: true}
	r.add(&o, attrs, 0)
	r.attrs = o.attrs
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

// An object is the members of a JSON object so far.
type object struct {
	attrs []slog.Attr
	names map[string]struct{} // once there are many
	top   bool                // it is the line, whose ts and event are the log's own
}

// value returns the object as a value. slog leaves out groups without members.
func (o *object) value() slog.Value {
	if len(o.attrs) == 0 {
		return slog.AnyValue(map[string]any{})
	}
	return slog.GroupValue(o.attrs...)
}

func (o *object) has(name string) bool {
	const few = 16
	if len(o.attrs) < few {
		return slices.ContainsFunc(o.attrs, func(a slog.Attr) bool { return a.Key == name })
	}
	if o.names == nil {
		o.names = map[string]struct{}{}
		for _, a := range o.attrs {
			o.names[a.Key] = struct{}{}
		}
	}
	_, ok := o.names[name]
	o.names[name] = struct{}{}
	return ok
}

// text returns s without the secrets in it. Of a JSON text they go by their
// names, as values do.
func (r *record) text(s string) string {
	clipped := len(s) > maxText
	if clipped {
		s, r.truncated = s[:maxText], true
	}
	r.room -= len(s)
	if r.raw || isToken(s) { // as most are
		return s
	}
	if len(s) <= maxJSON && strings.IndexByte("{[ \t\r\n", s[0]) >= 0 && json.Valid([]byte(s)) {
		return r.jsonText(s)
	}
	clean := redactText(s, clipped)
	if clean != s {
		r.hidden++
	}
	return clean
}

func isToken(s string) bool {
	for i := range len(s) {
		if !inToken(s[i]) {
			return false
		}
	}
	return true
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
			return appendString(b, badValue)
		}
		return append(b, text...)
	}
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if width(r, size) == size {
			i += size
			continue
		}
		b = append(b, s[from:i]...)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == utf8.RuneError:
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, `\u`...)
			b = hex.AppendEncode(b, []byte{byte(r >> 8), byte(r)})
		}
		i += size
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

// width is how many bytes of a line stand for r, of size bytes. Escaped are
// control characters, and those that make a line look like another: line ends,
// the bidi controls of UAX #9 (CVE-2021-42574), the byte order mark.
func width(r rune, size int) int {
	switch {
	case r == '"' || r == '\\':
		return 2
	case r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x2028 || r == 0x2029 ||
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff:
		return len(`\u0000`)
	case r == utf8.RuneError && size == 1:
		return utf8.RuneLen(r)
	}
	return size
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
		if r.buf = appendValue(r.buf, a.Value); len(r.buf)-start > room {
			text := string(r.buf[start:])
			if a.Value.Kind() == slog.KindString {
				text = a.Value.String()
			}
			a.Value = slog.StringValue(cutText(text, room))
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
	room -= len(`""`)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if room -= width(r, size); room < 0 {
			return s[:i]
		}
		i += size
	}
	return s
}
