package audit

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// secrets appends to spans where the secrets in s are, in order. It sees
// through percent-encoding however often it was applied, through \u0026 and
// full-width forms where encoded is set. In a string that was clipped, what
// the end may have cut off counts as found.
func secrets(spans []span, s string, encoded, clipped bool) []span {
	f := finder{v: s, spans: spans, clipped: clipped}
	if encoded {
		f.decode(s)
	}
	for i := 0; i < len(f.v); i++ {
		if meaning[f.v[i]]&(mayHide|mayEnclose) == 0 {
			continue
		}
		from, to := 0, 0
		switch f.v[i] {
		case '=':
			from, to = f.afterEquals(i)
		case ':':
			from, to = f.afterColon(i)
		case '.':
			from, to = f.aroundDot(i)
		case '/':
			from, to = f.afterSlash(i)
		case ' ', '+', '\t':
			from, to = f.afterScheme(i)
		case '"':
			from, to = f.afterQuote(i)
		}
		if to > from {
			f.hide(from, to)
		}
		if f.steps > 4*(len(f.v)+256) { // it was made to take long
			f.hide(i, len(f.v))
			break
		}
	}
	return f.spans
}

// hide adds a span, joined with those that it touches.
func (f *finder) hide(from, to int) {
	s := span{f.raw(from), f.raw(to)}
	for n := len(f.spans); n > 0 && s.from <= f.spans[n-1].to; n-- {
		last := f.spans[n-1]
		s = span{min(s.from, last.from), max(s.to, last.to)}
		f.spans = f.spans[:n-1]
	}
	f.spans = append(f.spans, s)
}

// A finder looks for secrets in v, which is the string with its encodings
// undone.
type finder struct {
	v       string
	at      []int32 // where in the string each byte of v, and v's end, stands; nil: at the same place
	spans   []span
	steps   int  // bytes looked at in search of an end
	clipped bool // v goes on, out of sight
	quote   int  // the width of the " that is open; 0: none is
	slash   int  // 1 + the place of the last /
}

func (f *finder) raw(i int) int32 {
	if f.at == nil {
		return int32(i)
	}
	return f.at[i]
}

// width is how many bytes stand for v[i]: the more, the deeper it is encoded.
func (f *finder) width(i int) int { return int(f.raw(i+1) - f.raw(i)) }

// white reports whether v[i] is white space that nobody encoded.
func (f *finder) white(i int) bool {
	return (f.v[i] <= ' ' || f.v[i] == 0x7f) && f.width(i) == 1
}

// ends reports whether v[i] ends all that a word can be.
func (f *finder) ends(i int) bool {
	return f.white(i) || f.closes(i) && f.v[i-1] != '\\'
}

// closes reports whether v[i] is a quote like the one that is open.
func (f *finder) closes(i int) bool { return f.v[i] == '"' && f.width(i) == f.quote }

// until returns the first place from i on where stop is true, or the end.
func (f *finder) until(i int, stop func(i int) bool) int {
	start := i
	for i < len(f.v) && !stop(i) {
		i++
	}
	f.steps += i - start
	return i
}

func (f *finder) spaces(i int) int {
	for i < len(f.v) && (f.v[i] == ' ' || f.v[i] == '\t') {
		i++
	}
	return i
}

// nameBefore returns the name that ends before i, and whether it has quotes.
func (f *finder) nameBefore(i int) (name string, quoted bool) {
	for i > 0 && f.v[i-1] == ' ' {
		i--
	}
	if i > 0 && (f.v[i-1] == '"' || f.v[i-1] == '\'') {
		quoted = true
		for i--; i > 0 && f.v[i-1] == '\\'; {
			i--
		}
	}
	end := i
	for i > 0 && inName(f.v[i-1]) {
		i--
	}
	return f.v[i:end], quoted
}

func inName(c byte) bool {
	switch c {
	case '_', '-', '.', '[', ']':
		return true
	}
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= utf8.RuneSelf
}

// kindBefore is nameKind for the name that ends before i, or for its last
// part: in running text user.ticket is a ticket too.
func (f *finder) kindBefore(i int) (name string, kind int, quoted bool) {
	name, quoted = f.nameBefore(i)
	kind = nameKind(name)
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 && kind == plainName {
		kind = nameKind(name[dot:])
	}
	return name, kind, quoted
}

