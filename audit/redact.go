package audit

import (
	"strconv"
	"strings"
)

// A masker looks for secrets in v, from left to right. A secret may begin inside another and end
// after it. It reads each byte a bounded number of times, because strangers choose v.
type masker struct {
	v       string
	decoded bool           // v was percent-encoded or had JSON escapes
	skip    int            // the scan continues here
	at      int            // where the last search for an @ stopped
	ends    map[string]int // the end of the last word, by the characters that can end it
	out     []byte         // the result for v[:done]
	done    int
}

func mask(s string, decoded bool) string {
	m := masker{v: s, decoded: decoded}
	for i := 0; i < len(s) && m.done < len(s); i = max(i+1, m.skip) {
		switch s[i] {
		case '=', ':':
			m.afterName(i)
		case ' ', '+', '\t': // before a bearer token (RFC 6750)
			if m.follows(i, "bearer") {
				m.hideWord(len(s)-len(strings.TrimLeft(s[i:], " +\t\\\"'")), `,;&"'`)
			}
		case '.':
			m.afterDot(i)
		case '/':
			m.afterSlash(i)
		case '"': // an error of net/url shows part of a password as a port
			if strings.HasSuffix(s[:i], "invalid port ") {
				m.inQuotes(i)
			}
		}
	}
	if m.out == nil {
		return s
	}
	return string(append(m.out, s[m.done:]...))
}

// hide replaces v[from:to] by ***. Adjacent parts share one ***.
func (m *masker) hide(from, to int) {
	if from >= to || to <= m.done || m.v[from:to] == masked {
		return
	}
	if from > m.done || m.done == 0 {
		m.out = append(append(m.out, m.v[m.done:from]...), masked...)
	}
	m.done = to
}

// hideAll hides v[from:] up to one of chars, or all of it.
func (m *masker) hideAll(from int, chars string) {
	m.skip = len(m.v)
	if n := strings.IndexAny(m.v[from:], chars); n >= 0 {
		m.skip = from + n
	}
	m.hide(from, m.skip)
}

// hideWord hides the word at from. In a decoded text chars do not end it: they may be part of it.
func (m *masker) hideWord(from int, chars string) {
	if m.decoded {
		chars = ""
	}
	if m.ends == nil {
		m.ends = map[string]int{}
	}
	if from >= m.ends[chars] {
		m.ends[chars] = m.wordEnd(from, chars)
	}
	m.hide(from, m.ends[chars])
}

// wordEnd returns the end of the word at i: white space, one of chars, or a closing quote.
func (m *masker) wordEnd(i int, chars string) int {
	for ; i < len(m.v) && m.v[i] > ' '; i++ {
		c, rest := m.v[i], m.v[i+1:]
		if !inToken(c) && (strings.IndexByte(chars, c) >= 0 ||
			c == '"' && (rest == "" || strings.IndexByte(" \t\r\n,:;)]}>", rest[0]) >= 0)) {
			break
		}
	}
	return i
}

// follows reports whether v[:i] ends in word, as a whole word, in any case.
func (m *masker) follows(i int, word string) bool {
	start := i - len(word)
	return start >= 0 && (start == 0 || !inToken(m.v[start-1])) &&
		strings.EqualFold(m.v[start:i], word)
}

