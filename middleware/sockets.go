package middleware

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/tickets"
)

// Sockets are the live connections that guards have let in. It counts and
// limits them, knows when their sessions end, and ends them: with a close frame
// that says why, whatever WebSocket library holds them.
//
// One Sockets may serve several guards; its limits then hold over all of them.
// All methods may be called by many goroutines at once.
type Sockets struct {
	opts SocketsOptions

	mu       sync.Mutex
	sessions map[sessionHash]*liveSession
	users    map[userHash]*liveUser
	n        int                  // in sessions, admitted or live
	live     int                  // of these, live
	open     int                  // not gone yet: the n, and those that are being ended
	shut     bool                 // Shutdown has begun
	hard     bool                 // Shutdown has run out of time
	empty    chan struct{}        // closed when shut and open is 0
	ending   map[*socket]struct{} // ended from here, not gone yet

	restoring chan struct{}  // full while maxAsks Restores have not returned
	asks      []*liveSession // sessions that Restore is to be asked about
	workers   int            // goroutines that ask
	gaps      uint64         // found so far
}

// SocketsOptions are the limits of a [Sockets], and how it ends connections.
type SocketsOptions struct {
	// Max is how many sockets there may be at all, MaxPerUser and MaxPerSession
	// how many of one person and of one session. Default 0: no limit. A session
	// without a UserID, or without an ID, has no share to exceed.
	Max, MaxPerUser, MaxPerSession int
	// EvictOldest ends the oldest socket of the person or session when one too
	// many is opened (4429, "too_many"). Default: the newest is refused. At Max
	// the newest is always refused: nobody may push out a stranger.
	EvictOldest bool
	// CloseGrace is how long ending a connection may take, from the decision to
	// the closed descriptor: for the rest of a frame that has begun, the close
	// frame, and the peer's answer. Default 1 s.
	CloseGrace time.Duration
	// RecheckEvery is how often GuardOptions.Restore is asked again about each
	// session that has sockets: at least once in this time. Sockets of a session
	// that Restore no longer knows end with 4401; a Restore that fails, panics or
	// takes more than 5 s ends nothing, and is audited. Default 0: never.
	RecheckEvery time.Duration
}

const (
	defaultCloseGrace = time.Second
	maxCloseReason    = 123 // RFC 6455 section 5.5: 125 bytes, two of them the code

	closeInternalError = 1011 // RFC 6455 section 7.4.1
)

// Reasons that are told in a close frame, and recorded with it.
const (
	reasonSessionRevoked = "session_revoked"
	reasonGoingAway      = "going_away"
	reasonPanic          = "panic"
	reasonClosed         = "closed"
	reasonDropped        = "dropped"
	reasonUpgradeFailed  = "upgrade_failed"
	reasonRecheck        = "recheck"
)

// ErrEvicted is in the cause of a socket's context that ended to make room for a
// newer one of the same person or session.
var ErrEvicted = errors.New("evicted by a newer socket")

// CloseError is the cause ([context.Cause]) of a guarded socket's context when
// it is done: ask for it there. It is also what the connection's reads and
// writes return once Sockets has ended it, but a WebSocket library that is given
// the context returns that one's error instead. It is [net.ErrClosed] to
// errors.Is.
type CloseError struct {
	Code   int    // the close code; of one that ended by itself, what its handler sent, or 1006
	Reason string // "session_revoked", "session_expired", "too_many", "unavailable", "going_away", "panic", the application's, "closed" or "dropped"
	// Err says more: [tickets.ErrRevoked], [ErrSessionExpired], [ErrEvicted],
	// [tickets.ErrStale] (IssuerOptions.MaxStaleness), [http.ErrServerClosed] in Shutdown. It is nil for CloseSession and
	// CloseUser, and net.ErrClosed where the connection ended by itself.
	Err error
}

func (e *CloseError) Error() string {
	return "socket closed: " + strconv.Itoa(e.Code) + " " + e.Reason
}

// Unwrap returns e.Err.
func (e *CloseError) Unwrap() error { return e.Err }

// Is reports whether target is [net.ErrClosed]: the connection has been closed
// from this side.
func (e *CloseError) Is(target error) bool { return target == net.ErrClosed }

var (
	causeRevoked   = &CloseError{Code: closeUnauthorized, Reason: reasonSessionRevoked, Err: tickets.ErrRevoked}
	causeExpired   = &CloseError{Code: closeUnauthorized, Reason: codeSessionExpired, Err: ErrSessionExpired}
	causeEvicted   = &CloseError{Code: closeTooMany, Reason: reasonTooMany, Err: ErrEvicted}
	causeStale     = &CloseError{Code: closeTryAgain, Reason: codeUnavailable, Err: tickets.ErrStale}
	causeGoingAway = &CloseError{Code: closeGoingAway, Reason: reasonGoingAway, Err: http.ErrServerClosed}
	causePanic     = &CloseError{Code: closeInternalError, Reason: reasonPanic}
)

