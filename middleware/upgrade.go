package middleware

import (
	"bufio"
	"fmt"
	"net"
	"time"

	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
)

// upgrade is the link of a socket that is not hijacked yet.
type upgrade struct{ *socket }

func (u upgrade) close(cause *CloseError, _ time.Duration) { u.cancel(cause) }

func (u upgrade) abort() {}

func (u upgrade) handlerReturned() {
	u.finish(u, false, &CloseError{1006, reasonUpgradeFailed, net.ErrClosed})
}

func (u upgrade) traffic() (in, out int64) { return 0, 0 }

// webSocket is the link of a socket that is hijacked.
type webSocket struct {
	*wsconn.Conn
	k *socket
}

func (ws webSocket) close(cause *CloseError, grace time.Duration) {
	if ws.k.isStream { // there is no close frame for the context to wait for
		ws.k.cancel(cause)
	}
	ws.CloseWith(cause.Code, cause.Reason, cause, grace)
}

func (ws webSocket) abort() { ws.Abort() }

// handlerReturned closes a connection whose peer has gone. The handler saw that,
// and returned without closing: nobody else closes the connection.
func (ws webSocket) handlerReturned() {
	if ws.PeerGone() {
		_ = ws.Close()
	}
}

func (ws webSocket) traffic() (in, out int64) { return ws.Traffic() }

// hijacked wraps k's connection, so that Sockets can close it. switched: the 101 was
// written before the hijack.
func (k *socket) hijacked(conn net.Conn, rw *bufio.ReadWriter, switched bool) (net.Conn, error) {
	s := k.sockets
	ws := webSocket{k: k}
	callbacks := wsconn.Callbacks{Flushed: k.flushed, Opened: k.recordOpened}
	if k.isStream {
		callbacks.Opened = func() {} // it has been open since its admission
	}
	callbacks.Closed = func(o wsconn.Outcome) { k.closed(ws, o) }
	c, err := wsconn.New(conn, rw, switched && !k.isStream, k.isStream, callbacks)
	if err != nil {
		return nil, err
	}
	ws.Conn = c
	s.mu.Lock()
	st, _ := k.link.(*stream)
	if _, twice := k.link.(webSocket); twice || k.state == stateClosed {
		s.mu.Unlock()
		return nil, fmt.Errorf("hijacked connection: it was hijacked before, or its admission was released: %w",
			net.ErrClosed)
	}
	k.link = ws
	if !k.move(stateOpen) && k.openedAt.IsZero() {
		k.openedAt = time.Now() // it opens all the same, to be closed
	}
	evicted := s.evictFor(k)
	closing := k.cause != nil
	s.mu.Unlock()
	if k.detach != nil {
		k.detach()
	}
	if st != nil {
		st.use(nil)
	}
	s.startClosing(evicted)
	if closing { // Sockets closed it before the hijack
		s.startClosing([]*socket{k})
	}
	c.Start() // last: the audit may be slow
	return c, nil
}

// flushed runs after the last write. It frees the place of a socket that its
// library closes, so that the page can come back at once.
func (k *socket) flushed() {
	k.sockets.mu.Lock()
	k.move(stateClosing)
	cause := k.cause
	k.sockets.mu.Unlock()
	if cause != nil {
		k.cancel(cause)
	}
}

// closed is called when the connection is closed.
func (k *socket) closed(ws webSocket, o wsconn.Outcome) {
	own := &CloseError{Code: o.Code, Reason: reasonDropped, Err: net.ErrClosed}
	if o.SentClose {
		own.Reason = reasonClosed
	}
	if k.isStream { // there are no close codes in HTTP
		own.Code = 0
	}
	k.finish(ws, o.Opened, own)
}
