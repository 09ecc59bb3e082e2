package audit

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxDepth = 64     // objects and lists inside one another, and LogValuers in a row
	maxAsked = 10_000 // LogValuers that one record may ask
)

var errValue = errors.New("audit: value can't be encoded")

// resolve returns what a record has of v: a group, a list, or a single value.
// It panics with errValue, or with a method of v, where there is none.
func (r *record) resolve(v slog.Value, depth int) slog.Value {
	for n := 0; v.Kind() == slog.KindLogValuer; n++ {
		if r.asked++; n > maxDepth || r.asked > maxAsked {
			panic(errValue)
		}
		v = v.LogValuer().LogValue()
	}
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(r.text(v.String()))
	case slog.KindGroup:
		if depth++; depth > maxDepth {
			panic(errValue)
		}
		var o object
		r.add(&o, v.Group(), depth)
		return slog.GroupValue(o.attrs...)
	case slog.KindAny:
		return r.walk(reflect.ValueOf(v.Any()), depth)
	case slog.KindFloat64:
		if f := v.Float64(); math.IsNaN(f) || math.IsInf(f, 0) {
			panic(errValue)
		}
	case slog.KindTime:
		if year := v.Time().UTC().Year(); year < 0 || year > 9999 { // RFC 3339
			panic(errValue)
		}
	}
	return v
}

// walk finds LogValuers, errors and the names of secrets at every depth. All
// else is what json.Marshal makes of it.
func (r *record) walk(v reflect.Value, depth int) slog.Value {
	if depth++; depth > maxDepth { // a cycle, or as good as one
		panic(errValue)
	}
	r.room -= 4
	switch v.Kind() {
	case reflect.Invalid:
		return slog.Value{}
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		if v.IsNil() {
			return slog.Value{}
		}
	}
	if own, ok := r.method(v, depth); ok {
		return own
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return r.walk(v.Elem(), depth)
	case reflect.String:
		return slog.StringValue(r.text(v.String()))
	case reflect.Struct:
		var o object
		r.fields(&o, v, depth)
		return o.value()
	case reflect.Map:
		return r.members(v, depth)
	case reflect.Slice, reflect.Array:
		list := []any{}
		for i := 0; i < v.Len() && r.hasRoom(); i++ {
			list = append(list, plain(r.walk(v.Index(i), depth)))
		}
		return slog.AnyValue(list)
	}
	return r.marshal(v.Interface(), depth)
}

// method returns what a value says itself about how it is written.
func (r *record) method(v reflect.Value, depth int) (slog.Value, bool) {
	x := v.Interface()
	_, marshals := x.(json.Marshaler)
	switch x := x.(type) {
	case slog.Value:
		return r.resolve(x, depth), true
	case slog.LogValuer:
		return r.resolve(slog.AnyValue(x), depth), true
	case slog.Attr:
		return r.resolve(slog.GroupValue(x), depth), true
	case []slog.Attr:
		return r.resolve(slog.GroupValue(x...), depth), true
	case time.Time:
		return slog.AnyValue(plain(r.resolve(slog.TimeValue(x), depth))), true
	case *time.Time:
		return r.walk(v.Elem(), depth), true
	case time.Duration:
		return slog.StringValue(x.String()), true
	case *url.URL:
		return slog.StringValue(r.text(x.String())), true
	case url.URL:
		return slog.StringValue(r.text(x.String())), true
	case error:
		if !marshals {
			return slog.StringValue(r.text(x.Error())), true
		}
	case json.Number:
		return r.marshal(x, depth), true
	case []byte:
		if x = x[:min(len(x), maxText)]; utf8.Valid(x) || len(x) == maxText {
			return slog.StringValue(r.text(string(x))), true
		}
		return r.marshal(x, depth), true
	}
	t := v.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() != "" && r.secret(t.Name(), secretName) {
		return slog.StringValue(masked), true // a Password, an oauth2.Token, an http.Cookie
	}
	if _, ok := x.(encoding.TextMarshaler); ok || marshals {
		return r.marshal(x, depth), true
	}
	return slog.Value{}, false
}