// afterEquals finds the value in a query (RFC 3986, 3.4), a form, or a text
// that writes name=value. It ends at an & that is encoded no deeper than the
// equals sign, so that ticket=a%26b is hidden whole.
func (f *finder) afterEquals(i int) (from, to int) {
	if _, kind, _ := f.kindBefore(i); kind == plainName {
		return 0, 0
	}
	depth := f.width(i)
	from = f.spaces(i + 1)
	if from < len(f.v) && (f.v[from] == '\'' || f.v[from] == '"' && !f.closes(from)) {
		return f.inQuotes(from)
	}
	return from, f.until(from, func(i int) bool {
		return f.ends(i) || f.v[i] == '&' && f.width(i) <= depth
	})
}

// inQuotes finds what the quote at i and its like enclose.
func (f *finder) inQuotes(i int) (from, to int) {
	escaped := 0 // "{\"ticket\":\"…\"}" has its quotes escaped
	for i-escaped > 0 && f.v[i-escaped-1] == '\\' {
		escaped++
	}
	run := 0
	return i + 1, f.until(i+1, func(j int) bool {
		if f.v[j] == '\\' {
			run++
			return false
		}
		ends := f.v[j] == f.v[i] && f.width(j) <= f.width(i) && run <= escaped
		run = 0
		return ends
	})
}

// afterColon finds the value in a JSON text, a header line, and in what %v
// makes of a map or a struct.
func (f *finder) afterColon(i int) (from, to int) {
	name, kind, quoted := f.kindBefore(i)
	if kind == plainName {
		return 0, 0
	}
	from = f.spaces(i + 1)
	for from < len(f.v) && f.v[from] == '\\' {
		from++
	}
	switch {
	case from == len(f.v):
		return 0, 0
	case f.v[from] == '\'' || f.v[from] == '"' && (quoted || !f.closes(from)):
		return f.inQuotes(from)
	case f.v[from] == '[': // http.Header's values, as %v prints them
		return from, f.until(from, func(i int) bool { return f.v[i] == ']' })
	case quoted || from == i+1:
		return from, f.until(from, func(i int) bool { return f.ends(i) || strings.IndexByte(",]})&", f.v[i]) >= 0 })
	case isHeader(name, f.v[from:]):
		return from, f.until(from, func(i int) bool { return f.v[i] == '\n' || f.v[i] == '\r' || f.closes(i) })
	}
	return 0, 0 // "refresh token: connection refused"
}

// isHeader reports whether name, a colon and a space begin a header line
// rather than the words of an error.
func isHeader(name, value string) bool {
	if strings.IndexByte(name, '-') >= 0 || len(name) >= 13 && strings.EqualFold(name[len(name)-13:], "authorization") {
		return true
	}
	line, _, _ := strings.Cut(value[:min(len(value), 1024)], "\n")
	return len(name) >= 6 && strings.EqualFold(name[len(name)-6:], "cookie") && strings.IndexByte(line, '=') > 0
}

// aroundDot finds a ticket in a list of subprotocols, and a JWT.
func (f *finder) aroundDot(i int) (from, to int) {
	const prefix = "ticket"
	if p := i - len(prefix); p >= 0 && strings.EqualFold(f.v[p:i], prefix) &&
		(p == 0 || !inToken(f.v[p-1])) {
		return i + 1, f.until(i+1, func(i int) bool { return f.ends(i) || strings.IndexByte(`,;&"'`, f.v[i]) >= 0 })
	}
	// RFC 7519: three parts, and the first is a JSON object.
	start := i
	for start > 0 && inToken(f.v[start-1]) {
		start--
	}
	for ; start+4 <= i; start++ {
		if f.v[start] == 'e' && beginsObject(f.v[start:start+4]) {
			break
		}
	}
	if start+4 > i {
		return 0, 0
	}
	part := func(i int) int { return f.until(i, func(i int) bool { return !inToken(f.v[i]) }) }
	to = part(i + 1)
	if to == len(f.v) && f.clipped {
		return start, to
	}
	if (to == len(f.v) || f.v[to] != '.') && (to < i+5 || !beginsObject(f.v[i+1:i+5])) {
		return 0, 0 // nor are they the first two of a JWT that was cut
	}
	for to < len(f.v) && f.v[to] == '.' { // an encrypted one has five parts
		to = part(to + 1)
	}
	return start, to
}

// inToken reports whether c is one of base64url's (RFC 4648, 5).
func inToken(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-'
}

