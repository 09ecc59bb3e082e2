package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// ErrEvicted is in the cause of a socket's context that was closed to make room
// for a newer one of the same person or session.
var ErrEvicted = errors.New("evicted by a newer socket")

// CloseError is the cause ([context.Cause]) of a guarded socket's context when
// it is done; the cause is nil until the close frame is out. It is also what the
// connection's reads and writes return once Sockets has closed it, but a
// WebSocket library that is given the context returns that one's error instead.
// It is [net.ErrClosed] to errors.Is.
type CloseError struct {
	// Code is the close code; of a connection that ended by itself, the one that
	// its handler sent, or 1006.
	Code int
	// Reason is "session_revoked", "session_expired", "evicted", "unavailable",
	// "going_away", "panic", the application's own, "closed", "dropped" or
	// "upgrade_failed".
	Reason string
	// Err says more: [tickets.ErrRevoked], [ErrSessionExpired], [ErrEvicted],
	// [tickets.ErrStale], [http.ErrServerClosed] in Shutdown. It is nil for
	// CloseSession, CloseUser and a panic, and net.ErrClosed where the connection
	// ended by itself.
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

// Reasons of a close frame, as the page and the audit read them.
const (
	reasonSessionRevoked = "session_revoked"
	reasonEvicted        = "evicted"
	reasonPanic          = "panic"
	reasonClosed         = "closed"
	reasonDropped        = "dropped"
	reasonUpgradeFailed  = "upgrade_failed"
)

var (
	causeRevoked   = &CloseError{closeUnauthorized, reasonSessionRevoked, tickets.ErrRevoked}
	causeExpired   = &CloseError{closeUnauthorized, codeSessionExpired, ErrSessionExpired}
	causeEvicted   = &CloseError{closeTooMany, reasonEvicted, ErrEvicted}
	causeStale     = &CloseError{closeTryAgain, codeUnavailable, tickets.ErrStale}
	causeGoingAway = &CloseError{closeGoingAway, reasonGoingAway, http.ErrServerClosed}
	causePanic     = &CloseError{closeInternalError, reasonPanic, nil}
)

// socket is one request that was admitted. It is a WebSocket, or a stream: a
// plain request that AdmitRequests admits, which is live while its handler runs.
type socket struct {
	sockets          *Sockets
	id               string
	ip, path, origin string
	ticketID         string
	isStream         bool
	session          atomic.Pointer[Session] // changes under Sockets.mu
	written          atomic.Int64            // bytes that went through the ResponseWriter

	// The context of the handler's request. It carries the values of the request's
	// own context, outlives the handler, and ends with the connection: net/http
	// cancels its own when the handler returns, and there are libraries whose
	// handlers return at once.
	ctx    context.Context
	cancel context.CancelCauseFunc
	detach func() bool // stops the request's own context from ending ctx

	// Sockets.mu guards the rest.
	state    state
	link     link
	cause    *CloseError // why it is closed from here; nil: it was not
	openedAt time.Time
	sequence uint64

	bySession, byUser *group
}

// state is where a socket is in its life. It only ever moves on.
type state uint8

const (
	stateAdmitted state = iota // it has a place; the handler has not hijacked yet
	stateOpen                  // live: the handler has the connection, or is a stream's
	stateClosing               // it has given back its place, and is being closed
	stateClosed                // what is left is its last audit line
)

// move changes the state of k, and is the only method that does. It reports
// whether the state has changed. Sockets.mu is held.
//
//	from      to       by
//	admitted  open     hijacked; openStream
//	admitted  closing  Sockets.close; hijacked then closes the connection
//	admitted  closed   the handler returned without a hijack; withdraw
//	open      closing  Sockets.close, evictFor; flushed, when the library closes
//	open      closed   a stream's handler returned
//	closing   closed   the connection is closed, or the handler returned
func (k *socket) move(to state) bool {
	from := k.state
	if to <= from {
		return false
	}
	k.state = to
	switch {
	case to == stateOpen:
		k.openedAt = time.Now()
		k.sockets.open++
		k.bySession.open++
		k.byUser.open++
	case from < stateClosing:
		k.sockets.release(k, from == stateOpen)
	}
	return true
}

// A link is what a socket closes: a request that is not hijacked yet, a hijacked
// connection, or a stream's response. Sockets.mu is not held.
type link interface {
	close(cause *CloseError, grace time.Duration) // begins to close
	abort()                                       // closes at once: Shutdown is out of time
	handlerReturned()
	traffic() (in, out int64)
}

func newSocket(s *Sockets, c *candidate) *socket {
	k := &socket{
		sockets: s, id: fmt.Sprintf("%016x", rand.Uint64()),
		ip: c.ip, path: c.path, origin: c.origin, ticketID: c.ticketID, isStream: c.stream,
	}
	k.session.Store(c.session)
	own := c.request.Context()
	ctx := own
	if !c.stream {
		ctx = context.WithoutCancel(own)
	}
	k.ctx, k.cancel = context.WithCancelCause(context.WithValue(ctx, sessionKey{}, &k.session))
	if c.stream {
		k.link = &stream{k: k, http1: c.request.ProtoMajor == 1}
		return k
	}
	k.link = upgrade{k}
	k.detach = context.AfterFunc(own, func() { k.cancel(context.Cause(own)) })
	return k
}

// close begins to close those of ks that are admitted or open, and returns how
// many. It does not wait until they are closed.
func (s *Sockets) close(ks []*socket, cause *CloseError) int {
	closing := make([]*socket, 0, len(ks))
	s.mu.Lock()
	for _, k := range ks {
		if k.move(stateClosing) {
			k.cause = cause
			closing = append(closing, k)
		}
	}
	s.mu.Unlock()
	s.startClosing(closing)
	return len(closing)
}

// startClosing closes the links of sockets that have moved to closing.
func (s *Sockets) startClosing(ks []*socket) {
	for _, k := range ks {
		s.mu.Lock()
		l, grace := k.link, s.grace()
		s.mu.Unlock()
		l.close(k.cause, grace)
	}
}

func (s *Sockets) grace() time.Duration {
	if s.outOfTime {
		return 0
	}
	return s.opts.CloseGrace
}

// finish ends the life of a socket whose connection is closed, or whose handler
// has returned: unless l is no longer its link, or it is closed already. own is
// the cause where the socket was not closed from here.
func (k *socket) finish(l link, opened bool, own *CloseError) {
	k.sockets.mu.Lock()
	first := k.link == l && k.move(stateClosed)
	cause := k.cause
	k.sockets.mu.Unlock()
	if !first {
		return
	}
	if cause == nil {
		cause = own
	}
	k.cancel(cause)
	if opened {
		k.recordClosed(cause.Reason, own.Code)
	} else {
		k.recordUpgradeFailed()
	}
	k.sockets.finished(k)
}

// withdraw takes back an admission, without an audit line.
func (k *socket) withdraw() {
	k.sockets.mu.Lock()
	k.move(stateClosed)
	k.sockets.mu.Unlock()
	k.cancel(causeRevoked)
	k.sockets.finished(k)
}

// handlerReturned is called when the handler has returned. A second call does
// nothing.
func (k *socket) handlerReturned() {
	if k.detach != nil {
		k.detach()
	}
	k.sockets.mu.Lock()
	l := k.link
	k.sockets.mu.Unlock()
	l.handlerReturned()
}

// handlerPanicked closes what the handler has taken, and can no longer close.
func (k *socket) handlerPanicked() { k.sockets.close([]*socket{k}, causePanic) }

func (k *socket) recordOpened() { k.record(audit.SocketOpened, k.facts()...) }

func (k *socket) recordClosed(reason string, code int) {
	k.sockets.mu.Lock()
	lived := max(0, time.Since(k.openedAt))
	k.sockets.mu.Unlock()
	k.record(audit.SocketClosed, append(k.facts(),
		slog.String("reason", reason),
		slog.Int("close_code", code),
		slog.Float64("seconds", math.Round(lived.Seconds()*1000)/1000))...)
}

// recordUpgradeFailed is the last line of what never became a WebSocket.
func (k *socket) recordUpgradeFailed() {
	k.record(audit.UpgradeRefused,
		slog.String("reason", reasonUpgradeFailed),
		slog.String("ip", k.ip),
		slog.String("path", k.path),
		slog.String("origin", k.origin))
}

func (k *socket) record(e audit.Event, attrs ...slog.Attr) {
	k.sockets.opts.Audit.Record(k.ctx, e, attrs...)
}

func (k *socket) facts() []slog.Attr {
	session := k.session.Load()
	facts := []slog.Attr{
		slog.String("provider", session.Provider),
		slog.String("user_id", session.UserID),
		slog.String("ip", k.ip),
		slog.String("path", k.path),
		slog.String("ticket_id", k.ticketID),
		slog.String("socket_id", k.id),
	}
	if session.ID != "" {
		facts = append(facts, slog.String("session", shortHex(k.bySession.key[:])))
	}
	return facts
}

// info describes k. Sockets.mu is held.
func (k *socket) info() SocketInfo {
	session := k.session.Load()
	in, out := k.link.traffic()
	info := SocketInfo{
		ID:       k.id,
		Provider: session.Provider, UserID: session.UserID,
		Path: k.path, IP: k.ip, TicketID: k.ticketID,
		OpenedAt: k.openedAt, EndsAt: session.ExpiresAt,
		BytesIn: in, BytesOut: out + k.written.Load(),
		Stream: k.isStream,
	}
	if session.ID != "" {
		info.Session = shortHex(k.bySession.key[:])
	}
	return info
}

// grant is as much of the ticket's grant as a revocation looks at.
func (k *socket) grant() tickets.Grant {
	session := k.session.Load()
	return tickets.Grant{
		SessionID: session.ID, Provider: session.Provider, UserID: session.UserID,
		StartedAt: session.StartedAt,
	}
}
