package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
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
		case unicode.IsLetter(r):
			at--
			letters[at] = '?'
		}
	}
	word := letters[at:]
	switch string(word[max(0, len(word)-3):]) {
	case "ode", "ate", "ier", "ket", "ies", "pwd", "swd",
		"ken", "ret", "ord", "key", "ens", "ets", "rds", "eys", "ion", "kie", "ase":
	default:
		return plainName // no name in question ends like this
	}
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

// secret reports whether a name is at least of this kind.
func (r *record) secret(name string, kind int) bool { return !r.raw && nameKind(name) >= kind }

// text returns s without the secrets in it. Of a JSON text they go by their
// names, as values do.
func (r *record) text(s string) string {
	const ends = "..@" // of a secret that reaches beyond what is looked at
	clipped := len(s) > maxText
	if clipped {
		s, r.truncated = s[:maxText], true
	}
	switch {
	case r.raw || !clipped && isToken(s): // as most are
		return s
	case clipped:
		return strings.TrimSuffix(r.redact(s+ends), ends)
	case len(s) <= maxJSON && strings.IndexByte("{[ \t\r\n", s[0]) >= 0 && json.Valid([]byte(s)):
		return r.redactJSON(s)
	}
	return r.redact(s)
}

func (r *record) redact(s string) string {
	clean := redactText(s)
	r.hidden = r.hidden || clean != s
	return clean
}

func isToken(s string) bool {
	for i := range len(s) {
		if !inToken(s[i]) {
			return false
		}
	}
	return true
}

// decode returns the value of a JSON text, which is valid, redacted.
func (r *record) decode(text []byte) slog.Value {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return r.decodeNext(d, 0)
}

func (r *record) decodeNext(d *json.Decoder, depth int) slog.Value {
	if depth++; depth > maxDepth {
		panic(errValue)
	}
	t, _ := d.Token()
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return r.decodeObject(d, depth)
		}
		list := []any{}
		for d.More() {
			list = append(list, plain(r.decodeNext(d, depth)))
		}
		_, _ = d.Token()
		return slog.AnyValue(list)
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return slog.Int64Value(n)
		}
		f, err := t.Float64()
		if text, _ := json.Marshal(f); err == nil && string(text) == t.String() {
			return slog.Float64Value(f)
		}
	case string:
		return slog.StringValue(r.text(t))
	}
	return slog.AnyValue(t)
}

// decodeObject leaves secrets out. In a text, *** stands for them.
func (r *record) decodeObject(d *json.Decoder, depth int) slog.Value {
	var members []slog.Attr
	seen := map[string]bool{}
	for d.More() {
		t, _ := d.Token()
		name, v := t.(string), r.decodeNext(d, depth)
		if r.secret(name, weakName) {
			if !r.inText {
				continue
			}
			r.hidden = true
			v = slog.StringValue(masked)
		}
		if name = r.text(name); !seen[name] {
			seen[name] = true
			members = append(members, slog.Attr{Key: name, Value: v})
		}
	}
	_, _ = d.Token()
	return groupOrEmpty(members)
}

// redactJSON returns a JSON text with *** for its secrets. A text without any
// stays as it is.
func (r *record) redactJSON(s string) (clean string) {
	inText, hidden := r.inText, r.hidden
	r.inText, r.hidden = true, false
	defer func() {
		if recover() != nil {
			clean, r.hidden = badValue, true
		}
		r.inText, r.hidden = inText, r.hidden || hidden
	}()
	v := r.decode([]byte(s))
	if !r.hidden {
		return s
	}
	return string(appendValue(nil, v))
}
