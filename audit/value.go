package audit

import (
	"cmp"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

var (
	errValue = errors.New("audit: value can't be encoded")
	errLong  = errors.New("audit: value is too long")
)

// resolve asks a LogValuer for its value, and the value that it gives, until
// there is one. A method that panics, and a chain that has no end, are kindBad.
func (e *encoder) resolve(v slog.Value) (_ slog.Value, kind slog.Kind) {
	defer func() {
		if recover() != nil {
			kind = kindBad
		}
	}()
	for range 64 {
		if v.Kind() != slog.KindLogValuer {
			return v, v.Kind()
		}
		if e.asked++; e.asked > maxAsked { // groups of themselves, say
			return v, kindBad
		}
		v = v.LogValuer().LogValue()
	}
	return v, kindBad
}

// A walker writes one value of any type, redacted at every depth. It goes by
// the methods that a value has, then by what it is made of, as encoding/json
// does; but a LogValuer, an error and a secret's name count at every depth.
type walker struct {
	*encoder
	end    int  // the encoder's buffer must not grow beyond
	nested bool // the value has more than one part
}

// top writes x whole, or returns errValue or errLong.
func (w *walker) top(x any) (err error) {
	defer func() {
		if recover() != nil {
			err = errValue
		}
	}()
	return w.value(reflect.ValueOf(x))
}

func (w *walker) value(v reflect.Value) error {
	if !v.IsValid() {
		w.buf = append(w.buf, "null"...)
		return nil
	}
	if w.depth++; w.depth > maxDepth { // a cycle, or as good as one
		return errValue
	}
	defer func() { w.depth-- }()
	if len(w.buf) > w.end {
		return errLong
	}
	if k := v.Kind(); (k == reflect.Pointer || k == reflect.Interface || k == reflect.Map || k == reflect.Slice) && v.IsNil() {
		w.buf = append(w.buf, "null"...)
		return nil
	}
	if v.CanInterface() {
		if done, err := w.method(v); done {
			return err
		}
	}
	return w.made(v)
}

// method writes a value that says itself how it is to be written.
func (w *walker) method(v reflect.Value) (done bool, err error) {
	x := v.Interface()
	_, marshals := x.(json.Marshaler)
	switch x := x.(type) {
	case slog.Value:
		return true, w.slog(x)
	case slog.LogValuer:
		return true, w.slog(slog.AnyValue(x))
	case slog.Attr:
		return true, w.slog(slog.GroupValue(x))
	case []slog.Attr:
		return true, w.slog(slog.GroupValue(x...))
	case time.Time:
		return true, w.time(x)
	case *time.Time:
		return true, w.time(*x)
	case time.Duration:
		w.duration(x)
		return true, nil
	case error:
		if !marshals {
			return true, w.string(x.Error())
		}
	case *url.URL:
		return true, w.string(x.String())
	case url.URL:
		return true, w.string(x.String())
	}
	t := v.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() != "" && nameKind(t.Name()) == secretName {
		return true, w.string(masked) // a Password, an oauth2.Token, an http.Cookie
	}
	switch x := x.(type) {
	case json.Marshaler:
		return true, w.json(x)
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return true, errValue
		}
		return true, w.string(string(text))
	case json.Number:
		if x != "" && (x[0] == '-' || x[0] >= '0' && x[0] <= '9') && json.Valid([]byte(x)) {
			w.buf = append(w.buf, x...)
			return true, nil
		}
	}
	return false, nil
}

