package middleware

import (
	"cmp"
	"context"
	"errors"
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

// CloseError is the cause ([context.Cause]) of a guarded socket's context when it
// is done. The context of a WebSocket is done when the close frame is out. Before
// the hijack, and for a stream, the client can end the context too: the cause is
// then the request's. Reads and writes of the connection also return the
// CloseError, once Sockets has closed it; a library that watches the context may
// return its own error. errors.Is(err, net.ErrClosed) is true.
type CloseError struct {
	// Code is the close code. If Sockets did not close the connection, it is the
	// one that the handler sent, or 1006.
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

// closeInternalError is the close code of a panic (RFC 6455 section 7.4.1).
const closeInternalError = 1011

// Reasons of a close frame, or of a last audit line.
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
	SocketInfo // but for EndsAt and the bytes; Sockets.mu guards OpenedAt
	sockets    *Sockets
	origin     string
	session    atomic.Pointer[Session] // changes under Sockets.mu
	written    atomic.Int64            // bytes that went through the ResponseWriter

	// The context of the handler's request. It carries the values of the request's
	// own context, outlives the handler, and ends with the connection: net/http
	// cancels its own when the handler returns, and there are libraries whose
	// handlers return at once.
	ctx    context.Context
	cancel context.CancelCauseFunc
	detach func() bool // stops the request's own context from ending ctx

	// Sockets.mu guards the rest.
	state state
	link  link
	cause *CloseError // why Sockets closed it; nil: it did not

	liveSession *liveSession
	userKey     hash
}

// state is where a socket is in its life. It never goes back.
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
//	admitted  closed   the handler returned without a hijack; admit
//	open      closing  Sockets.close, evictFor; flushed, when the library closes
//	open      closed   a stream's handler returned
//	closing   closed   the connection is closed, or the handler returned; admit
func (k *socket) move(to state) bool {
	from := k.state
	if to <= from {
		return false
	}
	k.state = to
	switch {
	case to == stateOpen:
		k.OpenedAt = time.Now()
	case from < stateClosing:
		k.sockets.release(k)
	}
	return true
}

// A link is the thing to close: a request that is not hijacked yet (upgrade), a
// hijacked connection (webSocket), or a stream's response (stream). Sockets.mu is
// not held.
type link interface {
	close() // begins to close, because of the socket's cause
	abort() // closes at once: Shutdown is out of time
	handlerReturned()
	traffic() (in, out int64)
}

// init gives k its context and its link.
func (k *socket) init(s *Sockets, r *http.Request, session *Session) {
	k.sockets, k.ID = s, strconv.FormatUint(rand.Uint64(), 16)
	k.Provider, k.UserID = session.Provider, session.UserID
	if session.ID != "" {
		k.Session = shortHex(k.liveSession.key[:])
	}
	k.session.Store(session)
	own := r.Context()
	ctx := own
	if !k.Stream {
		ctx = context.WithoutCancel(own)
	}
	k.ctx, k.cancel = context.WithCancelCause(context.WithValue(ctx, sessionKey{}, &k.session))
	if k.Stream {
		k.link = &stream{k: k, http1: r.ProtoMajor == 1}
	} else {
		k.link = upgrade{k}
		k.detach = context.AfterFunc(own, func() { k.cancel(context.Cause(own)) })
	}
}

func (k *socket) currentLink() link {
	k.sockets.mu.Lock()
	defer k.sockets.mu.Unlock()
	return k.link
}

// close begins to close those of ks that are admitted or open, and returns how
// many. It does not wait until they are closed.
func (s *Sockets) close(ks []*socket, cause *CloseError) int {
	s.mu.Lock()
	closing := s.moveToClosing(ks, cause)
	s.mu.Unlock()
	s.startClosing(closing)
	return len(closing)
}

// moveToClosing moves those of ks to closing that are admitted or open, and
// returns them. Sockets.mu is held; the caller calls startClosing after unlocking.
func (s *Sockets) moveToClosing(ks []*socket, cause *CloseError) (closing []*socket) {
	for _, k := range ks {
		if k.move(stateClosing) {
			own := *cause // it is the application's to keep
			k.cause = &own
			closing = append(closing, k)
		}
	}
	return closing
}

// startClosing closes the links of sockets that have moved to closing.
func (s *Sockets) startClosing(ks []*socket) {
	for _, k := range ks {
		k.currentLink().close()
	}
	// Check after closing: Shutdown may have aborted before the close began.
	if s.outOfTime.Load() {
		for _, k := range ks {
			k.currentLink().abort()
		}
	}
}

// noLine is the last line of a socket that was not admitted: its Rejection is recorded.
const noLine audit.Event = ""

// finish moves k to closed and writes its last audit line. It does nothing if l is
// no longer the link of k, or k is closed already. own is the cause if Sockets did
// not close k.
func (k *socket) finish(l link, last audit.Event, own *CloseError) {
	s := k.sockets
	s.mu.Lock()
	first := k.link == l && k.move(stateClosed)
	s.mu.Unlock()
	if !first {
		return
	}
	if k.detach != nil {
		k.detach()
	}
	cause := cmp.Or(k.cause, own)
	k.cancel(cause)
	switch last {
	case audit.SocketClosed:
		lived := max(0, time.Since(k.OpenedAt))
		k.record(last, k.facts(
			slog.String("reason", cause.Reason),
			slog.Int("close_code", own.Code),
			slog.Float64("seconds", math.Round(lived.Seconds()*1000)/1000))...)
	case audit.UpgradeRefused:
		k.record(last,
			slog.String("reason", reasonUpgradeFailed),
			slog.String("ip", k.IP),
			slog.String("path", k.Path),
			slog.String("origin", k.origin))
	}
	s.mu.Lock()
	delete(s.unfinished, k)
	if s.shut && len(s.unfinished) == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
}

// handlerReturned is called when the handler has returned. A second call does
// nothing.
func (k *socket) handlerReturned(panicked bool) {
	// A stream whose client has gone is no fault of the handler: httputil.ReverseProxy
	// panics to end it.
	if panicked && !(k.Stream && k.ctx.Err() != nil) {
		k.sockets.close([]*socket{k}, causePanic)
	}
	k.currentLink().handlerReturned()
}

func (k *socket) record(e audit.Event, attrs ...slog.Attr) {
	k.sockets.opts.Audit.Record(k.ctx, e, attrs...)
}

// facts returns what every line of k has, and more.
func (k *socket) facts(more ...slog.Attr) []slog.Attr {
	facts := append(make([]slog.Attr, 0, 7+len(more)),
		slog.String("provider", k.Provider),
		slog.String("user_id", k.UserID),
		slog.String("ip", k.IP),
		slog.String("path", k.Path),
		slog.String("ticket_id", k.TicketID),
		slog.String("socket_id", k.ID))
	if k.Session != "" {
		facts = append(facts, slog.String("session", k.Session))
	}
	return append(facts, more...)
}

func (k *socket) info() SocketInfo {
	info := k.SocketInfo
	info.EndsAt = k.session.Load().ExpiresAt
	in, out := k.currentLink().traffic()
	info.BytesIn, info.BytesOut = in, out+k.written.Load()
	return info
}

// grant is as much of the ticket's grant as a revocation looks at.
func (k *socket) grant() tickets.Grant {
	session := k.session.Load()
	return tickets.Grant{
		SessionID: session.ID, Provider: session.Provider, UserID: session.UserID,
		StartedAt: session.StartedAt, SessionExpiresAt: session.ExpiresAt,
	}
}
