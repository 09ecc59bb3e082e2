package audit

import "unicode/utf8"

// What a byte of a string may mean. Most strings have bytes of no meaning
// only, and are copied as they stand.
const (
	mustEscape = 1 << iota // it can't stand in a JSON string, or is not ASCII
	mayHide                // a secret may follow, or have gone before
	mayEncode              // it may be part of another character's encoding
)

var meaning = func() (t [256]uint8) {
	for c := range t {
		if c < 0x20 || c >= 0x7f {
			t[c] |= mustEscape
		}
	}
	for _, c := range `"\` {
		t[c] |= mustEscape
	}
	for _, c := range " +=:/.\t\"" {
		t[c] |= mayHide
	}
	for _, c := range []byte{'%', '\\', 0xef} { // 0xef begins the full-width forms
		t[c] |= mayHide | mayEncode
	}
	return t
}()

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
	var all uint8
	for i := 0; i < len(s); i++ {
		all |= meaning[s[i]]
	}
	if all&(mustEscape|mayHide) == 0 && len(s)+2 <= room {
		e.buf = append(e.buf, '"')
		e.buf = append(e.buf, s...)
		e.buf = append(e.buf, '"')
		return !clipped
	}
	e.spans = e.spans[:0]
	if all&mayHide != 0 {
		e.spans = secrets(e.spans, s, all&mayEncode != 0, clipped)
	}
	return e.quote(s, e.spans, room) && !clipped
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
	b := e.buf
	defer func() { e.buf = b }()
	for i := 0; i < len(s); {
		run := i
		for run < len(s) && meaning[s[run]]&mustEscape == 0 {
			run++
		}
		if n := end - len(b); run-i > n {
			b = append(b, s[i:i+max(n, 0)]...)
			return false
		}
		b = append(b, s[i:run]...)
		if i = run; i == len(s) {
			break
		}
		size, r := 1, rune(s[i])
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		if len(b)+len(`\u0000`) > end {
			return false
		}
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unseen(r):
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default: // U+FFFD where the bytes are no UTF-8
			b = utf8.AppendRune(b, r)
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