// NewSockets returns a Sockets without any. Its error tells all that is wrong
// with opts.
func NewSockets(opts *SocketsOptions) (*Sockets, error) {
	var o SocketsOptions
	if opts != nil {
		o = *opts
	}
	var errs []error
	for _, limit := range []struct {
		name string
		n    int
	}{{"Max", o.Max}, {"MaxPerUser", o.MaxPerUser}, {"MaxPerSession", o.MaxPerSession}} {
		if limit.n < 0 {
			errs = append(errs, fmt.Errorf("%s is %d: it must be positive, or 0 for no limit", limit.name, limit.n))
		}
	}
	if o.CloseGrace < 0 {
		errs = append(errs, fmt.Errorf("CloseGrace is %v: it must be positive, or 0 for %v", o.CloseGrace, defaultCloseGrace))
	}
	if o.RecheckEvery < 0 {
		errs = append(errs, fmt.Errorf("RecheckEvery is %v: it must be positive, or 0 for never", o.RecheckEvery))
	}
	if errs != nil {
		return nil, fmt.Errorf("sockets: %w", errors.Join(errs...))
	}
	o.CloseGrace = cmp.Or(o.CloseGrace, defaultCloseGrace)
	return &Sockets{
		opts:     o,
		sessions: make(map[sessionHash]*liveSession),
		users:    make(map[userHash]*liveUser),
		empty:    make(chan struct{}),
		ending:   make(map[*socket]struct{}),

		restoring: make(chan struct{}, maxAsks),
	}, nil
}

// CloseSession ends the sockets of a session with 4401 and reason, and returns
// how many it has ended. It is for applications that revoke by their own means;
// it stops no ticket that is still out ([tickets.Issuer.Revoke] does).
//
// What does not fit into a close frame (123 bytes of UTF-8) is cut from reason;
// "" is "session_revoked".
func (s *Sockets) CloseSession(id, reason string) int {
	return s.end(s.ofSession(hashSession(id)), closeBecause(reason))
}

// CloseUser ends the sockets of a person, as CloseSession does of a session.
func (s *Sockets) CloseUser(provider, userID, reason string) int {
	return s.end(s.ofUser(hashUser(User{provider, userID})), closeBecause(reason))
}

func closeBecause(reason string) *CloseError {
	return &CloseError{Code: closeUnauthorized, Reason: cmp.Or(cutReason(reason), reasonSessionRevoked)}
}

// Extend moves the end of a session's sockets to until, for applications whose
// sessions slide: the end that was known at the upgrade is no longer true. The
// zero Time means that there is no known end. It returns how many sockets it has
// moved: one that would end later already stays as it is, because what ends
// sockets sooner is a revocation.
func (s *Sockets) Extend(sessionID string, until time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ls := s.sessions[hashSession(sessionID)]
	if sessionID == "" || ls == nil {
		return 0
	}
	n := 0
	for k := ls.first; k != nil; k = k.links[bySession].next {
		if ends := k.endsAt(); !ends.IsZero() && (until.IsZero() || ends.Before(until)) {
			k.moved = &until
			n++
		}
	}
	return n // the timer that is set finds out for itself
}

// SocketInfo tells of one live socket.
type SocketInfo struct {
	ID               string // the audit's socket_id
	Provider, UserID string
	Session          string // the first 12 hexadecimal digits of the session id's SHA-256; "" without an id
	Path, IP         string
	TicketID         string // the audit's ticket_id
	OpenedAt         time.Time
	EndsAt           time.Time // zero: no known end
	BytesIn          int64     // as sent by the client, handshake not included
	BytesOut         int64
	Stream           bool // not a WebSocket: a request that AdmitRequests let in
}

// All returns the live sockets, oldest first: a copy of what was there when the
// loop began, so that its body may end them.
func (s *Sockets) All() iter.Seq[SocketInfo] {
	return func(yield func(SocketInfo) bool) {
		for _, info := range s.snapshot() {
			if !yield(info) {
				return
			}
		}
	}
}

func (s *Sockets) snapshot() []SocketInfo {
	s.mu.Lock()
	infos := make([]SocketInfo, 0, s.live)
	for _, ls := range s.sessions {
		for k := ls.first; k != nil; k = k.links[bySession].next {
			if k.live {
				infos = append(infos, k.info())
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(infos, func(a, b SocketInfo) int { return a.OpenedAt.Compare(b.OpenedAt) })
	return infos
}

// Len returns how many sockets are live.
func (s *Sockets) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// User names a person: the same UserID of two providers is two people.
type User struct{ Provider, UserID string }

// Users returns how many live sockets each person has. Sessions without a UserID
// are counted under their Provider alone.
func (s *Sockets) Users() map[User]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[User]int, len(s.users))
	for _, lu := range s.users {
		if lu.live > 0 {
			counts[lu.User] = int(lu.live)
		}
	}
	return counts
}

// Shutdown tells every socket 1001 ("going_away"), lets no more in, and waits
// until all are gone. When ctx ends first, it closes what is left and returns
// ctx's error. [http.Server.Shutdown] neither ends nor awaits hijacked
// connections; the two may run in either order, and Shutdown more than once.
func (s *Sockets) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.shut = true
	s.drained()
	var all []*socket
	for _, ls := range s.sessions {
		all = ls.collect(all, bySession)
	}
	s.mu.Unlock()
	s.end(all, causeGoingAway)
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.empty:
		return nil
	default:
	}
	s.mu.Lock()
	s.hard = true
	left := slices.Collect(maps.Keys(s.ending))
	s.mu.Unlock()
	for _, k := range left {
		k.cut()
	}
	return ctx.Err()
}

// cutReason makes reason fit a close frame: valid UTF-8 of at most 123 bytes.
func cutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxCloseReason {
		return reason
	}
	n := maxCloseReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

func shortHash(h []byte) string { return hex.EncodeToString(h[:6]) }
