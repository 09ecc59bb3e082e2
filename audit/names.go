package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The kinds of names.
const (
	plainName  = iota
	weakName   // its value is a secret in a field, but in a text it is also an everyday word
	secretName // its value is a secret everywhere
)

// endings has the ends of secret names, by their last three letters. ^ is the start of a name.
var endings = map[string]string{
	"ode": "^code", "ate": "^state", "ket": "^ticket",
	"ken": "token", "ret": "secret", "key": "apikey", "ord": "password",
	"ens": "tokens", "ets": "secrets", "eys": "apikeys", "rds": "passwords",
	"ase": "passphrase", "pwd": "^pwd", "swd": "^passwd", "ier": "^codeverifier",
	"ion": "authorization", "kie": "cookie", "ies": "^cookies",
}

// nameKind returns the kind of a name: for user[password], the highest kind of its parts.
func nameKind(name string) (kind int) {
	if len(name) < len("pwd") { // the shortest secret name
		return plainName
	}
	if strings.IndexByte(name, '[') >= 0 {
		bracket := func(c rune) bool { return c == '[' || c == ']' }
		for part := range strings.FieldsFuncSeq(name, bracket) {
			kind = max(kind, nameKind(part))
		}
		return kind
	}
	var last3 [3]byte
	var longest [len("^authorization")]byte
	ending := endings[string(lastLetters(last3[:], name))]
	switch {
	case ending == "", !strings.HasSuffix(string(lastLetters(longest[:], name)), ending):
		return plainName
	case ending == "^code", ending == "^state":
		return weakName
	}
	return secretName
}

// lastLetters fills buf from its end with the last letters of a name, in lower case and half width:
// X-API-KEY, xApiKey and x.api.key are the same. It returns the filled part.
func lastLetters(buf []byte, name string) []byte {
	at := len(buf)
	for at > 0 && name != "" {
		c, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
		switch {
		case c >= 'Ａ' && c <= 'ｚ':
			c -= 'Ａ' - 'A'
		case c >= utf8.RuneSelf:
			c = unicode.ToLower(unicode.ToUpper(c)) // ſ is an s
		}
		switch lower := c | 0x20; {
		case lower >= 'a' && lower <= 'z':
			at--
			buf[at] = byte(lower)
		case unicode.IsLetter(c): // of another alphabet
			at--
			buf[at] = '?'
		}
	}
	if at > 0 {
		at--
		buf[at] = '^'
	}
	return buf[at:]
}

// secret reports whether r has to redact a name of this kind or a higher one.
func (r *record) secret(name string, kind int) bool { return !r.redacted && nameKind(name) >= kind }

// text returns s with *** for its secrets. A JSON text is redacted by the names of its members.
func (r *record) text(s string) string {
	clipped := len(s) > maxText
	if clipped {
		s, r.truncated = s[:maxText], true
	}
	if r.redacted || !clipped && isToken(s) { // most texts are one token
		return s
	}
	clean := ""
	switch {
	case clipped:
		clean = redactStart(s)
	case len(s) <= maxJSON && strings.IndexByte("{[ \t\r\n", s[0]) >= 0 && json.Valid([]byte(s)):
		clean = redactJSON(s)
	default:
		clean = redactText(s)
	}
	r.hidden = r.hidden || clean != s
	return clean
}

// inToken reports whether c is a character of base64url (RFC 4648, 5).
func inToken(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func isToken(s string) bool {
	for i := range len(s) {
		if !inToken(s[i]) {
			return false
		}
	}
	return true
}

// beginsObject reports whether s is base64url of {" or of { and white space.
func beginsObject(s string) bool {
	return len(s) >= 4 && s[0] == 'e' && (s[1] == 'y' && strings.IndexByte("ABCDIJKL", s[2]) >= 0 ||
		s[1] == 'w' && strings.IndexByte("klmnopqr0123", s[2]) >= 0)
}

const masked = "***"

// redactText returns s with *** for its secrets. If it finds more of them after decoding s, it
// returns the decoded text.
func redactText(s string) string {
	s = mask(s, false)
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '\\') < 0 {
		return s
	}
	plain := decoder().Replace(s)
	if clean := mask(plain, true); clean != plain {
		return clean
	}
	return s
}

// redactStart redacts the start of a longer text. The text may be cut inside a JWT or userinfo.
func redactStart(s string) string {
	const ends = "..@" // completes them
	return strings.TrimSuffix(redactText(s+ends), ends)
}

// decoder decodes percent-encoding and JSON escapes, once. Encoded white space and & become a plus,
// because they do not end a value; \n and \r become a line end.
var decoder = sync.OnceValue(func() *strings.Replacer {
	pairs := []string{`\\`, `\\`, `\"`, `"`, `\/`, `/`, `\n`, "\n", `\r`, "\n"}
	for c := range 256 {
		char := string([]byte{byte(c)})
		if c <= ' ' || c == '&' {
			char = "+"
		}
		for _, digits := range []string{"%x%x", "%x%X", "%X%x", "%X%X"} {
			code := fmt.Sprintf(digits, c>>4, c&15)
			pairs = append(pairs, "%"+code, char, `\u00`+code, char)
		}
	}
	return strings.NewReplacer(pairs...)
})

// redactJSON returns a JSON text with *** for its secrets, or unchanged if it has none.
func redactJSON(s string) (clean string) {
	defer func() {
		if recover() != nil {
			clean = badValue
		}
	}()
	r := record{inText: true}
	if v := r.decode([]byte(s)); r.hidden {
		return string(appendValue(nil, slog.AnyValue(v)))
	}
	return s
}

// decode returns the value of a valid JSON text, redacted. An object becomes attributes, but a map
// if it is empty or in a list.
func (r *record) decode(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return r.decodeNext(d, 0, false)
}

func (r *record) decodeNext(d *json.Decoder, depth int, inList bool) any {
	if depth++; depth > maxDepth {
		panic(badValue)
	}
	t, _ := d.Token()
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return r.decodeObject(d, depth, inList)
		}
		list := []any{}
		for d.More() {
			list = append(list, r.decodeNext(d, depth, true))
		}
		_, _ = d.Token()
		return list
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n
		}
		f, err := t.Float64()
		if text, _ := json.Marshal(f); err == nil && string(text) == t.String() {
			return f
		}
	case string:
		return r.text(t)
	}
	return t
}

// decodeObject leaves secrets out. Inside a text, it replaces them by ***.
func (r *record) decodeObject(d *json.Decoder, depth int, inList bool) any {
	var members []slog.Attr
	object := map[string]any{}
	for d.More() {
		t, _ := d.Token()
		name, v := t.(string), r.decodeNext(d, depth, inList)
		if r.secret(name, weakName) {
			if !r.inText {
				continue
			}
			r.hidden, v = true, masked
		}
		name = cmp.Or(r.text(name), "_") // slog.JSONHandler breaks the line for "": null
		if _, twice := object[name]; !twice {
			object[name] = v
			members = append(members, slog.Any(name, v))
		}
	}
	_, _ = d.Token()
	if inList || len(members) == 0 {
		return object
	}
	return members
}
