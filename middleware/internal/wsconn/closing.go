package wsconn

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// closing is what CloseWith was called with.
type closing struct {
	frame []byte
	err   error // what the library's reads and writes return
}

// MaxReason is the longest reason: 125 bytes (RFC 6455 section 5.5) without the code.
const MaxReason = 123

var longAgo = time.Unix(1, 0) // a deadline that wakes blocked calls

// CloseWith begins to close the connection, and returns. It sends a close frame of code and reason
// (at most [MaxReason] bytes), and closes within grace. err is what the library's reads and writes
// return. Only the first call counts, and only if the library has not called Close.
func (c *Conn) CloseWith(code int, reason string, err error, grace time.Duration) {
	head := []byte{0x80 | opClose, byte(2 + len(reason)), byte(code >> 8), byte(code)}
	closing := &closing{frame: append(head, reason...), err: err}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closedByLibrary || c.closing.Load() != nil {
		return
	}
	c.closing.Store(closing)
	_ = c.Conn.SetWriteDeadline(time.Time{})
	_ = c.Conn.SetReadDeadline(longAgo) // wakes the library's Read
	go c.drainAndClose(closing.frame, grace)
}

// Abort ends a close that is under way. Unsent bytes are lost.
func (c *Conn) Abort() {
	c.mu.Lock()
	begun := c.closedByLibrary || c.closing.Load() != nil
	c.mu.Unlock()
	if begun {
		_ = c.below().Close()
		c.reportFlush()
	}
}

// drainAndClose closes the connection, within grace.
func (c *Conn) drainAndClose(frame []byte, grace time.Duration) {
	limit := time.AfterFunc(grace, c.Abort)
	defer limit.Stop()
	// In a goroutine: this write can block until the loop below has read the peer's bytes.
	go c.sendClose(frame)

	c.reading.Lock() // the library's Read has returned, and none will begin
	_ = c.Conn.SetReadDeadline(time.Time{})
	c.reading.Unlock()
	if _, err := io.Copy(io.Discard, c.below()); err == nil {
		c.flushed.Wait()
	}
	c.reportFlush() // the peer may have reset the connection before the close frame
	_ = c.Conn.Close()
	c.report()
}

// sendClose sends the close frame and FIN if no Write runs, and no frame has begun. Otherwise the
// Write that runs, or the one that ends the frame, calls sendClose.
func (c *Conn) sendClose(frame []byte) {
	if !c.writing.TryLock() {
		return
	}
	// A second close frame, or one that nobody expects, would break RFC 6455 section 5.5.1.
	expected := c.sent.phase != phaseOther && !c.sent.closed
	if expected && !c.sent.boundary() {
		c.writing.Unlock()
		return
	}
	var err error
	if expected {
		_, err = c.send(frame)
	}
	if err != nil {
		_ = c.below().Close()
	} else {
		for _, conn := range []net.Conn{c.Conn, c.below()} { // TLS sends close_notify before FIN
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		}
	}
	c.writing.Unlock()
	c.reportFlush()
}

// reportFlush calls Flushed, and then lets the library's blocked calls return.
func (c *Conn) reportFlush() {
	c.reportFlushed.Do(func() {
		c.owner.Flushed()
		c.flushed.Done()
	})
}

// report calls Closed. The connection is closed: no Write holds the lock for long.
func (c *Conn) report() {
	c.writing.Lock()
	outcome := Outcome{Opened: c.opened.Load(), SentClose: c.sent.closed, Code: c.sent.closeCode()}
	c.sent = frames{phase: phaseOther} // Opened is not called after Closed
	c.writing.Unlock()
	c.Start()
	c.owner.Closed(outcome)
}

// below is the connection under TLS, which could block on its own locks.
func (c *Conn) below() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}
