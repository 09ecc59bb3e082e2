package audit

import (
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	softLine = 32 << 10 // a longer record has its values cut
	hardLine = 60 << 10 // no line grows longer than this, and the little that ends it
	maxName  = 256      // bytes of a field's name, in a record that is cut
	minValue = 16       // bytes that every value may have, in a record that is cut
	maxDepth = 64       // objects and lists inside one another
	maxAsked = 10_000   // LogValuers that one record may ask
	badValue = `"!ERROR"`
	masked   = "***"
)

// An encoder builds one line. It is never used under a lock: the values that
// it is given may have methods that record events themselves.
type encoder struct {
	buf   []byte
	limit int  // the line must not grow longer than this
	room  int  // how many bytes one value may take
	cut   bool // values are cut to their room, and names to theirs
	full  bool // the line has reached its limit
	depth int
	asked int    // LogValuers
	spans []span // of the secrets in the string at hand

	known [slots]knownName // each at its slot

	second int64                                           // that stamp was made for
	stamp  [len(`"2006-01-02T15:04:05.000000+00:00"`)]byte // but for its microseconds
}

type span struct{ from, to int32 }

var encoders = sync.Pool{New: func() any { return &encoder{buf: make([]byte, 0, 1024)} }}

func (e *encoder) free() {
	if cap(e.buf) <= 2*hardLine { // what one monster needed is not kept
		encoders.Put(e)
	}
}

// line returns the record as a line, which is good until the encoder's next use.
func (e *encoder) line(now time.Time, event Event, attrs []slog.Attr) []byte {
	e.cut, e.limit, e.room = false, softLine, softLine
	e.record(now, event, attrs)
	if e.full {
		e.cut, e.limit, e.room = true, hardLine, share(attrs)
		e.record(now, event, attrs)
		e.buf = append(e.buf, `,"truncated":true`...)
	}
	e.buf = append(e.buf, '}', '\n')
	return e.buf
}

func (e *encoder) record(now time.Time, event Event, attrs []slog.Attr) {
	e.full, e.depth, e.asked = false, 0, 0
	e.buf = append(e.buf[:0], `{"ts":`...)
	e.time(now)
	e.buf = append(e.buf, `,"event":`...)
	if !e.text(string(event), maxName) && !e.cut {
		e.full = true
	}
	o := object{top: true, notFirst: true}
	e.attrs(&o, attrs)
}

// share is what each value may take of a line that is too long: equal parts
// of what the names leave.
func share(attrs []slog.Attr) int {
	names, values := measure(attrs, 0)
	return max(minValue, (softLine-128-names)/max(values, 1))
}

// measure returns how many bytes the names take and how many values there
// are. It counts no further than a line can reach.
func measure(attrs []slog.Attr, depth int) (names, values int) {
	for i := 0; i < len(attrs) && names <= softLine; i++ {
		names += min(len(attrs[i].Key), maxName) + len(`"":,`)
		if v := attrs[i].Value; v.Kind() == slog.KindGroup && depth < maxDepth {
			n, m := measure(v.Group(), depth+1)
			names, values = names+n, values+m
		} else {
			values++
		}
	}
	return names, values
}

func (e *encoder) attrs(o *object, attrs []slog.Attr) {
	for i := range attrs {
		if e.full {
			return
		}
		if !e.plainField(o, &attrs[i]) {
			e.field(o, attrs[i].Key, attrs[i].Value)
		}
	}
}

// kindBad is the kind of what can't be encoded.
const kindBad = slog.Kind(-1)

// field writes one field, or nothing: of a secret, of a name that is there
// already, and of what has no room, in which case e.full is set.
func (e *encoder) field(o *object, key string, v slog.Value) {
	kind := v.Kind()
	if kind == slog.KindLogValuer {
		if nameKind(key) != plainName {
			return // before its method is called
		}
		v, kind = e.resolve(v)
	}
	if kind == slog.KindString {
		start := len(e.buf)
		if e.name(o, key) {
			if !e.text(v.String(), min(e.room, e.limit-len(e.buf))) && !e.cut {
				e.full = true
			}
			e.keep(start)
		}
		return
	}
	var members []slog.Attr
	if kind == slog.KindGroup {
		members = v.Group()
		switch {
		case len(members) == 0:
			return
		case e.depth >= maxDepth:
			kind = kindBad
		case key == "": // slog's rule: the members stand here themselves
			e.depth++
			e.attrs(o, members)
			e.depth--
			return
		}
	}
	if key == "" && kind == slog.KindAny && v.Any() == nil {
		return // slog's rule: an empty Attr is none
	}

	start := len(e.buf)
	if !e.name(o, key) {
		return
	}
	if kind != slog.KindGroup {
		e.leaf(kind, v)
	} else if e.buf = append(e.buf, '{'); len(e.buf) <= e.limit {
		e.depth++
		e.attrs(&object{}, members)
		e.depth--
		e.buf = append(e.buf, '}')
		return
	}
	e.keep(start)
}

// keep takes back what was written from start on if the line has no room for it.
func (e *encoder) keep(start int) {
	if e.full || len(e.buf) > e.limit {
		e.full = true
		e.buf = e.buf[:start]
	}
}

