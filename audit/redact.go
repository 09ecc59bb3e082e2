package audit

import (
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

const masked = "***"

// redactText returns s with *** for the secrets in it. Where s is clipped, so
// is a secret that its end would show. One whose form is percent-encoded or
// escaped as in JSON is found once that is undone, and s is returned like that.
func redactText(s string, clipped bool) string {
	m := masker{v: s, clipped: clipped}
	s = m.masked()
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '\\') < 0 {
		return s
	}
	m = masker{v: undo(s), clipped: clipped, decoded: true}
	if v := m.masked(); m.done > 0 {
		return v
	}
	return s
}

// A masker looks for secrets in v, from left to right. A secret may begin
// inside another and end after it. The masker looks at each byte a bounded
// number of times: strangers choose what v is.
type masker struct {
	v                string
	clipped, decoded bool
	slash, sign      int            // the last slash; the first @ after a place asked about before
	words            map[string]int // by what ends it: the end of the last word
	skip             int            // up to here, nothing is looked for
	out              []byte         // the result, up to done in v
	done             int
}

func (m *masker) masked() string {
	for i := 0; i < len(m.v); i++ {
		from, to := 0, 0
		switch m.v[i] {
		case '=', ':':
			from, to = m.afterName(i)
		case '.':
			from, to = m.aroundDot(i)
		case '/':
			from, to = m.afterSlash(i)
		case ' ', '+', '\t':
			from, to = m.afterBearer(i)
		case '"': // what net/url's errors show of a password that they take for a port
			if strings.HasSuffix(m.v[:i], "invalid port ") {
				from, to = m.inQuotes(i)
			}
		}
		i = max(i, m.skip-1)
		if from >= to || to <= m.done || m.v[from:to] == masked {
			continue
		}
		if from > m.done || m.done == 0 { // one *** for what touches
			m.out = append(append(m.out, m.v[m.done:from]...), masked...)
		}
		m.done = to
	}
	if m.out == nil {
		return m.v
	}
	return string(append(m.out, m.v[m.done:]...))
}

// undo undoes one level of percent-encoding and of JSON's escapes. What would
// end a value, but did not in s, becomes a plus.
func undo(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c, rest := s[i], s[i+1:]
		digits, size := "", 0
		switch {
		case c == '%' && len(rest) >= 2:
			digits, size = rest[:2], 2
		case c == '\\' && len(rest) >= 5 && rest[:3] == "u00":
			digits, size = rest[3:5], 5
		case c == '\\' && rest != "" && strings.IndexByte(`"/nr`, rest[0]) < 0:
			b = append(b, c) // what it escapes stays, too
			c = rest[0]
			i++
		case c == '\\' && rest != "":
			if c = rest[0]; c == 'n' || c == 'r' {
				c = '\n'
			}
			i++
		}
		if code, err := hex.DecodeString(digits); err == nil && size > 0 {
			if c = code[0]; c <= ' ' || c == '&' {
				c = '+'
			}
			i += size
		}
		b = append(b, c)
	}
	return string(b)
}

// next returns the first place from i on that holds one of chars, or the end.
func (m *masker) next(i int, chars string) int {
	if n := strings.IndexAny(m.v[i:], chars); n >= 0 {
		return i + n
	}
	return len(m.v)
}

// until is next, for a secret that no other can begin in and end after.
func (m *masker) until(i int, chars string) int {
	m.skip = m.next(i, chars)
	return m.skip
}

// word returns the end of the word at i. White space ends it, a quote where
// nothing of the word follows, and, as they were sent, these characters.
func (m *masker) word(i int, also string) int {
	if m.words == nil {
		m.words = map[string]int{}
	}
	if m.words[also] < i {
		m.words[also] = m.wordEnd(i, also)
	}
	return m.words[also]
}

func (m *masker) wordEnd(i int, also string) int {
	for ; i < len(m.v); i++ {
		switch c := m.v[i]; {
		case c <= ' ' || c == 0x7f:
			return i
		case c == '"' && (i+1 == len(m.v) || strings.IndexByte(" \t\r\n,:;)]}>", m.v[i+1]) >= 0):
			return i
		case !m.decoded && strings.IndexByte(also, c) >= 0:
			return i
		}
	}
	return i
}

// inToken reports whether c is one of base64url's characters (RFC 4648, 5).
func inToken(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-'
}

