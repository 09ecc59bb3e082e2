package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"time"
)

// slogRecord makes the record that a handler is given. Each attribute is
// encoded as it would be for a file, so that there is one redaction and not
// two; what comes out as it went in is handed on as it is.
func (e *encoder) slogRecord(now time.Time, event Event, attrs []slog.Attr) slog.Record {
	name := mask(string(event))
	build := func() slog.Record {
		r := slog.NewRecord(now, event.level(), name, 0)
		r.AddAttrs(slog.String("event", name))
		e.full, e.depth, e.asked, e.buf = false, 0, 0, e.buf[:0]
		o := object{top: true}
		for i := 0; i < len(attrs) && !e.full; i++ {
			start := len(e.buf)
			e.field(&o, attrs[i].Key, attrs[i].Value)
			if written := bytes.TrimPrefix(e.buf[start:], []byte(",")); len(written) > 0 {
				addAttr(&r, attrs[i], written)
			}
		}
		return r
	}
	e.cut, e.limit, e.room = false, softLine, softLine
	r := build()
	if e.full {
		e.cut, e.limit, e.room = true, hardLine, share(attrs)
		r = build()
		r.AddAttrs(slog.Bool("truncated", true))
	}
	return r
}

// addAttr adds a to r, or if it was changed on its way, what was written of it.
func addAttr(r *slog.Record, a slog.Attr, written []byte) {
	value, ok := bytes.CutPrefix(written, []byte(`"`+a.Key+`":`))
	if ok {
		switch a.Value.Kind() {
		case slog.KindString:
			s := a.Value.String()
			ok = len(value) == len(s)+2 && string(value[1:len(value)-1]) == s
		case slog.KindAny, slog.KindGroup, slog.KindLogValuer:
			ok = false
		default:
			ok = string(value) != badValue
		}
	}
	if ok {
		r.AddAttrs(a)
		return
	}
	d := json.NewDecoder(bytes.NewReader(append(append([]byte{'{'}, written...), '}')))
	d.UseNumber()
	if v, err := decode(d); err == nil {
		r.AddAttrs(v.Group()...)
	}
}

// decode reads one JSON value as slog has it.
func decode(d *json.Decoder) (slog.Value, error) {
	t, err := d.Token()
	if err != nil {
		return slog.Value{}, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			var list []any
			for d.More() {
				var x any
				if err := d.Decode(&x); err != nil {
					return slog.Value{}, err
				}
				list = append(list, x)
			}
			_, err = d.Token()
			return slog.AnyValue(list), err
		}
		var members []slog.Attr
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return slog.Value{}, err
			}
			v, err := decode(d)
			if err != nil {
				return slog.Value{}, err
			}
			members = append(members, slog.Attr{Key: key.(string), Value: v})
		}
		_, err = d.Token()
		return slog.GroupValue(members...), err
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return slog.Int64Value(n), nil
		}
		f, err := t.Float64()
		return slog.Float64Value(f), err
	}
	return slog.AnyValue(t), nil
}
