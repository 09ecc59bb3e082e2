package middleware

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// socket is one request that was let in: first admitted, live when its handler
// has taken the connection (a stream: from the start), ended once, and gone
// when the connection is closed and its last line is written.
//
// It is the handler's context as well: there are many of them, and most of the
// time they do nothing, so that what counts is how small they are.
type socket struct {
	conn frameConn // from the hijack on

	s        *Sockets
	id       uint64
	session  *Session
	ip, path string
	guard    *Guard // that let it in
	inner    context.Context
	cancel   context.CancelCauseFunc
	request  atomic.Pointer[request] // nil once it is open; a stream's, while its handler runs

	// Guarded by Sockets.mu, as is conn.ending, which is set with ended where it
	// does not end by itself.
	hijacked bool
	live     bool
	ended    bool
	released bool
	stream   bool        // does not change
	ticketID ticketHash  // does not change
	peerGone atomic.Bool // a Read said that nothing more will come
	ls       *liveSession
	lu       *liveUser
	links    [2]link
	openedAt int64      // Unix nanoseconds
	moved    *time.Time // where the session's end was moved to
}

// request is what a socket needs of its request only until it is open.
type request struct {
	ctx    context.Context
	origin string
	attach sync.Once
	detach func() bool // stops ctx from ending the socket's context; nil: not attached

	mu sync.Mutex
	w  http.ResponseWriter // a stream's, until its handler has returned
}

// ticketHash is the audit's ticket_id, decoded.
type ticketHash [6]byte

func newSocket(ctx context.Context, s *Sockets, e *entry) *socket {
	k := &socket{
		s: s, id: rand.Uint64(), session: e.session, ip: e.ip, path: e.path,
		stream: e.stream, guard: e.guard,
	}
	_, _ = hex.Decode(k.ticketID[:], []byte(e.ticketID))
	k.conn.k = k
	k.request.Store(&request{ctx: ctx, origin: e.origin})
	if !e.stream {
		// net/http cancels the request's context when the handler returns, and
		// there are libraries whose handlers return at once.
		ctx = context.WithoutCancel(ctx)
	}
	k.inner, k.cancel = context.WithCancelCause(ctx)
	return k
}

// context carries the values of the request's, outlives the handler, and ends
// with the connection; its cause is a *CloseError. Until the connection is
// hijacked it ends with the request as well; net/http watches it no longer then.
func (k *socket) context() context.Context { return k }

func (k *socket) Deadline() (time.Time, bool) { return k.inner.Deadline() }

func (k *socket) Done() <-chan struct{} {
	k.attach()
	return k.inner.Done()
}

func (k *socket) Err() error {
	k.attach()
	return k.inner.Err()
}

func (k *socket) Value(key any) any {
	if key == (sessionKey{}) {
		return k.session
	}
	return k.inner.Value(key)
}

func (k *socket) String() string { return "socket " + k.socketID() }

// attach makes the request's context end the socket's. That costs more than all
// the rest of a socket, so it waits until someone looks; after the hijack there
// is nothing to wait for.
func (k *socket) attach() {
	if req := k.request.Load(); req != nil && !k.stream {
		req.attach.Do(func() {
			req.detach = context.AfterFunc(req.ctx, func() { k.cancel(context.Cause(req.ctx)) })
		})
	}
}

// detach takes attach back, or sees to it that it does not happen any more.
func (k *socket) detach() {
	if req := k.request.Load(); req != nil {
		req.attach.Do(func() {})
		if req.detach != nil {
			req.detach()
		}
	}
}

// endsAt is when the session ends; zero: no known end.
func (k *socket) endsAt() time.Time {
	if k.moved != nil {
		return *k.moved
	}
	return k.session.ExpiresAt
}

// responseWriter is w, but that a hijack of the connection goes through k.
func (k *socket) responseWriter(w http.ResponseWriter) http.ResponseWriter {
	if k.stream {
		k.setWriter(w)
		if k.Err() != nil {
			k.stopStream()
		}
	}
	if !k.stream && !canHijack(w) {
		return w // which tells the WebSocket library so, while it can still answer 501
	}
	return &socketWriter{ResponseWriter: w, k: k}
}

// hijack is called once net/http has given up the connection. switched: the 101
// has gone out before.
func (k *socket) hijack(conn net.Conn, rw *bufio.ReadWriter, switched bool) error {
	k.detach()
	k.conn.Conn = conn
	switch {
	case k.stream:
		k.conn.out.phase = phaseOther
	case switched:
		k.conn.out.phase = phaseFrames
		k.conn.opened = true
	}
	if err := k.conn.lend(rw); err != nil {
		return fmt.Errorf("hijacked connection: %w", err)
	}
	k.s.mu.Lock()
	k.hijacked = true
	k.openedAt = time.Now().UnixNano()
	var evicted []*socket
	ended := k.ended
	if !ended && !k.live {
		evicted = k.s.enliven(k)
	}
	k.s.mu.Unlock()
	if ended && k.conn.ending == nil { // released: its last line is written
		return fmt.Errorf("hijacked connection: the admission was released: %w", net.ErrClosed)
	}
	if switched && !k.stream {
		k.recordOpened()
	}
	k.s.end(evicted, causeEvicted)
	if ended { // while it was only admitted
		k.conn.take()
		go k.finish()
	}
	return nil
}

// terminate begins to end k, for the cause that is set. One that is hijacked only
// afterwards is finished there.
func (k *socket) terminate(hijacked bool) {
	k.cancel(k.conn.ending.cause)
	switch {
	case hijacked:
		k.conn.take()
		go k.finish()
	case k.stream:
		k.stopStream()
	}
}

