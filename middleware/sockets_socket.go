package middleware

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
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

	id       uint64
	session  *Session
	ip, path string
	guard    *Guard                  // that let it in
	request  atomic.Pointer[request] // nil once it is open; a stream's, while its handler runs

	own   atomic.Bool             // ctx is its own, and changes no more
	mu    sync.Mutex              // guards the next three, and orders the connection's deadlines
	ctx   context.Context         // until then, the request's, which only a stream's ends with
	stop  context.CancelCauseFunc // ends its own
	cause *CloseError             // why it has ended

	// Guarded by Sockets.mu, as is conn.ending, which is set with ended where it
	// does not end by itself.
	claimed  bool // by the one Hijack that there may be
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
	http1  bool
	attach sync.Once
	detach func() bool // stops ctx from ending the socket's context; nil: not attached

	url    url.URL // of the handler's request
	writer socketWriter

	mu sync.Mutex
	w  http.ResponseWriter // a stream's, until its handler has returned
}

// ticketHash is the audit's ticket_id, decoded.
type ticketHash [6]byte

func newSocket(a *attempt) *socket {
	k := &socket{
		id: rand.Uint64(), session: a.session, ip: a.ip, path: a.r.URL.Path,
		stream: a.stream, guard: a.guard,
	}
	id := a.ticket.Key().ID()
	k.ticketID = ticketHash(id[:6])
	k.conn.k = k
	ctx := a.r.Context()
	k.request.Store(&request{ctx: ctx, origin: a.r.Header.Get("Origin"), http1: a.r.ProtoMajor == 1})
	if !a.stream {
		// net/http cancels the request's context when the handler returns, and
		// there are libraries whose handlers return at once.
		ctx = context.WithoutCancel(ctx)
	}
	k.ctx = ctx
	return k
}

// handlersRequest is r with k for its context, and without the ticket.
func (k *socket) handlersRequest(r *http.Request) *http.Request {
	r = r.WithContext(k)
	stripTicket(r, &k.request.Load().url)
	return r
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
	if req := k.request.Load(); req != nil && req.writer.k == nil {
		req.writer = socketWriter{ResponseWriter: w, k: k}
		return &req.writer
	}
	return &socketWriter{ResponseWriter: w, k: k}
}

var errHijackRefused = fmt.Errorf("hijacked connection: "+
	"the admission was released, or has a connection already: %w", net.ErrClosed)

// hijack is called once net/http has given up the connection. switched: the 101
// has gone out before.
func (k *socket) hijack(conn net.Conn, rw *bufio.ReadWriter, switched bool) error {
	s := k.guard.sockets
	s.mu.Lock()
	refused := k.claimed || k.released
	k.claimed = true
	s.mu.Unlock()
	if refused {
		return errHijackRefused
	}
	k.detach()
	k.conn.Conn = conn
	switch {
	case k.stream:
		k.conn.out.phase = phaseOther
		k.conn.opened = true
	case switched:
		k.conn.out.phase = phaseFrames
		k.conn.opened = true
	}
	if err := k.conn.lend(rw); err != nil {
		return fmt.Errorf("hijacked connection: %w", err)
	}
	s.mu.Lock()
	if k.released { // its last line is written
		s.mu.Unlock()
		return errHijackRefused
	}
	k.hijacked = true
	var evicted []*socket
	ended := k.ended
	if ended || k.live {
		k.openedAt = time.Now().UnixNano()
	} else {
		evicted = s.enliven(k)
	}
	s.mu.Unlock()
	if switched && !k.stream {
		k.recordOpened()
	}
	s.end(evicted, causeEvicted)
	if ended { // while it was only admitted
		k.conn.take()
		go k.finish()
	}
	return nil
}

// terminate begins to end k, for the cause that is set. One that is hijacked only
// afterwards is finished there.
func (k *socket) terminate(hijacked bool) {
	if !hijacked || k.stream { // there is no close frame for the context to wait for
		k.cancel(k.conn.ending.cause)
	}
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
	s := k.guard.sockets
	s.mu.Lock()
	grace := s.opts.CloseGrace
	if s.hard {
		grace = 0
	}
	s.mu.Unlock()
	k.conn.finish(grace)
	opened, _, code := k.conn.outcome()
	k.recordEnd(opened, k.conn.ending.cause.Reason, code)
}

// stopStream makes the writes of a stream's handler fail, unless it has
// returned: the connection may serve another request then. In HTTP/1 it does so
// again as long as the handler has not, since net/http closes a connection on
// which a write failed, and crypto/tls allows itself 5 s more for that. In HTTP/2
// each time would be one more RST_STREAM (RFC 9113 section 5.4.2).
func (k *socket) stopStream() {
	req := k.request.Load()
	req.mu.Lock()
	defer req.mu.Unlock()
	if req.w == nil {
		return
	}
	// Not every ResponseWriter has deadlines; the context is done in any case.
	if http.NewResponseController(req.w).SetWriteDeadline(aLongTimeAgo) == nil && req.http1 {
		time.AfterFunc(max(k.guard.sockets.opts.CloseGrace/4, 10*time.Millisecond), k.stopStream)
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
	s := k.guard.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.ended {
		return false
	}
	k.ended = true
	s.remove(k)
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
	s := k.guard.sockets
	s.mu.Lock()
	hijacked := k.hijacked
	s.mu.Unlock()
	if hijacked {
		_ = k.conn.below().Close()
	}
}

// panicked closes the connection of a handler that has panicked, if it has one.
func (k *socket) panicked() {
	s := k.guard.sockets
	s.mu.Lock()
	hijacked := k.hijacked && !k.released
	s.mu.Unlock()
	if hijacked {
		s.end([]*socket{k}, causePanic)
	}
}

// release tells that the handler has returned.
func (k *socket) release() {
	s := k.guard.sockets
	s.mu.Lock()
	again := k.released
	k.released = true
	hijacked := k.hijacked
	s.mu.Unlock()
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
	k.cancel(causeRevoked)
	k.guard.sockets.gone(k)
}

func (k *socket) recordOpened() {
	if !k.stream {
		k.request.Store(nil)
	}
	if log := k.guard.audit; log.Enabled() {
		log.Record(k, audit.SocketOpened, k.facts(0)...)
	} else {
		log.Record(k, audit.SocketOpened)
	}
}

// recordEnd writes the last line of k, after which it is gone. A connection that
// never became a WebSocket was no socket.
func (k *socket) recordEnd(opened bool, reason string, code int) {
	defer k.guard.sockets.gone(k)
	log := k.guard.audit
	switch {
	case !opened:
		log.Record(k, audit.UpgradeRefused,
			slog.String("reason", reasonUpgradeFailed),
			slog.String("ip", k.ip),
			slog.String("path", k.path),
			slog.String("origin", k.request.Load().origin))
	case log.Enabled():
		lived := max(0, time.Since(time.Unix(0, k.openedAt)))
		seconds := math.Round(lived.Seconds()*1000) / 1000
		log.Record(k, audit.SocketClosed, append(k.facts(3),
			slog.String("reason", reason),
			slog.Int("close_code", code),
			slog.Float64("seconds", seconds))...)
	default:
		log.Record(k, audit.SocketClosed)
	}
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