// fields adds a struct's own fields, then those of what it embeds, so that of
// equal names the outer one stays.
func (r *record) fields(o *object, v reflect.Value, depth int) {
	if depth > maxDepth {
		panic(errValue)
	}
	for _, embedded := range []bool{false, true} {
		for i := range v.NumField() {
			f, fv := v.Type().Field(i), v.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			base := f.Type
			if base.Kind() == reflect.Pointer {
				base = base.Elem()
			}
			inlined := f.Anonymous && name == "" && base.Kind() == reflect.Struct
			switch {
			case inlined != embedded || name == "-" || r.secret(f.Name, weakName):
			case inlined && fv.Kind() == reflect.Pointer:
				if f.IsExported() && !fv.IsNil() {
					r.fields(o, fv.Elem(), depth+1)
				}
			case inlined:
				r.fields(o, fv, depth+1)
			case !f.IsExported(), strings.Contains(options, "omit") && fv.IsZero():
			default:
				r.put(o, cmp.Or(name, f.Name), func() slog.Value { return r.walk(fv, depth) })
			}
		}
	}
}

// members adds the members of a map in the order of their names.
func (r *record) members(v reflect.Value, depth int) slog.Value {
	values := map[string]reflect.Value{}
	r.truncated = r.truncated || v.Len() > softLine
	for it := v.MapRange(); it.Next() && len(values) < softLine; {
		name := it.Key()
		if name.Kind() == reflect.Interface {
			name = name.Elem()
		}
		text, marshals := name.Interface().(encoding.TextMarshaler)
		switch {
		case name.Kind() == reflect.String:
			values[name.String()] = it.Value()
		case marshals:
			b, err := text.MarshalText()
			if err != nil {
				panic(errValue)
			}
			values[string(b)] = it.Value()
		case name.CanInt() || name.CanUint():
			values[fmt.Sprint(name.Interface())] = it.Value()
		default:
			panic(errValue)
		}
	}
	var o object
	for _, name := range slices.Sorted(maps.Keys(values)) {
		r.put(&o, name, func() slog.Value { return r.walk(values[name], depth) })
	}
	return o.value()
}

func (r *record) marshal(x any, depth int) slog.Value {
	b, err := json.Marshal(x)
	if err != nil {
		panic(errValue)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return r.decode(d, depth)
}

// decode returns the JSON value that d reads next.
func (r *record) decode(d *json.Decoder, depth int) slog.Value {
	t, err := d.Token()
	if depth++; err != nil || depth > maxDepth {
		panic(errValue)
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return r.decodeObject(d, depth)
		}
		list := []any{}
		for d.More() {
			list = append(list, plain(r.decode(d, depth)))
		}
		_, _ = d.Token()
		return slog.AnyValue(list)
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return slog.Int64Value(n)
		}
		f, err := t.Float64()
		if text := strconv.FormatFloat(f, 'g', -1, 64); err == nil && text == t.String() {
			return slog.Float64Value(f)
		}
	case string:
		return slog.StringValue(r.text(t))
	}
	return slog.AnyValue(t)
}

func (r *record) decodeObject(d *json.Decoder, depth int) slog.Value {
	var o object
	for d.More() {
		name, err := d.Token()
		if err != nil {
			panic(errValue)
		}
		var skipped json.RawMessage
		if r.secret(name.(string), weakName) {
			if d.Decode(&skipped) != nil {
				panic(errValue)
			}
			if r.inText > 0 {
				o.attrs = append(o.attrs, slog.String(name.(string), masked))
				r.hidden++
			}
			continue
		}
		v := r.decode(d, depth)
		r.put(&o, name.(string), func() slog.Value { return v })
	}
	_, _ = d.Token()
	return o.value()
}

// jsonText returns a JSON text with *** for its secrets.
func (r *record) jsonText(s string) (text string) {
	before := r.hidden
	defer func() {
		if recover() != nil {
			text = badValue
		}
		r.inText--
	}()
	r.inText++
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	v := r.decode(d, 0)
	if r.hidden == before {
		return s
	}
	return string(appendValue(nil, v))
}