// afterName hides the value after the = or : at i, if a secret's name is before it: in a query (RFC
// 3986, 3.4), a form, a header line, a JSON text, or a map or struct printed with %v.
func (m *masker) afterName(i int) {
	before := strings.TrimRight(m.v[:i], " ")
	name := strings.TrimRight(before, `"'`)
	quoted := name != before
	if quoted {
		name = strings.TrimRight(name, `\`)
	}
	start := len(name)
	for start > 0 && (inToken(name[start-1]) || strings.IndexByte(".[]", name[start-1]) >= 0 ||
		name[start-1] >= 0x80) {
		start--
	}
	name = name[start:] // user.ticket is a ticket
	kind := max(nameKind(name), nameKind(name[strings.LastIndexByte(name, '.')+1:]))
	rest := strings.TrimLeft(m.v[i+1:], " \t")
	if kind == plainName || rest == "" {
		return
	}
	from := len(m.v) - len(rest)
	tight := from == i+1
	value := strings.TrimLeft(rest, `\`)
	switch {
	case value != "" && (value[0] == '"' || value[0] == '\''):
		m.inQuotes(len(m.v) - len(value))
		if m.v[i] == '=' { // in a query, quotes do not end a value
			m.hideWord(min(m.skip+1, len(m.v)), "&,;:)]}>")
		}
	case m.v[i] == '=':
		m.hideWord(from, "&")
	case rest[0] == '[' && tight && !quoted: // as http.Header is printed
		m.hideAll(from+1, "]")
	case !quoted && kind == secretName && m.isHeader(start, i):
		m.hideAll(from, "\r\n")
	case rest[0] == '{' || rest[0] == '[': // its end is not searched
		m.hideAll(from, "")
	case quoted || tight: // unlike "refresh token: connection refused"
		m.hideWord(from, ",]})&")
	}
}

// isHeader reports whether v[start:i] is a header's name: at the start or after a line end, quote,
// colon or escape, or capitalized, or with a hyphen, or ending in authorization or cookie.
func (m *masker) isHeader(start, i int) bool {
	before, name, value := strings.TrimRight(m.v[:start], " "), m.v[start:i], m.v[i+1:]
	lower := strings.TrimRight(strings.ToLower(name), " ")
	return before == "" || strings.IndexByte("\n\":\\%", before[len(before)-1]) >= 0 ||
		name[0] >= 'A' && name[0] <= 'Z' && value[0] == ' ' || strings.Contains(name, "-") ||
		strings.HasSuffix(lower, "authorization") ||
		strings.HasSuffix(lower, "cookie") && strings.Contains(value[:min(len(value), 256)], "=")
}

// inQuotes hides the text between the quote at i and the closing one.
func (m *masker) inQuotes(i int) {
	escapes := func(at int) int { return at - len(strings.TrimRight(m.v[:at], `\`)) }
	to := i + 1
	for to < len(m.v) && (m.v[to] != m.v[i] || escapes(to) > escapes(i)) {
		to++
	}
	m.skip = to
	m.hide(i+1, to-escapes(to))
}

// afterDot hides a ticket in a list of subprotocols, and a JWT (RFC 7519): parts in base64url. The
// first, before i, is a JSON object.
func (m *masker) afterDot(i int) {
	if m.follows(i, "ticket") {
		m.hideWord(i+1, `,;&"'`)
	}
	start, to := i, i
	for j := i - 1; j >= 0 && inToken(m.v[j]); j-- {
		if m.v[j] == 'e' && beginsObject(m.v[j:i]) {
			start = j
		}
	}
	if start == i {
		return
	}
	for to < len(m.v) && (m.v[to] == '.' || inToken(m.v[to])) {
		to++
	}
	m.skip = to
	if strings.Count(m.v[i:to], ".") > 1 || beginsObject(m.v[i+1:]) {
		m.hide(start, to)
	}
}

// afterSlash hides the userinfo of a URL (RFC 3986, 3.2.1), and a path segment after one with a
// secret's name: /reset-password/…
func (m *masker) afterSlash(i int) {
	if strings.HasPrefix(m.v[i:], "//") {
		m.userinfo(i + 2)
	}
	slash := strings.LastIndexByte(m.v[:i], '/')
	if slash >= 0 && nameKind(m.v[slash+1:i]) == secretName &&
		!strings.ContainsAny(m.v[slash:i], " ,;:=&?") {
		m.hideWord(len(m.v)-len(strings.TrimLeft(m.v[i:], "/")), "/?#&")
	}
}

// userinfo hides all before the @ of the authority at i. A / or # in a password ends the authority
// too early: if its port is not a number, the @ may be after its end.
func (m *masker) userinfo(i int) {
	end := m.wordEnd(i, `/?#\`)
	authority := m.v[i:end]
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		m.hide(i, i+at)
		return
	}
	if m.at < end {
		m.at = m.wordEnd(end, "@")
	}
	_, port, ok := strings.Cut(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	if !ok || m.at <= m.done || !strings.HasPrefix(m.v[m.at:], "@") {
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		m.hide(i, m.at)
	}
}