// beginsObject reports whether four characters of base64url begin {" or {␣.
func beginsObject(s string) bool {
	var b [3]byte
	n, err := base64.RawURLEncoding.Decode(b[:], []byte(s))
	return err == nil && n == 3 && b[0] == '{' && (b[1] == '"' || b[1] == ' ' || b[1] == '\n' || b[1] == '\r' || b[1] == '\t')
}

// afterSlash finds a URL's userinfo (RFC 3986, 3.2.1), and the segment of a
// path that follows one with a secret's name: /reset-password/…
func (f *finder) afterSlash(i int) (from, to int) {
	last := f.slash
	f.slash = i + 1
	if i+1 < len(f.v) && f.v[i+1] == '/' {
		return f.userinfo(i + 2)
	}
	if last == 0 {
		return 0, 0
	}
	name := f.v[last:i]
	for j := range len(name) {
		if !inName(name[j]) {
			return 0, 0
		}
	}
	if nameKind(name) != secretName {
		return 0, 0
	}
	depth := f.width(i)
	return i + 1, f.until(i+1, func(i int) bool {
		return f.ends(i) || strings.IndexByte("/?#&", f.v[i]) >= 0 && f.width(i) <= depth
	})
}

// userinfo finds what stands before the @ of the authority that begins at i.
// A password that has a / or # in it, unencoded as it must not be, makes the
// authority end too early: so where its port is no number, the @ is looked
// for beyond it.
func (f *finder) userinfo(i int) (from, to int) {
	depth, at, colon := f.width(i-1), -1, -1
	end := f.until(i, func(j int) bool {
		switch f.v[j] {
		case '@':
			at = j
		case ':':
			colon = j
		}
		return f.ends(j) || strings.IndexByte(`/?#\`, f.v[j]) >= 0 && f.width(j) <= depth
	})
	if end == len(f.v) && f.clipped {
		return i, end
	}
	if at >= 0 {
		return i, at
	}
	if colon < 0 || colon+1 < end && strings.Trim(f.v[colon+1:end], "0123456789]") == "" {
		return 0, 0
	}
	at = f.until(end, func(j int) bool { return f.ends(j) || f.v[j] == '@' })
	if at < len(f.v) && f.v[at] == '@' || at == len(f.v) && f.clipped {
		return i, at
	}
	return 0, 0
}

// afterScheme finds what follows the name of an HTTP authentication scheme
// (RFC 6750, RFC 7617).
func (f *finder) afterScheme(i int) (from, to int) {
	word := func(name string) bool {
		p := i - len(name)
		return p >= 0 && strings.EqualFold(f.v[p:i], name) && (p == 0 || !inToken(f.v[p-1]))
	}
	stop := func(i int) bool { return f.ends(i) || strings.IndexByte(`,;&"'`, f.v[i]) >= 0 }
	switch {
	case word("bearer"):
		from = f.until(i, func(i int) bool { return f.v[i] != ' ' && f.v[i] != '+' && f.v[i] != '\t' })
		return from, f.until(from, stop)
	case word("basic"):
		from = f.spaces(i)
		to = f.until(from, stop)
		plain, _ := base64.RawStdEncoding.DecodeString(strings.TrimRight(f.v[from:to], "="))
		if strings.IndexByte(string(plain), ':') >= 0 {
			return from, to
		}
	}
	return 0, 0
}

// afterQuote keeps count of quotes, and finds the piece of a password that
// net/url's error tells when it takes it for a port.
func (f *finder) afterQuote(i int) (from, to int) {
	if f.closes(i) {
		f.quote = 0
		return 0, 0
	}
	if w := f.width(i); f.quote == 0 || w < f.quote { // what is encoded deeper stands inside
		f.quote = w
	}
	if strings.HasSuffix(f.v[:i], "invalid port ") {
		return f.inQuotes(i)
	}
	return 0, 0
}

// mask returns s with the secrets in it masked.
func mask(s string) string {
	clipped := len(s) > maxScan
	if clipped {
		s = s[:maxScan]
	}
	spans := secrets(nil, s, true, clipped)
	if spans == nil {
		return s
	}
	var b strings.Builder
	at := 0
	for _, h := range spans {
		b.WriteString(s[at:h.from])
		b.WriteString(masked)
		at = int(h.to)
	}
	b.WriteString(s[at:])
	return b.String()
}
