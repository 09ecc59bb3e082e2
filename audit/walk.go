package audit

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// walk returns what appendValue writes for x: groups, lists, and what it leaves
// to json.Marshal. It finds LogValuers, errors and Go names at every depth.
func (r *record) walk(x any, depth int) slog.Value {
	v := reflect.ValueOf(x)
	if k := v.Kind(); k == reflect.Invalid ||
		(k == reflect.Pointer || k == reflect.Map || k == reflect.Slice) && v.IsNil() {
		return slog.Value{}
	}
	if depth++; depth > maxDepth { // a cycle, or as good as one
		panic(errValue)
	}
	r.room -= 4
	switch x := inPlaceOf(x).(type) {
	case slog.Value:
		if x.Kind() == slog.KindGroup {
			return r.group(x.Group(), depth)
		}
		return r.walk(x.Any(), depth)
	case slog.LogValuer:
		if r.asked++; r.asked > maxAsked {
			panic(errValue)
		}
		return r.walk(x.LogValue(), depth)
	case time.Time, time.Duration:
		return slog.AnyValue(plain(slog.AnyValue(x)))
	case string:
		r.room -= len(x)
		return slog.StringValue(x[:min(len(x), maxText+1)])
	case []byte, json.Number:
		return slog.AnyValue(x)
	}
	if t := reflect.Indirect(v).Type(); t.PkgPath() != "" && r.secret(t.Name(), secretName) {
		return slog.StringValue(masked) // a Password, an oauth2.Token, an http.Cookie
	}
	return r.walkKind(v, depth)
}

// inPlaceOf returns a value that is written in x's place: text for an error.
func inPlaceOf(x any) any {
	_, marshals := x.(json.Marshaler)
	switch x := x.(type) {
	case slog.LogValuer:
		return x
	case slog.Attr:
		return slog.GroupValue(x)
	case []slog.Attr:
		return slog.GroupValue(x...)
	case *time.Time:
		return *x
	case url.URL:
		return x.String()
	case *url.URL:
		return x.String()
	case []byte:
		if len(x) > maxText || utf8.Valid(x) {
			return string(x)
		}
	case error:
		if !marshals {
			return x.Error()
		}
	}
	return x
}

func (r *record) walkKind(v reflect.Value, depth int) slog.Value {
	switch x := v.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler:
		return slog.AnyValue(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return r.walk(v.Elem().Interface(), depth)
	case reflect.String:
		return r.walk(v.String(), depth)
	case reflect.Float32:
		return slog.AnyValue(json.Number(fmt.Sprint(v.Interface())))
	case reflect.Struct:
		return groupOrEmpty(r.fields(v, depth))
	case reflect.Map: // json.Marshal sorts the names
		m := reflect.MakeMap(reflect.MapOf(v.Type().Key(), reflect.TypeFor[json.RawMessage]()))
		for it := v.MapRange(); it.Next() && r.hasRoom(); {
			member := json.RawMessage(appendValue(nil, r.walk(it.Value().Interface(), depth)))
			m.SetMapIndex(it.Key(), reflect.ValueOf(member))
		}
		return slog.AnyValue(m.Interface())
	case reflect.Slice, reflect.Array:
		list := []any{}
		for i := 0; i < v.Len() && r.hasRoom(); i++ {
			list = append(list, r.walk(v.Index(i).Interface(), depth))
		}
		return slog.AnyValue(list)
	}
	return slog.AnyValue(v.Interface())
}

// fields returns a struct's own fields, then those of what it embeds: of equal
// names, the first stays.
func (r *record) fields(v reflect.Value, depth int) (own []slog.Attr) {
	if depth > maxDepth { // it embeds itself
		panic(errValue)
	}
	var inner []slog.Attr
	for i := range v.NumField() {
		f, direct := v.Type().Field(i), v.Field(i).Kind() != reflect.Pointer
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fv := reflect.Indirect(v.Field(i))
		switch {
		case name == "-" || r.secret(f.Name, weakName) || !r.hasRoom():
		case f.Anonymous && name == "" && fv.Kind() == reflect.Struct && (f.IsExported() || direct):
			inner = append(inner, r.fields(fv, depth+1)...)
		case !f.IsExported(), f.Anonymous && !fv.IsValid():
		case strings.Contains(options, "omit") && v.Field(i).IsZero():
		default:
			own = append(own, slog.Any(cmp.Or(name, f.Name), r.walk(v.Field(i).Interface(), depth)))
		}
	}
	return append(own, inner...)
}
