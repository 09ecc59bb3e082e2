package middleware

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
	"github.com/ticketgate/ticketgate/tickets"
)

// Sockets owns the live connections that guards have admitted. It counts and limits them, and
// closes them when their sessions end, with a close frame, whatever WebSocket library holds them.
//
// Guards of one issuer may share a Sockets and its limits. It is safe for concurrent use.
type Sockets struct {
	issuer *tickets.Issuer
	opts   SocketsOptions

	stopRevocations, stopGaps func() // stop listening to the issuer

	mu         sync.Mutex
	sessions   map[hash]*liveSession
	users      map[hash][]*socket   // with a place, in order of admission
	places     int                  // taken: sockets admitted or open
	unfinished map[*socket]struct{} // whose last audit line is not written
	gaps       uint64               // found in the revocation log, so far
	shut       bool                 // Shutdown has begun
	drained    chan struct{}        // closed when shut and nothing is unfinished

	outOfTime atomic.Bool   // Shutdown's context has ended
	rechecks  chan struct{} // holds as many as run at the same time
}

// hash is the SHA-256 of a session's id, which may be a cookie, or of a person's names.
type hash = [sha256.Size]byte

// SocketsOptions are the limits of a [Sockets], and how it closes connections.
type SocketsOptions struct {
	// Max is how many sockets there may be at all, MaxPerUser and MaxPerSession how many of one
	// person and of one session. Default 0: no limit. A session without a UserID, or without an ID,
	// has no share to exceed.
	Max, MaxPerUser, MaxPerSession int
	// EvictOldest closes the oldest socket of the person or session when one too many opens (4429,
	// "evicted"). Default: the newest is refused, as it always is at Max.
	EvictOldest bool
	// CloseGrace is how long closing a connection may take: for the rest of a frame that has begun,
	// the close frame, and the peer's answer. Default 1 s.
	CloseGrace time.Duration
	// Restore decides whether a session is still valid, and may return it with a Value and another
	// ExpiresAt (zero: the end that was known stands). It gets a copy that it may change, and must
	// return a session of the same ID, Provider and UserID. Errors are as in [Authenticator]. It is
	// called when a ticket has been consumed, when the session ends, every RecheckEvery, and after
	// a gap in the revocation log; one answer serves all sockets of the session. Its context ends
	// after 5 s. Default: the ticket is trusted.
	Restore func(ctx context.Context, s *Session) (*Session, error)
	// RecheckEvery is how often, at least, Restore is called for each session that has sockets. If
	// it no longer knows the session, they are closed with 4401; if it fails, panics or takes more
	// than 5 s, it is audited, and changes no end. Default 0: when a session ends, and after a gap.
	RecheckEvery time.Duration
	// Audit receives ws_opened, ws_closed and revoke; ws_upgrade_refused with upgrade_failed; and
	// session_verify_failure with recheck. Default: slog.Default().
	Audit *audit.Log
}

const defaultCloseGrace = time.Second

// NewSockets returns a Sockets for the tickets of issuer, and listens to issuer's revocations until
// [Sockets.Shutdown]. Its error joins everything that is wrong with the configuration.
func NewSockets(issuer *tickets.Issuer, opts *SocketsOptions) (*Sockets, error) {
	o := *cmp.Or(opts, &SocketsOptions{})
	if err := o.check(issuer); err != nil {
		return nil, fmt.Errorf("middleware.NewSockets: %w", err)
	}
	o.CloseGrace = cmp.Or(o.CloseGrace, defaultCloseGrace)
	s := &Sockets{
		issuer:     issuer,
		opts:       o,
		sessions:   make(map[hash]*liveSession),
		users:      make(map[hash][]*socket),
		unfinished: make(map[*socket]struct{}),
		drained:    make(chan struct{}),
		rechecks:   make(chan struct{}, maxRechecks),
	}
	s.stopRevocations, s.stopGaps = issuer.OnRevoke(s.revoked), issuer.OnGap(s.missed)
	return s, nil
}

func (o *SocketsOptions) check(issuer *tickets.Issuer) error {
	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	const limit = "%s is %d: it must be positive, or 0 for no limit"
	refuse(o.Max < 0, limit, "Max", o.Max)
	refuse(o.MaxPerUser < 0, limit, "MaxPerUser", o.MaxPerUser)
	refuse(o.MaxPerSession < 0, limit, "MaxPerSession", o.MaxPerSession)
	refuse(o.CloseGrace < 0, "CloseGrace is %v: it must be positive, or 0 for %v",
		o.CloseGrace, defaultCloseGrace)
	refuse(o.RecheckEvery < 0, "RecheckEvery is %v: it must be positive, or 0 for never",
		o.RecheckEvery)
	refuse(issuer == nil, "%w", errNoIssuer)
	return errors.Join(errs...)
}

// CloseSession closes the sockets of a session with 4401 and reason, and returns how many. Unused
// tickets stay valid; [tickets.Issuer.Revoke] revokes them too.
//
// reason is cut to 123 bytes of UTF-8, which a close frame holds; "" is "session_revoked".
func (s *Sockets) CloseSession(id, reason string) int {
	return s.close(s.socketsOf(tickets.HashSession(id), hash{}), closeBecause(reason))
}

// CloseUser closes the sockets of a person, as CloseSession does of a session.
func (s *Sockets) CloseUser(provider, userID, reason string) int {
	return s.close(s.socketsOf(hash{}, tickets.HashUser(provider, userID)), closeBecause(reason))
}

