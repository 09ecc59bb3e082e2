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
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxDepth = 64     // objects and lists inside one another, and LogValuers in a row
	maxAsked = 10_000 // LogValuers that one record may ask
)

var errValue = errors.New("audit: value can't be encoded")

// add adds attributes as slog has them: a group without a name is inlined, an
// empty one is none.
func (r *record) add(o *object, attrs []slog.Attr, depth int) {
	for _, a := range attrs {
		if depth == 0 {
			r.room = maxRoom
		}
		if r.secret(a.Key, weakName) || !r.hasRoom() {
			continue // before its method is called
		}
		if a.Value.Kind() == slog.KindString {
			r.put(o, a.Key, slog.StringValue(r.text(a.Value.String())))
			continue
		}
		v := r.value(a.Value, depth)
		group := v.Kind() == slog.KindGroup
		switch {
		case group && len(v.Group()) == 0, a.Key == "" && a.Equal(slog.Attr{}):
		case group && a.Key == "":
			for _, m := range v.Group() { // which has been through here
				r.put(o, m.Key, m.Value)
			}
		default:
			r.put(o, a.Key, v)
		}
	}
}

// value is resolve. At the top it returns !ERROR for a value that can't be
// encoded, or has a method that panics.
func (r *record) value(v slog.Value, depth int) (clean slog.Value) {
	if depth > 0 {
		return r.resolve(v, depth)
	}
	defer func() {
		if recover() != nil {
			clean = slog.StringValue(badValue)
		}
	}()
	return r.resolve(v, 0)
}

// put adds a member of an object, unless it is there already.
func (r *record) put(o *object, name string, v slog.Value) {
	r.room -= len(name)
	if len(o.attrs) > hardLine/len(`"":0,`) { // no line has room for more
		r.truncated = true
		return
	}
	if o.top && (strings.EqualFold(name, "ts") || strings.EqualFold(name, "event")) {
		return
	}
	if !isToken(name) {
		name = string([]rune(r.text(name))) // U+FFFD for what is not UTF-8, as in a line
	}
	if !o.has(name) {
		o.attrs = append(o.attrs, slog.Attr{Key: name, Value: v})
	}
}

// secret reports whether a name is at least of this kind.
func (r *record) secret(name string, kind int) bool { return !r.raw && nameKind(name) >= kind }

func (r *record) hasRoom() bool {
	r.truncated = r.truncated || r.room < 0
	return r.room >= 0
}

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
				if name = cmp.Or(name, f.Name); !r.secret(name, weakName) && r.hasRoom() {
					r.put(o, name, r.walk(fv, depth))
				}
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
		if !r.secret(name, weakName) && r.hasRoom() {
			r.put(&o, name, r.walk(values[name], depth))
		}
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
