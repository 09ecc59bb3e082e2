package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a name says about its value.
const (
	plainName  = iota
	weakName   // a secret as a field; in a text it is an everyday word
	secretName // a secret anywhere
)

var (
	wholeNames = []string{"codeverifier", "ticket", "cookies", "pwd", "passwd"}
	endings    = []string{
		"token", "secret", "password", "apikey", "tokens", "secrets", "passwords", "apikeys",
		"authorization", "cookie", "passphrase",
	}
)

// nameKind returns what a field's name says. Of password[0] and user[password]
// each part counts.
func nameKind(name string) (kind int) {
	if strings.IndexByte(name, '[') < 0 {
		return wordKind(name)
	}
	bracket := func(r rune) bool { return r == '[' || r == ']' }
	for part := range strings.FieldsFuncSeq(name, bracket) {
		kind = max(kind, wordKind(part))
	}
	return kind
}

// wordKind folds a name to its last letters, in lower case: X-API-KEY, xApiKey
// and x.api.key are one name, in every width.
func wordKind(name string) int {
	var letters [16]byte // longer than every name in question
	at := len(letters)
	for i := len(name); i > 0 && at > 0; {
		r, size := utf8.DecodeLastRuneInString(name[:i])
		i -= size
		if r >= utf8.RuneSelf {
			if r = unicode.ToLower(unicode.ToUpper(r)); r >= 'ａ' && r <= 'ｚ' {
				r += 'a' - 'ａ'
			}
		}
		switch {
		case r|0x20 >= 'a' && r|0x20 <= 'z':
			at--
			letters[at] = byte(r | 0x20)
			if at == len(letters)-1 && strings.IndexByte("ntdyser", letters[at]) < 0 {
				return plainName // no name in question ends like this
			}
		case unicode.IsLetter(r):
			at--
			letters[at] = '?'
		}
	}
	word := letters[at:]
	if string(word) == "code" || string(word) == "state" {
		return weakName
	}
	for _, name := range wholeNames {
		if string(word) == name {
			return secretName
		}
	}
	for _, end := range endings {
		if bytes.HasSuffix(word, []byte(end)) {
			return secretName
		}
	}
	return plainName
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
		r.put(&o, name.(string), r.decode(d, depth))
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