// made writes a value by what it is made of.
func (w *walker) made(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return w.value(v.Elem())
	case reflect.String:
		return w.string(v.String())
	case reflect.Bool:
		w.buf = strconv.AppendBool(w.buf, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w.buf = strconv.AppendInt(w.buf, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		w.buf = strconv.AppendUint(w.buf, v.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		return w.float(v.Float(), v.Type().Bits())
	case reflect.Slice, reflect.Array:
		return w.list(v)
	case reflect.Map:
		return w.mapping(v)
	case reflect.Struct:
		return w.braces(func(o *object) error { return w.fields(o, v) })
	default: // chan, func, complex, unsafe.Pointer
		return errValue
	}
	return nil
}

func (w *walker) string(s string) error {
	if !w.text(s, w.end-len(w.buf)) {
		return errLong
	}
	return nil
}

// bytes are a text where they are UTF-8, else base64.
func (w *walker) bytes(b []byte) error {
	if len(b) > maxScan {
		b = b[:maxScan]
		for n := 1; n < utf8.UTFMax && !utf8.Valid(b); n++ {
			b = b[:len(b)-1]
		}
		if err := w.bytes(b); err != nil {
			return err
		}
		return errLong
	}
	if utf8.Valid(b) {
		return w.string(string(b))
	}
	w.buf = append(w.buf, '"')
	w.buf = base64.StdEncoding.AppendEncode(w.buf, b)
	w.buf = append(w.buf, '"')
	return nil
}

func (w *walker) list(v reflect.Value) error {
	if t := v.Type().Elem(); t.Kind() == reflect.Uint8 && (v.Kind() == reflect.Slice || v.CanAddr()) {
		return w.bytes(v.Bytes())
	}
	w.nested = true
	w.buf = append(w.buf, '[')
	for i := range v.Len() {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		if err := w.value(v.Index(i)); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, ']')
	return nil
}

func (w *walker) braces(members func(o *object) error) error {
	w.nested = true
	w.buf = append(w.buf, '{')
	if err := members(&object{}); err != nil {
		return err
	}
	w.buf = append(w.buf, '}')
	return nil
}

// member writes one member of an object, unless it is a secret.
func (w *walker) member(o *object, key string, v func() error) error {
	if nameKind(key) != plainName {
		return nil
	}
	if len(w.buf)+len(key) > w.end {
		return errLong
	}
	if !w.name(o, key) {
		return nil
	}
	return v()
}

func (w *walker) mapping(v reflect.Value) error {
	type entry struct {
		key   string
		value reflect.Value
	}
	var entries []entry
	for it := v.MapRange(); it.Next(); {
		key, err := keyText(it.Key())
		if err != nil {
			return err
		}
		if entries = append(entries, entry{key, it.Value()}); len(entries) > softLine {
			break // more than any line has room for
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return w.braces(func(o *object) error {
		for _, en := range entries {
			if err := w.member(o, en.key, func() error { return w.value(en.value) }); err != nil {
				return err
			}
		}
		if len(entries) < v.Len() {
			return errLong
		}
		return nil
	})
}

func keyText(k reflect.Value) (string, error) {
	if k.Kind() == reflect.Interface {
		k = k.Elem()
	}
	if k.Kind() == reflect.String {
		return k.String(), nil
	}
	if k.IsValid() && k.CanInterface() {
		if m, ok := k.Interface().(encoding.TextMarshaler); ok {
			text, err := m.MarshalText()
			return string(text), err
		}
	}
	switch {
	case k.CanInt():
		return strconv.FormatInt(k.Int(), 10), nil
	case k.CanUint():
		return strconv.FormatUint(k.Uint(), 10), nil
	}
	return "", errValue
}

// slog writes a value of slog's inside another value.
func (w *walker) slog(v slog.Value) error {
	v, kind := w.resolve(v)
	switch kind {
	case kindBad:
		return errValue
	case slog.KindGroup:
		return w.braces(func(o *object) error { return w.members(o, v.Group()) })
	}
	return w.value(reflect.ValueOf(v.Any()))
}

func (w *walker) members(o *object, attrs []slog.Attr) error {
	for _, a := range attrs {
		if a.Key == "" && a.Value.Kind() == slog.KindGroup {
			if w.depth++; w.depth > maxDepth {
				return errValue
			}
			err := w.members(o, a.Value.Group())
			if w.depth--; err != nil {
				return err
			}
			continue
		}
		if err := w.member(o, a.Key, func() error { return w.slog(a.Value) }); err != nil {
			return err
		}
	}
	return nil
}
