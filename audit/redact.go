package audit

import (
	"strconv"
	"strings"
)

// A masker looks for secrets in v, from left to right. A secret may begin inside another and end
// after it. The masker looks at each byte a bounded number of times: strangers choose what v is.
type masker struct {
	v       string
	decoded bool           // v was percent-encoded, or escaped
	skip    int            // no secret begins before
	at      int            // the last place where userinfo looked for an @
	ends    map[string]int // where the last word ends, by what can end it
	out     []byte         // the result, up to done in v
	done    int
}

func mask(s string, decoded bool) string {
	m := masker{v: s, decoded: decoded}
	for i := 0; i < len(s) && m.done < len(s); i = max(i+1, m.skip) {
		switch s[i] {
		case '=', ':':
			m.afterName(i)
		case ' ', '+', '\t': // a header's token (RFC 6750)
			if m.follows(i, "bearer") {
				m.hideWord(len(s)-len(strings.TrimLeft(s[i:], " +\t\\\"'")), `,;&"'`)
			}
		case '.':
			m.afterDot(i)
		case '/':
			m.afterSlash(i)
		case '"': // what net/url's errors show of a password that they take for a port
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

// hide masks a part of v. Parts that touch share one ***.
func (m *masker) hide(from, to int) {
	if from >= to || to <= m.done || m.v[from:to] == masked {
		return
	}
	if from > m.done || m.done == 0 {
		m.out = append(append(m.out, m.v[m.done:from]...), masked...)
	}
	m.done = to
}

// hideAll masks all up to one of chars, or to the end.
func (m *masker) hideAll(from int, chars string) {
	m.skip = len(m.v)
	if n := strings.IndexAny(m.v[from:], chars); n >= 0 {
		m.skip = from + n
	}
	m.hide(from, m.skip)
}

// hideWord masks a word. Of what was encoded, chars may be a part.
func (m *masker) hideWord(from int, chars string) {
	if m.decoded {
		chars = ""
	}
	if m.ends == nil {
		m.ends = map[string]int{}
	}
	if from >= m.ends[chars] {
		m.ends[chars] = m.end(from, chars)
	}
	m.hide(from, m.ends[chars])
}

// end returns where the word at i ends: at white space, one of chars, or its last quote.
func (m *masker) end(i int, chars string) int {
	for ; i < len(m.v) && m.v[i] > ' '; i++ {
		c, rest := m.v[i], m.v[i+1:]
		if !inToken(c) && (strings.IndexByte(chars, c) >= 0 ||
			c == '"' && (rest == "" || strings.IndexByte(" \t\r\n,:;)]}>", rest[0]) >= 0)) {
			break
		}
	}
	return i
}

// follows reports whether word ends before i.
func (m *masker) follows(i int, word string) bool {
	start := i - len(word)
	return start >= 0 && (start == 0 || !inToken(m.v[start-1])) &&
		strings.EqualFold(m.v[start:i], word)
}

// afterName masks the value in a query (RFC 3986, 3.4), a form, a header line, a JSON text, and
// what %v prints of a map or a struct.
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
	name = name[start:]
	kind := nameKind(name)
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 && kind == plainName {
		kind = nameKind(name[dot+1:]) // in a text, user.ticket is a ticket too
	}
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
		if m.v[i] == '=' { // in a query, the value may go on
			m.hideWord(min(m.skip+1, len(m.v)), "&,;:)]}>")
		}
	case m.v[i] == '=':
		m.hideWord(from, "&")
	case rest[0] == '[' && tight && !quoted: // as http.Header is printed
		m.hideAll(from+1, "]")
	case !quoted && kind == secretName && m.isHeader(start, i):
		m.hideAll(from, "\r\n")
	case rest[0] == '{' || rest[0] == '[': // where it ends is not looked for
		m.hideAll(from, "")
	case quoted || tight: // else "refresh token: connection refused"
		m.hideWord(from, ",]})&")
	}
}

// isHeader reports whether a name from start to a colon at i is a header's: one after a line's end
// or an escape, with a capital letter, or that is nothing else.
func (m *masker) isHeader(start, i int) bool {
	before, name, value := strings.TrimRight(m.v[:start], " "), m.v[start:i], m.v[i+1:]
	lower := strings.TrimRight(strings.ToLower(name), " ")
	return before == "" || strings.IndexByte("\n\":\\%", before[len(before)-1]) >= 0 ||
		name[0] >= 'A' && name[0] <= 'Z' && value[0] == ' ' || strings.Contains(name, "-") ||
		strings.HasSuffix(lower, "authorization") ||
		strings.HasSuffix(lower, "cookie") && strings.Contains(value[:min(len(value), 256)], "=")
}

// inQuotes masks what the quote at i and the next one like it enclose.
func (m *masker) inQuotes(i int) {
	escapes := func(at int) int { return at - len(strings.TrimRight(m.v[:at], `\`)) }
	to := i + 1
	for to < len(m.v) && (m.v[to] != m.v[i] || escapes(to) > escapes(i)) {
		to++
	}
	m.skip = to
	m.hide(i+1, to-escapes(to))
}

// afterDot masks a ticket in a list of subprotocols, and a JWT (RFC 7519): parts of base64url of
// which the first, before i, is a JSON object.
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

// afterSlash masks a URL's userinfo (RFC 3986, 3.2.1), and the segment of a path that follows one
// with a secret's name: /reset-password/…
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

// userinfo masks what stands before the @ of the authority at i. A password with a / or # in it
// makes the authority end too early: where its port is no number, the @ is looked for beyond.
func (m *masker) userinfo(i int) {
	end := m.end(i, `/?#\`)
	authority := m.v[i:end]
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		m.hide(i, i+at)
		return
	}
	if m.at < end {
		m.at = m.end(end, "@")
	}
	_, port, ok := strings.Cut(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	if !ok || m.at <= m.done || !strings.HasPrefix(m.v[m.at:], "@") {
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		m.hide(i, m.at)
	}
}
