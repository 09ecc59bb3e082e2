package audit

import (
	"cmp"
	"encoding"
	"encoding/json"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// walk appends x as JSON, which decode redacts. It follows json.Marshal, but resolves LogValuers,
// writes errors as text, and leaves out fields by their Go names, at every depth.
func (r *record) walk(b []byte, x any, depth int) []byte {
	v := reflect.ValueOf(x)
	if isNil(v) {
		return append(b, "null"...)
	}
	if depth++; depth > maxDepth { // probably a cycle
		panic(badValue)
	}
	switch x := x.(type) {
	case slog.Value:
		if x.Kind() == slog.KindGroup {
			return closeJSON(r.members(append(b, '{'), x.Group(), depth), '}')
		}
		return r.walk(b, x.Any(), depth)
	case slog.LogValuer:
		return r.walk(b, r.resolve(slog.AnyValue(x)), depth)
	case slog.Attr:
		return r.walk(b, slog.GroupValue(x), depth)
	case []slog.Attr:
		return r.walk(b, slog.GroupValue(x...), depth)
	case time.Time, time.Duration:
		return appendValue(b, slog.AnyValue(x))
	case *time.Time:
		return r.walk(b, *x, depth)
	case url.URL:
		return r.walk(b, x.String(), depth)
	case string:
		return appendString(b, x[:min(len(x), maxText+1)])
	case []byte:
		if len(x) > maxText || utf8.Valid(x) {
			return r.walk(b, string(x), depth)
		}
	case json.Marshaler: // walkKind calls it, even for an error
	case error:
		return r.walk(b, x.Error(), depth)
	}
	if t := reflect.Indirect(v).Type(); t.PkgPath() != "" && r.secret(t.Name(), secretName) {
		return appendString(b, masked) // a Password, an oauth2.Token, an http.Cookie
	}
	return r.walkKind(b, v, depth)
}

func (r *record) walkKind(b []byte, v reflect.Value, depth int) []byte {
	switch x := v.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler, json.Number, []byte:
		return appendJSON(b, x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return r.walk(b, v.Elem().Interface(), depth)
	case reflect.String:
		return r.walk(b, v.String(), depth)
	case reflect.Struct:
		return closeJSON(r.fields(append(b, '{'), v, depth), '}')
	case reflect.Map: // json.Marshal encodes and sorts the keys
		m := reflect.MakeMap(reflect.MapOf(v.Type().Key(), reflect.TypeFor[json.RawMessage]()))
		start := len(b)
		for it := v.MapRange(); it.Next() && r.hasRoom(b); {
			from := len(b)
			b = r.walk(b, it.Value().Interface(), depth)
			m.SetMapIndex(it.Key(), reflect.ValueOf(json.RawMessage(b[from:])))
		}
		return appendJSON(b[:start], m.Interface())
	case reflect.Slice, reflect.Array:
		if v.Type().AssignableTo(reflect.TypeFor[[]byte]()) {
			return r.walk(b, v.Bytes(), depth)
		}
		b = append(b, '[')
		for i := 0; i < v.Len() && r.hasRoom(b); i++ {
			b = append(r.walk(b, v.Index(i).Interface(), depth), ',')
		}
		return closeJSON(b, ']')
	}
	return appendJSON(b, v.Interface())
}

// fields appends a struct's own fields, then the embedded ones: decode keeps the first of a name.
func (r *record) fields(b []byte, v reflect.Value, depth int) []byte {
	if depth > maxDepth { // it embeds itself
		panic(badValue)
	}
	var embedded []reflect.Value
	for i := range v.NumField() {
		f, direct := v.Type().Field(i), v.Field(i).Kind() != reflect.Pointer
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fv := reflect.Indirect(v.Field(i))
		switch {
		case name == "-" || r.secret(f.Name, weakName) || !r.hasRoom(b):
		case f.Anonymous && name == "" && fv.Kind() == reflect.Struct && (f.IsExported() || direct):
			embedded = append(embedded, fv)
		case !f.IsExported(), f.Anonymous && !fv.IsValid():
		case strings.Contains(options, "omit") && v.Field(i).IsZero():
		default:
			b = append(appendString(b, cmp.Or(name, f.Name)), ':')
			b = append(r.walk(b, v.Field(i).Interface(), depth), ',')
		}
	}
	for _, inner := range embedded {
		b = r.fields(b, inner, depth+1)
	}
	return b
}
