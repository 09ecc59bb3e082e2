package audit

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a name says of its value.
const (
	plainName  = iota
	weakName   // a secret as a field; in running text it is an everyday word
	secretName // a secret wherever it stands
)

// nameKind says whether a field of that name is a secret. Case, width, and
// all that is no letter count for nothing: X-API-KEY, xApiKey and x.api.key
// are one name.
func nameKind(name string) int {
	// Nearly every name is cleared by its last three letters.
	tail, n := uint32(0), 0
	for i := len(name) - 1; i >= 0 && n < 3; i-- {
		c := name[i]
		if c >= utf8.RuneSelf {
			return foldedKind(name)
		}
		if c |= 0x20; c >= 'a' && c <= 'z' {
			tail = tail<<5 | uint32(c&31)
			n++
		}
	}
	if tails[tail>>6]&(1<<(tail&63)) == 0 {
		return plainName
	}
	return foldedKind(name)
}

// foldedKind is nameKind for the names that may be secrets. user[ticket] is
// how forms write a ticket.
func foldedKind(name string) int {
	if i := strings.LastIndexByte(name, '['); i > 0 && i < len(name)-2 {
		name = name[i:]
	}
	var letters [16]byte // the last ones; no name in question is longer
	at := len(letters)
	for len(name) > 0 && at > 0 {
		r, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
		if r = fold(r); r < utf8.RuneSelf && r >= 'a' && r <= 'z' {
			at--
			letters[at] = byte(r)
		} else if unicode.IsLetter(r) {
			at--
			letters[at] = '?'
		}
	}
	word := letters[at:]
	for _, name := range wholeNames {
		if string(word) == name {
			if name == "code" || name == "state" {
				return weakName
			}
			return secretName
		}
	}
	for _, end := range endings {
		if len(word) >= len(end) && string(word[len(word)-len(end):]) == end {
			return secretName
		}
	}
	return plainName
}

// The names of secrets, folded. access_token, set-cookie and their like are
// covered by how they end; the plurals are lists of the same.
var (
	wholeNames = [...]string{"code", "state", "codeverifier", "ticket", "cookies", "pwd", "passwd"}
	endings    = [...]string{
		"token", "secret", "password", "apikey", "tokens", "secrets", "passwords", "apikeys",
		"authorization", "cookie", "passphrase",
	}
)

// tails has a bit for the last three letters of each of them.
var tails = func() (bits [1 << 15 / 64]uint64) {
	for _, names := range [][]string{wholeNames[:], endings[:]} {
		for _, name := range names {
			tail := uint32(0)
			for i := len(name) - 1; i >= len(name)-3; i-- {
				tail = tail<<5 | uint32(name[i]&31)
			}
			bits[tail>>6] |= 1 << (tail & 63)
		}
	}
	return bits
}()

// fold returns the lower-case ASCII letter that r is a form of, or r.
func fold(r rune) rune {
	if r >= 0xff01 && r <= 0xff5e { // full width
		r -= 0xff01 - '!'
	}
	if r >= 'A' && r <= 'Z' {
		return r + 'a' - 'A'
	}
	if r >= utf8.RuneSelf {
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			if f >= 'a' && f <= 'z' { // the long s, the Kelvin sign
				return f
			}
		}
	}
	return r
}
