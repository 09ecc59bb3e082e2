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

	Endpoint         string    // the one path it is valid for; "" is any guarded path
	Data             string    // the application's own, at most 256 bytes (a room, a tenant)
	StartedAt        time.Time // start of the session; zero: unknown
	MintedAt         time.Time // filled in by Mint
	ExpiresAt        time.Time // of the ticket; filled in by Mint
	SessionExpiresAt time.Time // zero: the session has no known end
}

// Format prints the grant with its session id hashed: the id may be the cookie itself. This is for
// people; encoding/json and the like show the id as it is.
func (g Grant) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), g.concealed())
}

// LogValue returns the grant with its session id hashed.
func (g Grant) LogValue() slog.Value { return slog.AnyValue(g.concealed()) }

func (g Grant) concealed() any {
	type grant Grant // without methods, so that printing it does not call this again
	g.SessionID = concealedID(g.SessionID)
	return grant(g)
}

// concealedID returns the first 12 hexadecimal digits of the SHA-256 of a session id.
func concealedID(id string) string {
	if id == "" {
		return ""
	}
	hash := HashSession(id)
	return hex.EncodeToString(hash[:6])
}

const (
	maxData = 256
	// A session id may be a bearer token, and servers commonly accept headers of at most 8 KiB.
	maxField = 8 << 10
)

// check returns everything that is wrong with a grant to be minted, without showing it.
func (g *Grant) check() error {
	longest := max(len(g.SessionID), len(g.Provider), len(g.UserID), len(g.Endpoint))
	if longest <= maxField && len(g.Data) <= maxData {
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
			errs = append(errs, fmt.Errorf("grant's %s has %d bytes, want at most %d",
				f.name, len(f.value), f.max))
		}
	}
	return errors.Join(errs...)
}

// An encoded grant is five lengths (uvarint), the five strings one after another, and four times:
// seconds since 1970 in 8 bytes, nanoseconds in 4. UnixNano is undefined for the zero time, and for
// the year 9999 that some give to a session without end.
//
// The code below names every field, because it runs for every ticket: a loop over a slice of the
// fields would take longer than all the rest of it.
const timeSize = 8 + 4

var errBadGrant = errors.New("malformed grant")

// grantSize returns the size of the encoded grant.
func grantSize(g *Grant) int {
	return sizeOf(g.SessionID) + sizeOf(g.Provider) + sizeOf(g.UserID) + sizeOf(g.Endpoint) +
		sizeOf(g.Data) + 4*timeSize
}

func sizeOf(s string) int { return uvarintSize(len(s)) + len(s) }

func uvarintSize(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }

func appendGrant(b []byte, g *Grant) []byte {
	b = binary.AppendUvarint(b, uint64(len(g.SessionID)))
	b = binary.AppendUvarint(b, uint64(len(g.Provider)))
	b = binary.AppendUvarint(b, uint64(len(g.UserID)))
	b = binary.AppendUvarint(b, uint64(len(g.Endpoint)))
	b = binary.AppendUvarint(b, uint64(len(g.Data)))
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

func appendTime(b []byte, t *time.Time) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Unix()))
	return binary.LittleEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

// decode is the reverse of appendGrant. It refuses what appendGrant does not make.
func (g *Grant) decode(b []byte) error {
	var ends [5]int
	total := 0
	for i := range ends {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)) || n != uvarintSize(int(size)) {
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
	all := string(b[:total]) // one allocation for all five
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
	seconds, nanoseconds := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])
	return time.Unix(int64(seconds), int64(nanoseconds)).UTC()
}
