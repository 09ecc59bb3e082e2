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
	"strings"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// ErrEvicted is in the cause of a socket that was closed to make room for a newer one.
var ErrEvicted = errors.New("evicted by a newer socket")

// CloseError is the cause ([context.Cause]) of a guarded socket's context when it is done. The
// context of a WebSocket is done when the close frame is out. Before the hijack, and for a stream,
// the client can end the context too: the cause is then the request's. Reads and writes of the
// connection also return the CloseError, once Sockets has closed it; a library that watches the
// context may return its own error. errors.Is(err, net.ErrClosed) is true.
type CloseError struct {
	// Code is the close code: if Sockets did not close it, the handler's, or 1006.
	Code int
	// Reason is "session_revoked", "session_expired", "evicted", "unavailable", "going_away",
	// "panic", the application's own, "closed", "dropped" or "upgrade_failed".
	Reason string
	// Err says more: [tickets.ErrRevoked], [ErrSessionExpired], [ErrEvicted], [tickets.ErrStale],
	// [http.ErrServerClosed] in Shutdown. It is nil for CloseSession, CloseUser and a panic, and
	// net.ErrClosed where the connection ended by itself.
	Err error
}

func (e *CloseError) Error() string {
	return "socket closed: " + strconv.Itoa(e.Code) + " " + e.Reason
}

// Unwrap returns e.Err.
func (e *CloseError) Unwrap() error { return e.Err }

// Is reports whether target is [net.ErrClosed]: the connection has been closed from this side.
func (e *CloseError) Is(target error) bool { return target == net.ErrClosed }

// Close codes: RFC 6455 sections 7.4.1 and 7.4.2, and IANA's registry (1013: try again later).
var (
	causeRevoked   = &CloseError{4401, "session_revoked", tickets.ErrRevoked}
	causeExpired   = &CloseError{4401, codeExpired, ErrSessionExpired}
	causeEvicted   = &CloseError{4429, "evicted", ErrEvicted}
	causeStale     = &CloseError{1013, unavailable, tickets.ErrStale}
	causeGoingAway = &CloseError{1001, "going_away", http.ErrServerClosed}
	causePanic     = &CloseError{1011, "panic", nil}
)

// socket is one request that was admitted. It is a WebSocket, or a stream: a plain request that
// AdmitRequests admits, which is live while its handler runs.
type socket struct {
	sockets *Sockets
	info    SocketInfo // without EndsAt and the bytes; Sockets.mu guards OpenedAt
	origin  string
	current atomic.Pointer[Session] // changes under Sockets.mu
	written atomic.Int64            // bytes that went through the ResponseWriter

	// The context of the handler's request. It carries the values of the request's own context,
	// outlives the handler, and ends with the connection: net/http cancels its own when the handler
	// returns, and there are libraries whose handlers return at once.
	ctx    context.Context
	cancel context.CancelCauseFunc
	detach func() bool // parts ctx from the request's context; a stream's stays its child

	sessionKey, userKey hash // of Sockets.sessions and Sockets.users

	// Sockets.mu guards the rest.
	state state
	link  link
	cause *CloseError // why Sockets closed it; nil: it did not
}

// state is where a socket is in its life. It never goes back.
type state uint8

const (
	stateAdmitted state = iota // it has a place; the handler has not hijacked yet
	stateOpen                  // live: the handler has the connection, or is a stream's
	stateClosing               // it has given back its place, and is being closed
	stateClosed                // what is left is its last audit line
)

// move changes the state of k, and is the only method that does. It reports whether the state has
// changed. Sockets.mu is held.
//
//	from      to       by
//	admitted  open     hijacked; openStream
//	admitted  closing  Sockets.close; hijacked then closes the connection
//	admitted  closed   the handler returned without a hijack; admit
//	open      closing  Sockets.close, evictFor; Flushed, when the library closes
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
		k.info.OpenedAt = time.Now()
	case from < stateClosing:
		k.sockets.release(k)
	}
	return true
}

// A link is the thing to close: a request that is not hijacked yet (upgrade), a hijacked connection
// (webSocket), or a stream's response (stream). Sockets.mu is not held.
type link interface {
	close() // begins to close, because of the socket's cause
	handlerReturned()
}

func newSocket(s *Sockets, in *incoming) *socket {
	session := in.session
	k := &socket{
		sockets: s,
		info: SocketInfo{
			ID:       strconv.FormatUint(rand.Uint64(), 16),
			Provider: session.Provider, UserID: session.UserID,
			Path: cutField(in.URL.Path), IP: in.ip, TicketID: in.ticketID, Stream: in.stream,
		},
		origin:     cutField(strings.Join(in.Header["Origin"], ", ")),
		sessionKey: keyOf(session.ID, tickets.HashSession(session.ID)),
		userKey:    keyOf(session.UserID, tickets.HashUser(session.Provider, session.UserID)),
	}
	if session.ID != "" {
		k.info.Session = shortHex(k.sessionKey[:])
	}
	k.current.Store(session)
	request := in.Context()
	parent := request
	if !in.stream {
		parent = context.WithoutCancel(request)
	}
	k.ctx, k.cancel = context.WithCancelCause(context.WithValue(parent, sessionKey{}, &k.current))
	k.detach = context.AfterFunc(request, func() { k.cancel(context.Cause(request)) })
	k.link = upgrade{k}
	if in.stream {
		k.link = &stream{socket: k, http1: in.ProtoMajor == 1}
	}
	return k
}

