package middleware

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// Session is one sign-in of one person: what an [Authenticator] finds, what [SessionFrom] returns
// behind a [Gate] or a [Guard], and what a ticket is minted for.
//
// A Session is read by many goroutines; do not change one that has been handed to this package.
type Session struct {
	// ID names the session in the application's own store. Revocation, the share of tickets and the
	// limits per session go by it. Any stable, secret-free name is best. The cookie will do: ID is
	// never shown, and leaves the process only hashed or sealed.
	ID               string
	Provider, UserID string
	StartedAt        time.Time // when the person signed in; zero: unknown
	ExpiresAt        time.Time // from this instant on it has ended; zero: no known end
	Data             string    // the application's own; travels in the ticket, at most 256 bytes
	Value            any       // the application's own session; never leaves this process
}

// Format prints who it is, and the ID, which may be a cookie, only as the audit shows it.
func (s Session) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "session %s of %s/%s", shortSessionID(s.ID), s.Provider, s.UserID)
}

// LogValue is what Format prints.
func (s Session) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

func shortSessionID(id string) string {
	if id == "" {
		return "-"
	}
	h := tickets.HashSession(id)
	return shortHex(h[:])
}

// expired reports whether the session has ended.
func (s *Session) expired() bool { return passed(s.ExpiresAt, time.Now()) }

// passed reports whether t is set and not after now, by the clock: monotonic time may stand still.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t.Round(0)) }

// later reports whether a is a later end than b. The zero Time is no end.
func later(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

// same reports whether both are the same sign-in of the same person.
func (s *Session) same(o *Session) bool {
	return s.ID == o.ID && s.Provider == o.Provider && s.UserID == o.UserID
}

type sessionKey struct{}

// SessionFrom returns the session that a Gate or Guard put into the context of a request.
func SessionFrom(ctx context.Context) (*Session, bool) {
	var s *Session
	switch v := ctx.Value(sessionKey{}).(type) {
	case *Session:
		s = v
	case *atomic.Pointer[Session]: // of a live socket
		s = v.Load()
	}
	return s, s != nil
}

// WithSession returns a context that carries s, for applications that authenticate by themselves
// (see [ContextSessions]) and for tests.
func WithSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}
