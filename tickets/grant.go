package tickets

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"time"
)

// Grant is what a ticket stands for. Times that come back from a store are the same instants, to
// the nanosecond, in UTC.
type Grant struct {
	SessionID, Provider, UserID string

	Endpoint         string    // the one path it is good for; "" is any guarded path
	Data             string    // the application's own, at most 256 bytes (a room, a tenant)
	StartedAt        time.Time // when the session began; zero: unknown
	MintedAt         time.Time // filled in by Mint
	ExpiresAt        time.Time // of the ticket; filled in by Mint
	SessionExpiresAt time.Time // zero: the session has no known end
}

// Format prints the grant, its session id hashed: the id may be the very cookie. Printing is for
// people; encoding/json and the like see the id as it is.
func (g Grant) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), g.concealed())
}

// LogValue is the grant, its session id hashed.
func (g Grant) LogValue() slog.Value { return slog.AnyValue(g.concealed()) }

func (g Grant) concealed() any {
	type grant Grant // has no methods, so this does not go round in circles
	g.SessionID = concealedID(g.SessionID)
	return grant(g)
}

// concealedID is how a session id may be shown: the first 12 hexadecimal digits of its SHA-256.
func concealedID(id string) string {
	if id == "" {
		return ""
	}
	hash := HashSession(id)
	return hex.EncodeToString(hash[:6])
}

const (
	maxData = 256
	// A session id may be a bearer token, and the largest header that servers commonly take is
	// 8 KiB. The bound keeps any grant within one chunk of a MemoryStore.
	maxField = 8 << 10
)

// check returns everything that is wrong with a grant that is to be minted, without showing it.
func (g *Grant) check() error {
	if max(len(g.SessionID), len(g.Provider), len(g.UserID), len(g.Endpoint)) <= maxField && len(g.Data) <= maxData {
		return nil
	}
	var errs []error
	for _, f := range []struct {
		name, value string
		max         int
	}{
		{"SessionID", g.SessionID, maxField},
		{"Provider", g.Provider, maxField},
		{"UserID", g.UserID, maxField},
		{"Endpoint", g.Endpoint, maxField},
		{"Data", g.Data, maxData},
	} {
		if len(f.value) > f.max {
			errs = append(errs, fmt.Errorf("grant's %s has %d bytes, want at most %d", f.name, len(f.value), f.max))
		}
	}
	return errors.Join(errs...)
}

// An encoded grant is five lengths (uvarint), the five strings in one run, and four times: seconds
// since 1970 in 8 bytes, nanoseconds in 4. Not UnixNano, which is undefined for the year 9999 that
// some give to a session without end, and for the zero time.
//
// What follows is spelled out field by field: it runs for every ticket, and going through a slice of
// the fields costs more than all the rest of it.
const timeSize = 8 + 4

var errBadGrant = errors.New("malformed grant")

// grantSize returns the size of the encoded grant.
func grantSize(g *Grant) int {
	return sizeOf(g.SessionID) + sizeOf(g.Provider) + sizeOf(g.UserID) + sizeOf(g.Endpoint) + sizeOf(g.Data) + 4*timeSize
}

func sizeOf(s string) int { return uvarintSize(len(s)) + len(s) }

func uvarintSize(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }

func appendGrant(b []byte, g *Grant) []byte {
	b = appendLength(b, g.SessionID)
	b = appendLength(b, g.Provider)
	b = appendLength(b, g.UserID)
	b = appendLength(b, g.Endpoint)
	b = appendLength(b, g.Data)
	b = append(b, g.SessionID...)
	b = append(b, g.Provider...)
	b = append(b, g.UserID...)
	b = append(b, g.Endpoint...)
	b = append(b, g.Data...)
	b = appendTime(b, &g.StartedAt)
	b = appendTime(b, &g.MintedAt)
	b = appendTime(b, &g.ExpiresAt)
	return appendTime(b, &g.SessionExpiresAt)
}

func appendLength(b []byte, s string) []byte {
	if len(s) < 0x80 {
		return append(b, byte(len(s)))
	}
	return binary.AppendUvarint(b, uint64(len(s)))
}

func appendTime(b []byte, t *time.Time) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Unix()))
	return binary.LittleEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

// decode is the reverse of appendGrant. It takes nothing that appendGrant cannot have made.
func (g *Grant) decode(b []byte) error {
	var ends [5]int
	total := 0
	for i := range ends {
		size, n := uint64(0), 1
		if len(b) > 0 && b[0] < 0x80 {
			size = uint64(b[0])
		} else if size, n = binary.Uvarint(b); n <= 0 || size > uint64(len(b)) || n != uvarintSize(int(size)) {
			return errBadGrant
		}
		b = b[n:]
		total += int(size) // five lengths, none above len(b): no overflow
		ends[i] = total
	}
	if len(b) != total+4*timeSize {
		return errBadGrant
	}
	times := b[total:]
	for i := 8; i < len(times); i += timeSize {
		if binary.LittleEndian.Uint32(times[i:]) >= uint32(time.Second) {
			return errBadGrant
		}
	}
	all := string(b[:total]) // one allocation, of which the five are parts
	g.SessionID = all[:ends[0]]
	g.Provider = all[ends[0]:ends[1]]
	g.UserID = all[ends[1]:ends[2]]
	g.Endpoint = all[ends[2]:ends[3]]
	g.Data = all[ends[3]:]
	g.StartedAt = timeAt(times)
	g.MintedAt = timeAt(times[timeSize:])
	g.ExpiresAt = timeAt(times[2*timeSize:])
	g.SessionExpiresAt = timeAt(times[3*timeSize:])
	return nil
}

func timeAt(b []byte) time.Time {
	return time.Unix(int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint32(b[8:]))).UTC()
}