// end ends the context of k.
func (k *socket) end(cause *CloseError) {
	k.detach()
	k.cancel(cause)
}

func (k *socket) currentLink() link {
	k.sockets.mu.Lock()
	defer k.sockets.mu.Unlock()
	return k.link
}

// close begins to close those of ks that are admitted or open, and returns how many.
func (s *Sockets) close(ks []*socket, cause *CloseError) int {
	s.mu.Lock()
	closing := s.moveToClosing(ks, cause)
	s.mu.Unlock()
	s.startClosing(closing)
	return len(closing)
}

// moveToClosing moves those of ks to closing that are admitted or open, and returns them.
// Sockets.mu is held; the caller calls startClosing after unlocking.
func (s *Sockets) moveToClosing(ks []*socket, cause *CloseError) (closing []*socket) {
	for _, k := range ks {
		if k.move(stateClosing) {
			copied := *cause // the application gets it from context.Cause
			k.cause = &copied
			closing = append(closing, k)
		}
	}
	return closing
}

func (s *Sockets) startClosing(ks []*socket) {
	for _, k := range ks {
		k.currentLink().close()
		if s.outOfTime.Load() { // Shutdown may have aborted before the close began
			k.abort()
		}
	}
}

// abort closes the connection of k, if it has one, at once: Shutdown is out of time.
func (k *socket) abort() {
	if ws, ok := k.currentLink().(*webSocket); ok {
		ws.conn.Abort()
	}
}

// finish moves k to closed and writes its last audit line, if there is one. It does nothing if k is
// closed already, or l is no longer its link. fallback is the cause if Sockets did not close k.
func (k *socket) finish(l link, last audit.Event, fallback *CloseError) {
	s := k.sockets
	s.mu.Lock()
	first := k.link == l && k.move(stateClosed)
	s.mu.Unlock()
	if !first {
		return
	}
	cause := cmp.Or(k.cause, fallback)
	k.end(cause)
	switch last {
	case audit.SocketClosed:
		lived := max(0, time.Since(k.info.OpenedAt))
		k.record(last, k.facts(
			slog.String("reason", cause.Reason),
			slog.Int("close_code", fallback.Code),
			slog.Float64("seconds", math.Round(lived.Seconds()*1000)/1000))...)
	case audit.UpgradeRefused:
		k.record(last,
			slog.String("reason", "upgrade_failed"),
			slog.String("ip", k.info.IP),
			slog.String("path", k.info.Path),
			slog.String("origin", k.origin))
	}
	s.mu.Lock()
	delete(s.unfinished, k)
	if s.shut && len(s.unfinished) == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
}

// handlerDone is called when the handler has returned. A second call does nothing.
func (k *socket) handlerDone(panicked bool) {
	// httputil.ReverseProxy panics to end a stream whose client has gone.
	_, isStream := k.currentLink().(*stream)
	if panicked && !(isStream && k.ctx.Err() != nil) {
		k.sockets.close([]*socket{k}, causePanic)
	}
	k.currentLink().handlerReturned()
}

func (k *socket) record(e audit.Event, attrs ...slog.Attr) {
	k.sockets.opts.Audit.Record(k.ctx, e, attrs...)
}

// facts returns the attributes of every line of k, followed by more.
func (k *socket) facts(more ...slog.Attr) []slog.Attr {
	facts := append(make([]slog.Attr, 0, 7+len(more)),
		slog.String("provider", k.info.Provider),
		slog.String("user_id", k.info.UserID),
		slog.String("ip", k.info.IP),
		slog.String("path", k.info.Path),
		slog.String("ticket_id", k.info.TicketID),
		slog.String("socket_id", k.info.ID))
	if k.info.Session != "" {
		facts = append(facts, slog.String("session", k.info.Session))
	}
	return append(facts, more...)
}

// snapshot returns the info of k, complete.
func (k *socket) snapshot() SocketInfo {
	info := k.info
	info.EndsAt = k.current.Load().ExpiresAt
	info.BytesOut = k.written.Load()
	if ws, ok := k.currentLink().(*webSocket); ok {
		in, out := ws.conn.Traffic()
		info.BytesIn, info.BytesOut = in, info.BytesOut+out
	}
	return info
}

// grant returns what Revocation.Covers and Issuer.Revoked read.
func (k *socket) grant() tickets.Grant {
	session := k.current.Load()
	return tickets.Grant{
		SessionID: session.ID, Provider: session.Provider, UserID: session.UserID,
		StartedAt: session.StartedAt, SessionExpiresAt: session.ExpiresAt,
	}
}
