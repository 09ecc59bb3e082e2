// Package tickets mints and consumes tickets: random values that are good once, for a short while,
// and stand for a session. A browser cannot set headers on a WebSocket upgrade (RFC 6455, section
// 4.1 leaves a page no way to), so a page that is signed in asks for a ticket over HTTPS and opens
// its socket with it.
//
// The package knows nothing of HTTP. An [Issuer] mints and consumes, a [Store] keeps, and
// [MemoryStore] is the store of a single process. All of them are safe for concurrent use.
//
// Where an application runs on several servers, each has an Issuer over a store that they share, such
// as redisstore's or pgstore's: a ticket of one is good at another, and where the store is a
// [RevocationLog] too, as both are, what is revoked at one is revoked at all.
//
// What is promised for as long as the package exists:
//   - A ticket is accepted once, or never. Whatever is in doubt is refused.
//   - A store is never shown a ticket, only its [Key].
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
	"unsafe"
)

const (
	secretSize = 32 // random bytes in a ticket
	textSize   = 43 // and the characters of base64url, without padding, that spell them
)

// Ticket is what a page holds: 43 characters of base64url (RFC 4648, section 5) that spell 32
// random bytes. Whoever shows it first is let in.
//
// It prints as "[ticket]" in fmt, in slog, and in JSON or any other encoding that asks for text. The
// way to reveal it is string(t). Three things are beyond the reach of a type that is a string: fmt
// asks no method about a value in an unexported field of a struct, so a Ticket that is kept in one is
// in plain sight of a careless %v; fmt asks none for the verb %p, which go vet refuses; and
// encoding/json asks none about the keys of a map. A [Key] can be kept anywhere.
type Ticket string

const redacted = "[ticket]"

// newTicket returns a fresh ticket and its key. The key is made here, from the bytes at hand,
// because that saves hashing a copy.
func newTicket() (Ticket, Key) {
	var secret [secretSize]byte
	rand.Read(secret[:]) // never fails: crypto/rand ends the program first
	var text [textSize]byte
	base64.RawURLEncoding.Encode(text[:], secret[:])
	t := Ticket(text[:])
	return t, Key{id: sha256.Sum256(text[:]), text: unsafe.StringData(string(t)), size: textSize}
}

// wellFormed reports whether t can have been minted at all. It is what base64's strict decoding
// checks, at half the price, which every use of a ticket pays: 43 characters of the alphabet, the
// last of which ends in two bits of nothing (RFC 4648, section 3.5).
func (t Ticket) wellFormed() bool {
	if len(t) != textSize {
		return false
	}
	var foreign byte
	for i := range textSize {
		foreign |= sextets[t[i]]
	}
	return foreign&notInAlphabet == 0 && sextets[t[textSize-1]]&3 == 0
}

const notInAlphabet = 1 << 6

// sextets are the six bits that each character of base64url stands for.
var sextets = func() (s [256]byte) {
	for c := range s {
		s[c] = notInAlphabet
	}
	for bits, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		s[c] = byte(bits)
	}
	return s
}()

// Key returns what a store is handed instead of the ticket.
func (t Ticket) Key() Key {
	var text [textSize]byte
	var id [sha256.Size]byte
	if len(t) == textSize {
		copy(text[:], t)
		id = sha256.Sum256(text[:]) // a copy on the stack spares one on the heap
	} else {
		id = sha256.Sum256([]byte(t))
	}
	return Key{id: id, text: unsafe.StringData(string(t)), size: len(t)}
}

// String returns "[ticket]".
func (t Ticket) String() string { return redacted }

// GoString returns "[ticket]".
func (t Ticket) GoString() string { return redacted }

// Format writes "[ticket]", whatever the verb.
func (t Ticket) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// LogValue returns "[ticket]".
func (t Ticket) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[ticket]", so that no JSON shows a ticket by accident. An answer that is
// meant to carry one carries string(t).
func (t Ticket) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// hint is the first 8 characters of a ticket where that is less than half of it, for the one error that
// shows any. What is not printable ASCII is '?': the value is a stranger's.
type hint struct {
	text [8]byte
	size int
}

func (t Ticket) hint() hint {
	var h hint
	n := 0
	for _, r := range string(t) {
		if n < len(h.text) {
			if r < ' ' || r > '~' {
				r = '?'
			}
			h.text[n] = byte(r)
		}
		if n++; n > 2*len(h.text) {
			h.size = len(h.text)
			return h
		}
	}
	return hint{}
}

// Key is what a store is handed instead of the ticket. It prints as its ID, 64 hexadecimal digits,
// under every verb and in every encoding; the first 12 of them name the ticket in an audit log.
// A store files a grant under [Key.ID]: keys of one ticket need not be equal under ==.
type Key struct {
	id [sha256.Size]byte
	// Where the ticket's characters are, for Seal and Open. A pointer to the first of them, and not
	// the string: whatever prints a Key by reflection (fmt does, in an unexported field of another
	// struct) shows an address, and at most that one character.
	text *byte
	size int
}

// ID returns the SHA-256 of the ticket's characters: all that a store keeps of it.
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
