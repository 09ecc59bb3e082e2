package audit

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// json writes what a MarshalJSON made, redacted like all else.
func (w *walker) json(m json.Marshaler) error {
	text, err := m.MarshalJSON()
	if err != nil || !json.Valid(text) {
		return errValue
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return w.token(d)
}

func (w *walker) token(d *json.Decoder) error {
	if w.depth++; w.depth > maxDepth {
		return errValue
	}
	defer func() { w.depth-- }()
	t, err := d.Token()
	if err != nil {
		return errValue
	}
	switch t {
	case json.Delim('{'):
		err = w.braces(func(o *object) error { return w.decoded(o, d) })
	case json.Delim('['):
		w.nested = true
		w.buf = append(w.buf, '[')
		for i := 0; d.More(); i++ {
			if i > 0 {
				w.buf = append(w.buf, ',')
			}
			if err := w.token(d); err != nil {
				return err
			}
		}
		w.buf = append(w.buf, ']')
	default:
		return w.value(reflect.ValueOf(t)) // string, json.Number, bool, nil
	}
	if err == nil {
		_, err = d.Token() // the closing delimiter
	}
	return err
}

func (w *walker) decoded(o *object, d *json.Decoder) error {
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return errValue
		}
		key, written := t.(string), false
		err = w.member(o, key, func() error {
			written = true
			return w.token(d)
		})
		if err != nil {
			return err
		}
		if !written {
			var skip json.RawMessage
			if d.Decode(&skip) != nil {
				return errValue
			}
		}
	}
	return nil
}