// nameBefore returns the name that ends before i, its kind, and whether it is
// in quotes. In a text, user.ticket is a ticket too, and map[Cookie a Cookie.
func (m *masker) nameBefore(i int) (name string, kind int, quoted bool) {
	before := strings.TrimRight(m.v[:i], " ")
	if b := strings.TrimRight(before, `"'`); b != before {
		before, quoted = strings.TrimRight(b, `\`), true
	}
	start := len(before)
	for start > 0 && (inToken(before[start-1]) || strings.IndexByte(".[]", before[start-1]) >= 0 ||
		before[start-1] >= utf8.RuneSelf) {
		start--
	}
	name = before[start:]
	if open := strings.LastIndexByte(name, '['); open > strings.LastIndexByte(name, ']') {
		name = name[open+1:]
	}
	kind = nameKind(name)
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 && kind == plainName {
		kind = nameKind(name[dot:])
	}
	return name, kind, quoted
}

// afterName finds the value in a query (RFC 3986, 3.4), a form, a header line,
// a JSON text, and what %v prints of a map or a struct.
func (m *masker) afterName(i int) (from, to int) {
	name, kind, quoted := m.nameBefore(i)
	rest := strings.TrimLeft(m.v[i+1:], " \t")
	from = len(m.v) - len(rest)
	if kind == plainName || rest == "" {
		return 0, 0
	}
	tight := from == i+1
	value := strings.TrimLeft(rest, `\`)
	switch {
	case value != "" && (value[0] == '"' || value[0] == '\''):
		return m.inQuotes(len(m.v) - len(value))
	case m.v[i] == '=':
		return from, m.word(from, "&")
	case rest[0] == '[' && tight && !quoted: // as http.Header is printed
		return from + 1, m.until(from, "]")
	case !quoted && kind == secretName && m.isHeader(i, name, rest):
		return from, m.until(from, "\r\n")
	case rest[0] == '{' || rest[0] == '[': // where it ends is not looked for
		return from, len(m.v)
	case quoted || tight:
		return from, m.word(from, ",]})&")
	}
	return 0, 0 // "refresh token: connection refused"
}

// inQuotes finds what the quote at i and the next one like it enclose.
func (m *masker) inQuotes(i int) (from, to int) {
	escapes := i - len(strings.TrimRight(m.v[:i], `\`))
	for to, run := i+1, 0; to < len(m.v); to++ {
		switch {
		case m.v[to] == '\\':
			run++
			continue
		case m.v[to] == m.v[i] && run <= escapes:
			m.skip = to
			return i + 1, to - run
		}
		run = 0
	}
	m.skip = len(m.v)
	return i + 1, len(m.v)
}

// isHeader reports whether the colon at i ends the name of a header: one at
// the beginning of a line, with a capital letter, or that is nothing else.
func (m *masker) isHeader(i int, name, value string) bool {
	before := strings.TrimSuffix(strings.TrimRight(m.v[:i], " "), name)
	before = strings.TrimRight(before, " ")
	if before == "" || strings.IndexByte("\n\":", before[len(before)-1]) >= 0 ||
		name[0] >= 'A' && name[0] <= 'Z' && m.v[i+1] == ' ' || strings.IndexByte(name, '-') >= 0 {
		return true
	}
	name = strings.ToLower(name[max(0, len(name)-len("authorization")):])
	cookie := strings.HasSuffix(name, "cookie") && strings.Contains(value[:min(len(value), 256)], "=")
	return cookie || name == "authorization"
}

// aroundDot finds a ticket in a list of subprotocols, and a JWT (RFC 7519):
// parts of base64url of which the first is a JSON object.
func (m *masker) aroundDot(i int) (from, to int) {
	start := i
	for start > 0 && inToken(m.v[start-1]) {
		start--
	}
	if strings.EqualFold(m.v[start:i], "ticket") {
		return i + 1, m.word(i+1, `,;&"'`)
	}
	for start < i && !beginsObject(m.v[start:i]) {
		start++
	}
	if start == i {
		return 0, 0
	}
	parts := 0
	for to = i; to < len(m.v) && m.v[to] == '.'; parts++ {
		for to++; to < len(m.v) && inToken(m.v[to]); to++ {
		}
	}
	m.skip = to
	if parts > 1 || beginsObject(m.v[i+1:]) || m.clipped && to == len(m.v) {
		return start, to
	}
	return 0, 0
}

// beginsObject reports whether base64url stands for {" or { and white space.
func beginsObject(s string) bool {
	return len(s) >= 4 && s[0] == 'e' && (s[1] == 'y' && strings.IndexByte("ABCDIJKL", s[2]) >= 0 ||
		s[1] == 'w' && strings.IndexByte("klmnopqr0123", s[2]) >= 0)
}

// afterSlash finds a URL's userinfo (RFC 3986, 3.2.1), and the segment of a
// path that follows one with a secret's name: /reset-password/…
func (m *masker) afterSlash(i int) (from, to int) {
	segment := m.v[m.slash:i]
	m.slash = i
	if strings.HasPrefix(m.v[i:], "//") {
		return m.userinfo(i + 2)
	}
	if !strings.HasPrefix(segment, "/") || strings.ContainsAny(segment, " ,;:=&?") ||
		nameKind(segment) != secretName {
		return 0, 0
	}
	return i + 1, m.word(i+1, "/?#&")
}

// userinfo finds what stands before the @ of the authority at i. A password
// with a / or # in it makes the authority end too early: where its port is no
// number, the @ is looked for beyond.
func (m *masker) userinfo(i int) (from, to int) {
	end := m.next(i, "/?#\\ \t\r\n\"")
	authority := m.v[i:end]
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		return i, i + at
	}
	if end == len(m.v) && m.clipped {
		return i, end
	}
	_, port, ok := strings.Cut(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	if !ok || port != "" && strings.Trim(port, "0123456789") == "" {
		return 0, 0
	}
	if m.sign < end {
		m.sign = m.next(end, "@ \t\r\n\"")
	}
	if m.sign < len(m.v) && m.v[m.sign] == '@' || m.sign == len(m.v) && m.clipped {
		return i, m.sign
	}
	return 0, 0
}

// afterBearer finds the token of an Authorization header (RFC 6750).
func (m *masker) afterBearer(i int) (from, to int) {
	start := i - len("bearer")
	if start < 0 || !strings.EqualFold(m.v[start:i], "bearer") || start > 0 && inToken(m.v[start-1]) {
		return 0, 0
	}
	from = len(m.v) - len(strings.TrimLeft(m.v[i:], " +\t"))
	return from, m.word(from, `,;&"'`)
}
