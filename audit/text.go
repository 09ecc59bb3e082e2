package audit

import "unicode/utf8"

// What a byte of a string may mean. Most strings have bytes of no meaning
// only, and are copied as they stand.
const (
	mustEscape = 1 << iota // it can't stand in a JSON string, or is not ASCII
	mayHide                // a secret may follow, or have gone before
	mayName                // a letter beyond f: there is no secret's name without, and no JWT
	mayEncode              // it may be part of another character's encoding
	mayEnclose             // it may begin a URL's authority, or end a segment of a path
)

var meaning = func() (t [256]uint8) {
	for c := range t {
		if c < 0x20 || c >= 0x7f {
			t[c] |= mustEscape
		}
		if l := c | 0x20; l > 'f' && l <= 'z' {
			t[c] |= mayName
		}
	}
	for _, c := range `"\` {
		t[c] |= mustEscape
	}
	for _, c := range " +=:.\t\"" {
		t[c] |= mayHide
	}
	t['/'] |= mayEnclose
	for _, c := range []byte{'%', '\\', 0xef} { // 0xef begins the full-width forms
		t[c] |= mayHide | mayEncode
	}
	return t
}()

// meanings is all that the bytes of s may mean.
func meanings(s string) (all uint8) {
	for i := range len(s) {
		all |= meaning[s[i]]
	}
	return all
}

// hides reports whether there can be a secret in s, of whose bytes all is
// what they may mean. There is none in 203.0.113.9, 2001:db8::1 or /ws/admin.
func hides(s string, all uint8) bool {
	switch {
	case all&(mayHide|mayEnclose) == 0:
		return false
	case all&mayHide != 0:
		return all&(mayName|mayEncode|mayEnclose) != 0
	}
	segment := -1 // where the one at hand begins
	for i := range len(s) {
		if s[i] != '/' {
			continue
		}
		if segment == i || segment > 0 && nameKind(s[segment:i]) == secretName {
			return true
		}
		segment = i + 1
	}
	return false
}

// maxScan is how much of a string is looked at: more than any line can hold.
const maxScan = 64 << 10

// text writes s as a JSON string that takes at most room bytes, with the
// secrets in it masked, and reports whether it is all there.
func (e *encoder) text(s string, room int) bool {
	if len(s) > room && !e.cut {
		return false
	}
	clipped := len(s) > maxScan
	if clipped {
		s = s[:maxScan]
	}
	all := meanings(s)
	search := hides(s, all)
	if all&mustEscape == 0 && !search && len(s)+2 <= room {
		e.plain(s)
		return !clipped
	}
	e.spans = e.spans[:0]
	if search {
		e.spans = secrets(e.spans, s, all&mayEncode != 0, clipped)
	}
	if all&mustEscape == 0 && len(e.spans) == 0 && len(s)+2 <= room {
		e.plain(s)
		return !clipped
	}
	return e.quote(s, e.spans, room) && !clipped
}

// plain writes s, in which nothing needs an escape, as a JSON string.
func (e *encoder) plain(s string) {
	b := append(e.buf, '"')
	b = append(b, s...)
	e.buf = append(b, '"')
}

// quote writes s, but for what stands in hidden, as a JSON string that takes
// at most room bytes, and reports whether it is all there.
func (e *encoder) quote(s string, hidden []span, room int) bool {
	end := len(e.buf) + room - 1
	e.buf = append(e.buf, '"')
	whole, at := true, 0
	for _, h := range hidden {
		if whole = e.escape(s[at:h.from], end) && len(e.buf)+len(masked) <= end; !whole {
			break
		}
		e.buf = append(e.buf, masked...)
		at = int(h.to)
	}
	whole = whole && e.escape(s[at:], end)
	e.buf = append(e.buf, '"')
	return whole
}

const hexDigits = "0123456789abcdef"

// escape appends s as it stands inside a JSON string, up to end.
func (e *encoder) escape(s string, end int) bool {
	for i := 0; i < len(s); {
		run := i
		for run < len(s) && meaning[s[run]]&mustEscape == 0 {
			run++
		}
		if n := end - len(e.buf); run-i > n {
			e.buf = append(e.buf, s[i:i+max(n, 0)]...)
			return false
		}
		e.buf = append(e.buf, s[i:run]...)
		if i = run; i == len(s) {
			break
		}
		size, r := 1, rune(s[i])
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		if len(e.buf)+len(`\u0000`) > end {
			return false
		}
		switch {
		case r == '"' || r == '\\':
			e.buf = append(e.buf, '\\', byte(r))
		case unseen(r):
			e.buf = append(e.buf, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default: // U+FFFD where the bytes are no UTF-8
			e.buf = utf8.AppendRune(e.buf, r)
		}
		i += size
	}
	return true
}

// unseen reports whether r is a control character, or one of those that make
// a line look like another line: line ends, the bidi controls of UAX #9
// (CVE-2021-42574), the byte order mark.
func unseen(r rune) bool {
	return r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x2028 || r == 0x2029 ||
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}
