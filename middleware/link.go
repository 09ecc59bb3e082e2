package middleware

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
)

// upgrade is the link of a socket that is not hijacked yet.
type upgrade struct{ *socket }

func (u upgrade) close() { u.cancel(u.cause) }

func (u upgrade) handlerReturned() {
	u.finish(u, audit.UpgradeRefused, &CloseError{1006, "upgrade_failed", net.ErrClosed})
}

// webSocket is the link of a socket that is hijacked, and the owner of its connection.
type webSocket struct {
	*socket
	conn *wsconn.Conn
}

func (ws *webSocket) close() {
	if ws.info.Stream { // there is no close frame for the context to wait for
		ws.cancel(ws.cause)
	}
	ws.conn.CloseWith(ws.cause.Code, ws.cause.Reason, ws.cause, ws.sockets.opts.CloseGrace)
}

// handlerReturned closes a connection whose peer has gone. The handler saw that, and returned
// without closing: nobody else closes the connection.
func (ws *webSocket) handlerReturned() {
	if ws.conn.ReadFailed() {
		_ = ws.conn.Close()
	}
}

// Opened records that the 101 is out. A stream has been open since its admission.
func (ws *webSocket) Opened() {
	if !ws.info.Stream {
		ws.record(audit.SocketOpened, ws.facts()...)
	}
}

// Flushed frees the place of a socket that its library closes, so that the page can come back at
// once. If Sockets closes it, the close frame is out.
func (ws *webSocket) Flushed() {
	ws.sockets.mu.Lock()
	ws.move(stateClosing)
	ws.sockets.mu.Unlock()
	if ws.cause != nil {
		ws.cancel(ws.cause)
	}
}

func (ws *webSocket) Closed(o wsconn.Outcome) {
	cause := &CloseError{Code: o.Code, Reason: "dropped", Err: net.ErrClosed}
	if o.SentClose {
		cause.Reason = "closed"
	}
	if ws.info.Stream { // there are no close codes in HTTP
		cause.Code = 0
	}
	last := audit.UpgradeRefused
	if o.Opened {
		last = audit.SocketClosed
	}
	ws.finish(ws, last, cause)
}

// hijacked wraps k's connection, so that Sockets can close it. switched: the 101 was written before
// the hijack.
func (k *socket) hijacked(conn net.Conn, rw *bufio.ReadWriter, switched bool) (net.Conn, error) {
	ws := &webSocket{socket: k}
	var err error
	if ws.conn, err = wsconn.New(conn, rw, switched, k.info.Stream, ws); err != nil {
		return nil, err
	}
	s := k.sockets
	s.mu.Lock()
	before := k.link
	if _, twice := before.(*webSocket); twice || k.state == stateClosed {
		s.mu.Unlock()
		return nil, fmt.Errorf("hijacked connection: it was hijacked before, "+
			"or its admission was released: %w", net.ErrClosed)
	}
	k.link = ws
	if !k.move(stateOpen) && k.info.OpenedAt.IsZero() {
		k.info.OpenedAt = time.Now() // closed before: the 101 and the close frame still go out
	}
	closing := s.evictFor(k)
	if k.cause != nil { // Sockets closed it before the hijack
		closing = append(closing, k)
	}
	s.mu.Unlock()
	k.detach()
	if st, ok := before.(*stream); ok {
		st.use(nil)
	}
	s.startClosing(closing)
	ws.conn.Start() // last: the audit may be slow
	return ws.conn, nil
}

// stream is the link of a plain request: its handler's context and response.
type stream struct {
	*socket
	http1 bool

	mu     sync.Mutex
	w      http.ResponseWriter // nil until it is known, and when the handler has returned
	closed bool                // close was called
}

// close ends the handler's context, and makes its writes fail. There is no close frame in HTTP, and
// nothing can end a handler that ignores both.
func (st *stream) close() {
	st.cancel(st.cause)
	st.mu.Lock()
	st.closed = true
	st.mu.Unlock()
	st.stopWrites()
}

// use sets the writer that close stops; nil: none.
func (st *stream) use(w http.ResponseWriter) {
	st.mu.Lock()
	st.w = w
	st.mu.Unlock()
	st.stopWrites()
}

// stopWrites makes the handler's writes fail if close was called, unless the handler has returned:
// the connection may serve another request then. In HTTP/1 it does so again until the handler
// returns: net/http closes a connection whose write failed, and crypto/tls then sets a deadline 5 s
// ahead. In HTTP/2 it does so once: each time sends one more RST_STREAM (RFC 9113 section 5.4.2).
func (st *stream) stopWrites() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.w == nil || !st.closed {
		return
	}
	// Not every ResponseWriter has deadlines; the context is done in any case.
	err := http.NewResponseController(st.w).SetWriteDeadline(time.Unix(1, 0))
	if err == nil && st.http1 {
		time.AfterFunc(max(st.sockets.opts.CloseGrace/4, 10*time.Millisecond), st.stopWrites)
	}
}

func (st *stream) handlerReturned() {
	cause := &CloseError{Reason: "closed", Err: net.ErrClosed}
	if st.ctx.Err() != nil { // the client has gone
		cause.Reason = "dropped"
	}
	st.use(nil)
	st.finish(st, audit.SocketClosed, cause)
}
