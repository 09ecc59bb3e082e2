package middleware

import (
	"bufio"
	"fmt"
	"net"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
)

// hijacked wraps k's connection, so that Sockets can close it. switched: the 101 was written before
// the hijack.
func (k *socket) hijacked(conn net.Conn, rw *bufio.ReadWriter, switched bool) (net.Conn, error) {
	c, err := wsconn.New(conn, rw, switched, k.info.Stream, k)
	if err != nil {
		return nil, err
	}
	s := k.sockets
	s.mu.Lock()
	if k.conn != nil || k.state == stateClosed {
		s.mu.Unlock()
		return nil, fmt.Errorf("hijacked connection: it was hijacked before, "+
			"or its admission was released: %w", net.ErrClosed)
	}
	k.conn = c
	if !k.move(stateOpen) && k.info.OpenedAt.IsZero() {
		k.info.OpenedAt = time.Now() // closed before: the 101 and the close frame still go out
	}
	closing := s.evictFor(k)
	if k.cause != nil { // Sockets closed it before the hijack
		closing = append(closing, k)
	}
	s.mu.Unlock()
	k.detach()
	k.respondTo(nil)
	s.startClosing(closing)
	c.Start() // last: the audit may be slow
	return c, nil
}

// Opened, a method of [wsconn.Owner], records that the 101 is out. A stream has been open since its admission.
func (k *socket) Opened() {
	if !k.info.Stream {
		k.record(audit.SocketOpened, k.facts()...)
	}
}

// Flushed frees the place of a socket that its library closes, so that the page can come back at
// once. If Sockets closes it, the close frame is out.
func (k *socket) Flushed() {
	k.sockets.mu.Lock()
	k.move(stateClosing)
	k.sockets.mu.Unlock()
	if k.cause != nil {
		k.cancel(k.cause)
	}
}

func (k *socket) Closed(o wsconn.Outcome) {
	cause := &CloseError{Code: o.Code, Reason: "dropped", Err: net.ErrClosed}
	if o.SentClose {
		cause.Reason = "closed"
	}
	if k.info.Stream { // there are no close codes in HTTP
		cause.Code = 0
	}
	last := audit.UpgradeRefused
	if o.Opened {
		last = audit.SocketClosed
	}
	k.finish(k.conn, last, cause)
}
