// Package tickets mints and consumes tickets: random values that are valid once, for a short
// time, and stand for a session. A browser cannot set headers on a WebSocket upgrade (RFC 6455,
// section 4.1, gives a page no way to). So a signed-in page asks for a ticket over HTTPS, and opens
// its socket with it.
//
// The package knows nothing of HTTP. An [Issuer] mints and consumes, a [Store] keeps grants, and
// [MemoryStore] is the store of a single process. All of them are safe for concurrent use.
//
// An application on several servers has an Issuer on each, over a store that they share, such as
// redisstore's or pgstore's. A ticket of one server is valid on the others. If the store is a
// [RevocationLog] too, as both are, a revocation on one server takes effect on all.
//
// What is promised for as long as the package exists:
//   - A ticket is accepted once, or never. If it is in doubt, it is refused.
//   - A store never sees a ticket, only its [Key].
//   - No error, and nothing that is printed, holds a whole ticket.
package tickets

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"
)

const (
	secretSize = 32 // random bytes in a ticket
	textSize   = 43 // the same in base64url without padding
)

// Ticket is what a page holds: 43 characters of base64url (RFC 4648, section 5) that encode 32
// random bytes. The first one to present it is admitted.
//
// It prints as "[ticket]" in fmt, in slog, and in JSON and every other encoding that asks for text.
// string(t) reveals it. A string type cannot prevent three things: fmt calls no method of a value
// in an unexported field of a struct, so do not keep a Ticket in one; fmt calls none for the verb
// %p, which go vet refuses; and encoding/json calls none for the keys of a map. A [Key] can be kept
// anywhere.
type Ticket string

const redacted = "[ticket]"

// newTicket returns a fresh ticket.
func newTicket() Ticket {
	var secret [secretSize]byte
	rand.Read(secret[:]) // never fails: crypto/rand ends the program first
	var text [textSize]byte
	base64.RawURLEncoding.Encode(text[:], secret[:])
	return Ticket(text[:])
}

var strictBase64 = base64.RawURLEncoding.Strict()

// wellFormed reports whether t, of 43 characters, has the form of a ticket: base64url, whose last
// character ends in two zero bits (RFC 4648, section 3.5).
func (t Ticket) wellFormed() bool {
	var secret [secretSize]byte
	n, err := strictBase64.Decode(secret[:], append(make([]byte, 0, textSize), t...))
	return n == secretSize && err == nil // Decode skips newlines
}

// Key returns what a store receives instead of the ticket.
func (t Ticket) Key() Key { return t.key(t.id()) }

func (t Ticket) key(id [sha256.Size]byte) Key {
	return Key{id: id, text: func() string { return string(t) }}
}

// id returns the SHA-256 of t's characters. A copy on the stack saves an allocation.
func (t Ticket) id() [sha256.Size]byte {
	return sha256.Sum256(append(make([]byte, 0, textSize), t...))
}

// String returns "[ticket]".
func (t Ticket) String() string { return redacted }

// GoString returns "[ticket]".
func (t Ticket) GoString() string { return redacted }

// Format writes "[ticket]", whatever the verb.
func (t Ticket) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// LogValue returns "[ticket]".
func (t Ticket) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[ticket]", so that no JSON shows a ticket by accident. An answer that
// carries a ticket carries string(t).
func (t Ticket) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// hint returns the first 8 characters of t if that is less than half of it, else "". What is not
// printable ASCII is '?', because the value may come from an attacker.
func (t Ticket) hint() string {
	const shown = 8
	if utf8.RuneCountInString(string(t)) <= 2*shown {
		return ""
	}
	end := 0
	for range shown {
		_, size := utf8.DecodeRuneInString(string(t[end:]))
		end += size
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(t[:end]))
}

// Key is what a store receives instead of the ticket. It prints as its ID, 64 hexadecimal digits,
// under every verb and in every encoding; the first 12 of them name the ticket in an audit log.
// A store files a grant under [Key.ID]. Keys cannot be compared with ==.
type Key struct {
	id [sha256.Size]byte
	// The ticket's characters, for Seal and Open; nil in the zero Key. It is a function and not a
	// string because fmt prints unexported fields of a struct by reflection, without the methods
	// below: of a function it prints an address.
	text func() string
}

// ticket returns the ticket of k, or "" for the zero Key.
func (k Key) ticket() Ticket {
	if k.text == nil {
		return ""
	}
	return Ticket(k.text())
}

// ID returns the SHA-256 of the ticket's characters. A store keeps nothing else of the ticket.
func (k Key) ID() [sha256.Size]byte { return k.id }

// String returns the ID in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k.id[:]) }

// GoString returns the ID in hexadecimal.
func (k Key) GoString() string { return k.String() }

// Format writes the ID in hexadecimal, whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// LogValue returns the ID in hexadecimal.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns the ID in hexadecimal.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
