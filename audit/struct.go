package audit

import (
	"cmp"
	"reflect"
	"strings"
)

// fields writes a struct's own fields, then those of what it embeds, so that
// of equal names the outer one stays.
func (w *walker) fields(o *object, v reflect.Value) error {
	t := v.Type()
	for i := range t.NumField() {
		f, fv := t.Field(i), v.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || embedded(f, name) || name == "-" {
			continue
		}
		if nameKind(f.Name) != plainName ||
			hasOption(options, "omitempty") && isEmpty(fv) || hasOption(options, "omitzero") && fv.IsZero() {
			continue
		}
		if err := w.member(o, cmp.Or(name, f.Name), func() error { return w.value(fv) }); err != nil {
			return err
		}
	}
	for i := range t.NumField() {
		f, fv := t.Field(i), v.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !embedded(f, name) || nameKind(f.Name) != plainName {
			continue
		}
		if fv.Kind() == reflect.Pointer {
			if fv.IsNil() || !f.IsExported() {
				continue
			}
			fv = fv.Elem()
		}
		if w.depth++; w.depth > maxDepth { // it may embed itself
			return errValue
		}
		err := w.fields(o, fv)
		if w.depth--; err != nil {
			return err
		}
	}
	return nil
}

// embedded reports whether f's fields count as its struct's own.
func embedded(f reflect.StructField, name string) bool {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return f.Anonymous && name == "" && t.Kind() == reflect.Struct
}

func hasOption(options, want string) bool {
	for options != "" {
		var o string
		if o, options, _ = strings.Cut(options, ","); o == want {
			return true
		}
	}
	return false
}

// isEmpty is what encoding/json's omitempty goes by.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