// socketsOf returns the sockets of a session, or else of a person.
func (s *Sockets) socketsOf(session, user hash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live := s.sessions[session]; live != nil {
		return slices.Clone(live.sockets)
	}
	return slices.Clone(s.users[user])
}

func closeBecause(reason string) *CloseError {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	reason = strings.ToValidUTF8(reason[:min(len(reason), wsconn.MaxReason)], "") // half a rune
	return &CloseError{Code: causeRevoked.Code, Reason: cmp.Or(reason, causeRevoked.Reason)}
}

// Extend moves the end of a session's sockets to until (zero: no known end), for applications whose
// sessions slide. It returns how many sockets it has moved. A socket that ends later already stays
// as it is: what ends sockets sooner is a revocation.
func (s *Sockets) Extend(sessionID string, until time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.sessions[tickets.HashSession(sessionID)]
	if live == nil {
		return 0
	}
	n := 0
	for _, k := range live.sockets {
		session := *k.current.Load()
		if later(until, session.ExpiresAt) {
			session.ExpiresAt = until
			k.current.Store(&session)
			n++
		}
	}
	return n // tick sets a timer again that fires too early
}

// SocketInfo describes one live socket.
type SocketInfo struct {
	ID               string // the audit's socket_id
	Provider, UserID string
	Session          string // the audit's session; "" without an id
	Path, IP         string
	TicketID         string // the audit's ticket_id
	OpenedAt         time.Time
	EndsAt           time.Time // zero: no known end
	BytesIn          int64     // as sent by the client, handshake not included
	BytesOut         int64
	Stream           bool // not a WebSocket: a request that AdmitRequests admitted
}

// All returns the live sockets, oldest first, as of the call: the loop's body may close them.
func (s *Sockets) All() iter.Seq[SocketInfo] {
	var infos []SocketInfo
	for _, k := range s.all(true) {
		infos = append(infos, k.snapshot())
	}
	slices.SortFunc(infos, func(a, b SocketInfo) int { return a.OpenedAt.Compare(b.OpenedAt) })
	return slices.Values(infos)
}

// all returns the sockets that are open, or all that are not finished.
func (s *Sockets) all(onlyOpen bool) (ks []*socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.unfinished {
		if !onlyOpen || k.state == stateOpen {
			ks = append(ks, k)
		}
	}
	return ks
}

// Len returns how many sockets are live.
func (s *Sockets) Len() int { return len(s.all(true)) }

// User names a person: the same UserID of two providers is two people.
type User struct{ Provider, UserID string }

// Users counts the live sockets of each person; those without a UserID under their Provider.
func (s *Sockets) Users() map[User]int {
	counts := make(map[User]int)
	for _, k := range s.all(true) {
		counts[User{k.info.Provider, k.info.UserID}]++
	}
	return counts
}

// Shutdown stops listening to the issuer, closes every socket with 1001 ("going_away"), refuses new
// ones, and waits until all are closed. When ctx ends first, it closes what is left at once and
// returns ctx's error; only a stream whose handler ignores its context goes on.
// [http.Server.Shutdown] neither closes nor awaits hijacked connections; the two may run in either
// order, and Shutdown more than once.
func (s *Sockets) Shutdown(ctx context.Context) error {
	s.stopRevocations()
	s.stopGaps()
	s.mu.Lock()
	if !s.shut && len(s.unfinished) == 0 {
		close(s.drained)
	}
	s.shut = true
	s.mu.Unlock()
	s.close(s.all(false), causeGoingAway)
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
	}
	s.outOfTime.Store(true)
	left := s.all(false)
	for _, k := range left {
		k.abort()
	}
	if len(left) == 0 {
		return nil
	}
	return ctx.Err()
}

// revoked closes the sockets that r covers, and records the revocation.
func (s *Sockets) revoked(r tickets.Revocation) {
	ks := s.socketsOf(r.SessionHash, r.UserHash)
	ks = slices.DeleteFunc(ks, func(k *socket) bool { return !r.Covers(k.grant()) })
	if len(ks) > 0 && r.SessionHash == (hash{}) { // another node's revocation carries no names
		r.Provider, r.UserID = ks[0].info.Provider, ks[0].info.UserID
	}
	n := s.close(ks, causeRevoked)
	attrs := make([]slog.Attr, 0, 4)
	switch {
	case r.SessionHash != (hash{}):
		attrs = append(attrs, slog.String("session", shortHex(r.SessionHash[:])))
	case r.UserID != "":
		attrs = append(attrs, slog.String("provider", r.Provider), slog.String("user_id", r.UserID))
	default:
		attrs = append(attrs, slog.String("user", shortHex(r.UserHash[:])))
	}
	attrs = append(attrs, slog.String("reason", r.Reason), slog.Int("sockets", n))
	s.opts.Audit.Record(context.Background(), audit.Revoke, attrs...)
}

// missed is called when the issuer may have missed revocations. After ErrGap, Restore decides about
// each session; without a Restore the sockets stay. ErrStale closes all sockets.
func (s *Sockets) missed(err error) {
	if errors.Is(err, tickets.ErrStale) {
		s.close(s.all(false), causeStale)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps++
	for _, session := range s.sessions {
		s.scheduleRecheck(session)
	}
}
