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
	_, marshals := x.(json.Marshaler)
	_, isText := x.(encoding.TextMarshaler)
	switch own := x.(type) {
	case slog.Value:
		if own.Kind() == slog.KindGroup {
			return r.group(own.Group(), depth)
		}
		return r.walk(own.Any(), depth)
	case slog.LogValuer:
		if r.asked++; r.asked > maxAsked {
			panic(errValue)
		}
		return r.walk(own.LogValue(), depth)
	case slog.Attr:
		return r.group([]slog.Attr{own}, depth)
	case []slog.Attr:
		return r.group(own, depth)
	case *time.Time:
		return r.walk(*own, depth)
	case time.Time, time.Duration:
		return slog.AnyValue(plain(slog.AnyValue(own)))
	case url.URL:
		return r.walk(&own, depth)
	case *url.URL:
		return r.walk(own.String(), depth)
	case string:
		r.room -= len(own)
		return slog.StringValue(own[:min(len(own), maxText+1)])
	case []byte:
		if len(own) > maxText || utf8.Valid(own) {
			return r.walk(string(own), depth)
		}
		marshals = true
	case error:
		if !marshals {
			return r.walk(own.Error(), depth)
		}
	case json.Number:
		marshals = true
	}
	t := reflect.Indirect(v).Type()
	switch {
	case t.PkgPath() != "" && r.secret(t.Name(), secretName): // a Password, an http.Cookie
		return slog.StringValue(masked)
	case marshals || isText:
		return slog.AnyValue(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return r.walk(v.Elem().Interface(), depth)
	case reflect.String:
		return r.walk(v.String(), depth)
	case reflect.Float32:
		return slog.AnyValue(json.Number(fmt.Sprint(x)))
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
	return slog.AnyValue(x)
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

// fields returns a struct's own fields, then those of what it embeds: of equal
// names, the first stays.
func (r *record) fields(v reflect.Value, depth int) (own []slog.Attr) {
	if depth > maxDepth {
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
