package wsconn

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// closing is the state of a connection that is being closed from outside.
type closing struct {
	frame   []byte
	err     error         // what the library's reads and writes return
	flushed chan struct{} // closed after Flushed
}

// MaxReason is how long the reason of a close frame may be: a control frame holds 125 bytes (RFC
// 6455 section 5.5), and the code takes two.
const MaxReason = 123

var longAgo = time.Unix(1, 0) // a deadline that wakes blocked calls

// CloseWith begins to close the connection, and returns. It sends a close frame of code and reason
// (at most [MaxReason] bytes), and closes within grace. err is what the library's reads and writes
// return. Only the first call counts, and only if the library has not called Close.
func (c *Conn) CloseWith(code int, reason string, err error, grace time.Duration) {
	head := []byte{0x80 | opClose, byte(2 + len(reason)), byte(code >> 8), byte(code)}
	frame := append(head, reason...)
	closing := &closing{frame: frame, err: err, flushed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.closing.Load() != nil {
		return
	}
	c.closing.Store(closing)
	_ = c.Conn.SetWriteDeadline(time.Time{})
	_ = c.Conn.SetReadDeadline(longAgo) // wakes the library's Read
	go c.drainAndClose(closing, grace)
}

// Abort ends a close that is under way. Unsent bytes are lost.
func (c *Conn) Abort() {
	c.mu.Lock()
	closing, closed := c.closing.Load(), c.closed
	c.mu.Unlock()
	if closing == nil && !closed {
		return
	}
	_ = c.below().Close()
	if closing != nil {
		c.reportFlush(closing)
	}
}

// drainAndClose closes the connection, within grace.
func (c *Conn) drainAndClose(closing *closing, grace time.Duration) {
	limit := time.AfterFunc(grace, c.Abort)
	defer limit.Stop()
	// In a goroutine: this write can block until the loop below has read the peer's bytes.
	go c.sendClose(closing)

	c.reading.Lock() // the library's Read has returned, and none will begin
	_ = c.Conn.SetReadDeadline(time.Time{})
	c.reading.Unlock()
	if _, err := io.Copy(io.Discard, c.below()); err == nil {
		<-closing.flushed
	}
	c.reportFlush(closing) // the peer may have reset the connection before the close frame
	_ = c.Conn.Close()
	c.report()
}

// sendClose sends the close frame at a frame boundary, if no Write runs. Otherwise the Write that
// runs, or the one that ends the frame, calls sendClose.
func (c *Conn) sendClose(closing *closing) {
	if !c.writing.TryLock() {
		return
	}
	out := c.sendCloseLocked(closing)
	c.writing.Unlock()
	if out {
		c.reportFlush(closing)
	}
}

// sendCloseLocked reports whether sending is finished.
func (c *Conn) sendCloseLocked(closing *closing) bool {
	switch {
	case c.sent.phase == phaseOther, c.sent.closed:
		// The peer expects no close frame, or has the handler's: a second one would break the
		// protocol (RFC 6455 section 5.5.1).
	case !c.sent.boundary():
		return false
	default:
		if _, err := c.send(closing.frame); err != nil {
			_ = c.below().Close()
			return true
		}
	}
	for _, conn := range []net.Conn{c.Conn, c.below()} { // TLS sends close_notify before FIN
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	return true
}

// reportFlush calls Flushed, and then lets the library's blocked calls return.
func (c *Conn) reportFlush(closing *closing) {
	c.reportFlushed.Do(func() {
		c.owner.Flushed()
		close(closing.flushed)
	})
}

// report calls Closed. The connection is closed: no Write holds the lock for long.
func (c *Conn) report() {
	c.writing.Lock()
	c.ended = true
	outcome := Outcome{Opened: c.opened.Load(), SentClose: c.sent.closed, Code: c.sent.closeCode()}
	c.writing.Unlock()
	c.Start()
	c.owner.Closed(outcome)
}

// below is the connection that carries the bytes. Draining and closing use it: TLS could block on
// its own locks.
func (c *Conn) below() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}
