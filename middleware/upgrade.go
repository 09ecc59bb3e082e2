package middleware

import (
	"bufio"
	"fmt"
	"net"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
)

// upgrade is the link of a socket that is not hijacked yet.
type upgrade struct{ *socket }

func (u upgrade) close() { u.cancel(u.cause) }

func (u upgrade) abort() {}

func (u upgrade) handlerReturned() {
	u.finish(u, audit.UpgradeRefused, &CloseError{1006, reasonUpgradeFailed, net.ErrClosed})
}

func (u upgrade) traffic() (in, out int64) { return 0, 0 }

// webSocket is the link of a socket that is hijacked, and the owner of its
// connection.
type webSocket struct {
	k    *socket
	conn *wsconn.Conn
}

func (ws *webSocket) close() {
	k := ws.k
	if k.Stream { // there is no close frame for the context to wait for
		k.cancel(k.cause)
	}
	ws.conn.CloseWith(k.cause.Code, k.cause.Reason, k.cause, k.sockets.opts.CloseGrace)
}

func (ws *webSocket) abort() { ws.conn.Abort() }

// handlerReturned closes a connection whose peer has gone. The handler saw that,
// and returned without closing: nobody else closes the connection.
func (ws *webSocket) handlerReturned() {
	if ws.conn.PeerGone() {
		_ = ws.conn.Close()
	}
}

func (ws *webSocket) traffic() (in, out int64) { return ws.conn.Traffic() }

// Opened records that the 101 is out. A stream has been open since its admission.
func (ws *webSocket) Opened() {
	if !ws.k.Stream {
		ws.k.record(audit.SocketOpened, ws.k.facts()...)
	}
}

// Flushed frees the place of a socket that its library closes, so that the page can
// come back at once. If Sockets closes it, the close frame is out.
func (ws *webSocket) Flushed() {
	k := ws.k
	k.sockets.mu.Lock()
	k.move(stateClosing)
	k.sockets.mu.Unlock()
	if k.cause != nil {
		k.cancel(k.cause)
	}
}

func (ws *webSocket) Closed(o wsconn.Outcome) {
	own := &CloseError{Code: o.Code, Reason: reasonDropped, Err: net.ErrClosed}
	if o.SentClose {
		own.Reason = reasonClosed
	}
	if ws.k.Stream { // there are no close codes in HTTP
		own.Code = 0
	}
	last := audit.UpgradeRefused
	if o.Opened {
		last = audit.SocketClosed
	}
	ws.k.finish(ws, last, own)
}

// hijacked wraps k's connection, so that Sockets can close it. switched: the 101 was
// written before the hijack.
func (k *socket) hijacked(conn net.Conn, rw *bufio.ReadWriter, switched bool) (net.Conn, error) {
	ws := &webSocket{k: k}
	var err error
	if ws.conn, err = wsconn.New(conn, rw, switched && !k.Stream, k.Stream, ws); err != nil {
		return nil, err
	}
	s := k.sockets
	s.mu.Lock()
	before := k.link
	if _, twice := before.(*webSocket); twice || k.state == stateClosed {
		s.mu.Unlock()
		return nil, fmt.Errorf("hijacked connection: it was hijacked before, or its admission was released: %w",
			net.ErrClosed)
	}
	k.link = ws
	if !k.move(stateOpen) && k.OpenedAt.IsZero() {
		k.OpenedAt = time.Now() // it opens all the same, to be closed
	}
	closing := s.evictFor(k)
	if k.cause != nil { // Sockets closed it before the hijack
		closing = append(closing, k)
	}
	s.mu.Unlock()
	if k.detach != nil {
		k.detach()
	}
	if st, ok := before.(*stream); ok {
		st.use(nil)
	}
	s.startClosing(closing)
	ws.conn.Start() // last: the audit may be slow
	return ws.conn, nil
}