// finish ends the connection, for the cause that is set.
func (k *socket) finish() {
	k.s.mu.Lock()
	grace := k.s.opts.CloseGrace
	if k.s.hard {
		grace = 0
	}
	k.s.mu.Unlock()
	k.conn.finish(grace)
	opened, _, code := k.conn.outcome()
	k.recordEnd(opened, k.conn.ending.cause.Reason, code)
}

// stopStream makes the writes of a stream's handler fail, unless it has
// returned: the connection may serve another request then.
func (k *socket) stopStream() {
	req := k.request.Load()
	req.mu.Lock()
	defer req.mu.Unlock()
	if req.w != nil {
		// Not every ResponseWriter has deadlines; the context is done in any case.
		_ = http.NewResponseController(req.w).SetWriteDeadline(aLongTimeAgo)
	}
}

// setWriter tells stopStream which writes to stop; nil: none any more.
func (k *socket) setWriter(w http.ResponseWriter) {
	req := k.request.Load()
	req.mu.Lock()
	req.w = w
	req.mu.Unlock()
}

// takeEnd reports whether k had not ended yet, and ends it: by itself.
func (k *socket) takeEnd() bool {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if k.ended {
		return false
	}
	k.ended = true
	k.s.remove(k)
	return true
}

// closedByHandler is called when the library has closed the connection.
func (k *socket) closedByHandler() {
	opened, closed, code := k.conn.outcome()
	reason := reasonDropped
	if closed {
		reason = reasonClosed
	}
	k.cancel(&CloseError{Code: code, Reason: reason, Err: net.ErrClosed})
	k.recordEnd(opened, reason, code)
}

// cut closes the connection at once, if there is one.
func (k *socket) cut() {
	k.s.mu.Lock()
	hijacked := k.hijacked
	k.s.mu.Unlock()
	if hijacked {
		_ = k.conn.below().Close()
	}
}

// release tells that the handler has returned.
func (k *socket) release() {
	k.s.mu.Lock()
	again := k.released
	k.released = true
	hijacked := k.hijacked
	k.s.mu.Unlock()
	if again {
		return
	}
	k.detach()
	switch {
	case hijacked:
		// A handler that has seen the peer go, and did not close, has left us
		// the only one who knows the connection.
		if k.peerGone.Load() {
			_ = k.conn.Close()
		}
	case k.stream:
		k.releaseStream()
	default:
		k.takeEnd()
		k.cancel(&CloseError{Code: 1006, Reason: reasonUpgradeFailed, Err: net.ErrClosed})
		k.recordEnd(false, "", 0)
	}
}

func (k *socket) releaseStream() {
	reason := reasonClosed
	if k.Err() != nil { // the client has gone
		reason = reasonDropped
	}
	k.setWriter(nil)
	if !k.takeEnd() {
		reason = k.conn.ending.cause.Reason
	}
	k.cancel(&CloseError{Reason: reason, Err: net.ErrClosed})
	k.recordEnd(true, reason, 0)
}

// withdraw takes back what enter did, without a trace.
func (k *socket) withdraw() {
	k.takeEnd()
	k.cancel(tickets.ErrRevoked)
	k.s.gone(k)
}

func (k *socket) recordOpened() {
	if !k.stream {
		k.request.Store(nil)
	}
	k.guard.audit.Record(k, audit.SocketOpened, k.facts(0)...)
}

// recordEnd writes the last line of k, after which it is gone. A connection that
// never became a WebSocket was no socket.
func (k *socket) recordEnd(opened bool, reason string, code int) {
	defer k.s.gone(k)
	if !opened {
		k.guard.audit.Record(k, audit.UpgradeRefused,
			slog.String("reason", reasonUpgradeFailed),
			slog.String("ip", k.ip),
			slog.String("path", k.path),
			slog.String("origin", k.request.Load().origin))
		return
	}
	lived := max(0, time.Since(time.Unix(0, k.openedAt)))
	seconds := math.Round(lived.Seconds()*1000) / 1000
	k.guard.audit.Record(k, audit.SocketClosed, append(k.facts(3),
		slog.String("reason", reason),
		slog.Int("close_code", code),
		slog.Float64("seconds", seconds))...)
}

func (k *socket) facts(more int) []slog.Attr {
	return append(make([]slog.Attr, 0, 6+more),
		slog.String("provider", k.session.Provider),
		slog.String("user_id", k.session.UserID),
		slog.String("ip", k.ip),
		slog.String("path", k.path),
		slog.String("ticket_id", shortHex(k.ticketID[:])),
		slog.String("socket_id", k.socketID()))
}

func (k *socket) socketID() string {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], k.id)
	return shortHex(id[:])
}

func (k *socket) info() SocketInfo {
	info := SocketInfo{
		ID:       k.socketID(),
		Provider: k.session.Provider, UserID: k.session.UserID,
		Path: k.path, IP: k.ip, TicketID: shortHex(k.ticketID[:]),
		OpenedAt: time.Unix(0, k.openedAt), EndsAt: k.endsAt(),
		BytesIn: k.conn.in.Load(), BytesOut: k.conn.sent.Load(),
		Stream: k.stream,
	}
	if k.session.ID != "" {
		info.Session = shortHash(k.ls.hash[:])
	}
	return info
}

// grant is as much of the ticket's grant as a revocation asks about.
func (k *socket) grant() tickets.Grant {
	return tickets.Grant{
		SessionID: k.session.ID, Provider: k.session.Provider, UserID: k.session.UserID,
		StartedAt: k.session.StartedAt,
	}
}