// leaf writes a value that is no group.
func (e *encoder) leaf(kind slog.Kind, v slog.Value) {
	start := len(e.buf)
	room := min(e.room, e.limit-start)
	switch kind {
	case slog.KindInt64:
		e.buf = strconv.AppendInt(e.buf, v.Int64(), 10)
	case slog.KindUint64:
		e.buf = strconv.AppendUint(e.buf, v.Uint64(), 10)
	case slog.KindBool:
		e.buf = strconv.AppendBool(e.buf, v.Bool())
	case slog.KindDuration:
		e.duration(v.Duration())
	case slog.KindFloat64:
		if e.float(v.Float64(), 64) != nil {
			e.buf = append(e.buf[:start], badValue...)
		}
	case slog.KindTime:
		if e.time(v.Time()) != nil {
			e.buf = append(e.buf[:start], badValue...)
		}
	case slog.KindAny:
		e.any(v.Any(), room)
	default:
		e.buf = append(e.buf, badValue...)
	}
}

// any writes a value of any type. One that is too long is cut as a string is:
// what stands of its JSON becomes the text of a string.
func (e *encoder) any(x any, room int) {
	start, depth := len(e.buf), e.depth
	w := walker{encoder: e, end: start + room}
	err := w.top(x)
	e.depth = depth
	switch {
	case err == nil && len(e.buf) <= w.end:
	case err == errValue:
		e.buf = append(e.buf[:start], badValue...)
	case !e.cut:
		e.full = true
	case err == errLong && !w.nested && len(e.buf) > start: // a string, cut already
	default:
		part := string(e.buf[start:max(start, min(len(e.buf), w.end))])
		e.buf = e.buf[:start]
		e.quote(part, nil, room)
	}
}

// An object is what is known of the JSON object that is being written.
type object struct {
	top      bool // the line itself, whose ts and event are ours
	notFirst bool
	seen     uint64 // a bit for each slot modulo 64 that a name in few has
	n        int
	few      [12]span            // the names, without their quotes
	many     map[string]struct{} // the names, once few is full
}

// name writes a field's name and reports whether its value is to follow.
func (e *encoder) name(o *object, key string) bool {
	if nameKind(key) != plainName || o.top && reserved(key, e.cut) {
		return false
	}
	start := len(e.buf)
	if o.notFirst {
		e.buf = append(e.buf, ',')
	}
	from := len(e.buf)
	room := e.limit - from
	if e.cut {
		room = min(room, maxName)
	}
	if !e.text(key, room) && !e.cut {
		e.full = true
	}
	if e.full || !o.add(e.buf, span{int32(from + 1), int32(len(e.buf) - 1)}) {
		e.buf = e.buf[:start]
		return false
	}
	o.notFirst = true
	e.buf = append(e.buf, ':')
	if o.top && !e.cut {
		e.know(key, e.buf[start:])
	}
	return true
}

// add reports whether the name that stands at s in buf is new.
func (o *object) add(buf []byte, s span) bool {
	name := buf[s.from:s.to]
	if o.many != nil {
		if _, ok := o.many[string(name)]; ok {
			return false
		}
		o.many[string(name)] = struct{}{}
		return true
	}
	bit := uint64(1) << (slot(name) % 64)
	if o.seen&bit != 0 {
		for _, k := range o.few[:o.n] {
			if string(buf[k.from:k.to]) == string(name) {
				return false
			}
		}
	}
	if o.n < len(o.few) {
		o.seen |= bit
		o.few[o.n] = s
		o.n++
		return true
	}
	o.many = map[string]struct{}{string(name): {}}
	for _, k := range o.few {
		o.many[string(buf[k.from:k.to])] = struct{}{}
	}
	return true
}

// reserved reports whether key would pass for one of the log's own fields
// with a reader that, as encoding/json does, takes no account of case.
func reserved(key string, cut bool) bool {
	switch len(key) {
	case len("ts"), len("tſ"):
		return strings.EqualFold(key, "ts")
	case len("event"):
		return strings.EqualFold(key, "event")
	case len("truncated"):
		return cut && strings.EqualFold(key, "truncated")
	}
	return false
}

// time writes t as RFC 3339 has it, in UTC, with microseconds.
func (e *encoder) time(t time.Time) error {
	if second := t.Unix(); second != e.second || e.stamp[0] == 0 {
		t = t.UTC()
		if year := t.Year(); year < 0 || year > 9999 {
			return errValue
		}
		e.second = second
		t.AppendFormat(e.stamp[:0], `"2006-01-02T15:04:05.000000+00:00"`)
	}
	micro := t.Nanosecond() / 1000
	digits2(e.stamp[21:], micro/10000)
	digits2(e.stamp[23:], micro/100%100)
	digits2(e.stamp[25:], micro%100)
	e.buf = append(e.buf, e.stamp[:]...)
	return nil
}

func digits2(b []byte, n int) { b[0], b[1] = byte('0'+n/10), byte('0'+n%10) }

// duration writes d as time.ParseDuration reads it: "1.5s".
func (e *encoder) duration(d time.Duration) {
	e.buf = append(e.buf, '"')
	e.buf = append(e.buf, d.String()...)
	e.buf = append(e.buf, '"')
}

func (e *encoder) float(f float64, bits int) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return errValue
	}
	format := byte('f')
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		format = 'e'
	}
	e.buf = strconv.AppendFloat(e.buf, f, format, -1, bits)
	return nil
}
