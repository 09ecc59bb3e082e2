package middleware

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// frameConn is a hijacked connection that can be ended with a close frame, at
// any time and from outside, whatever WebSocket library holds it.
//
// Until then it passes everything through and follows the frames that go out.
// When it is ended, take takes it over: the library's reads and writes fail from
// there on, except for the rest of a frame that has begun; and finish ends it.
type frameConn struct {
	net.Conn // the original
	k        *socket

	in, sent atomic.Int64 // bytes

	reading sync.Mutex // held for the length of a Read
	writing sync.Mutex // held for the length of a Write; guards out, opened, told

	out    frames
	opened bool        // it has become a WebSocket
	told   bool        // the peer has been told
	taken  atomic.Bool // by us, to be ended

	ending *ending // why it is ended; set before taken is
}

// ending is what a connection needs only when it is ended.
type ending struct {
	cause   *CloseError
	settled chan struct{} // closed when there is nothing more to tell
	once    sync.Once
}

func newEnding(cause *CloseError) *ending {
	return &ending{cause: cause, settled: make(chan struct{})}
}

// settle ends the socket's context and then what waits in Read and Write: the
// close frame is out, or will never be. The context is not ended any sooner, for
// handlers act on it: a reverse proxy closes its backend in the middle of a frame.
func (c *frameConn) settle() {
	c.ending.once.Do(func() {
		c.k.cancel(c.ending.cause)
		close(c.ending.settled)
	})
}

// aLongTimeAgo is a deadline that ends whatever is blocked.
var aLongTimeAgo = time.Unix(1, 0)

// NetConn returns the original connection, for those who set socket options.
// What is written to it goes past ours, and breaks the page's last message.
func (c *frameConn) NetConn() net.Conn { return c.Conn }

// lend resets the pair that came with the connection to go through ours. What
// the client has sent already stays in the reader's buffer, as it was.
func (c *frameConn) lend(rw *bufio.ReadWriter) error {
	if err := rw.Writer.Flush(); err != nil {
		return err
	}
	rw.Writer.Reset(c)
	n := rw.Reader.Buffered()
	if n == 0 {
		rw.Reader.Reset(c)
		return nil
	}
	early, _ := rw.Reader.Peek(n)
	rw.Reader.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(early)), c))
	c.in.Add(int64(n))
	_, err := rw.Reader.Peek(n)
	return err
}

func (c *frameConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	var n int
	var err error
	if !c.taken.Load() {
		n, err = c.Conn.Read(p)
	}
	c.reading.Unlock()
	if c.taken.Load() { // which woke us, or this came too late to count
		// Whoever copies in two goroutines (a proxy) closes both ends when this
		// fails, and the rest of a frame that has begun would never come.
		<-c.ending.settled
		return 0, c.ending.cause
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.k.peerGone.Store(true)
	}
	c.in.Add(int64(n))
	return n, err
}

func (c *frameConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	var n int
	var err error
	if c.taken.Load() {
		n, err = c.writeRest(p)
	} else {
		n, err = c.send(p)
	}
	if !c.opened && c.out.phase == phaseFrames {
		c.opened = true
		c.k.recordOpened() // under the lock, or its end could be recorded first
	}
	c.writing.Unlock()
	// Whoever lets go of the lock looks again: the end may have come meanwhile.
	if c.taken.Load() {
		c.tell()
		if err != nil {
			<-c.ending.settled
		}
	}
	return n, err
}

func (c *frameConn) send(p []byte) (int, error) {
	after := c.out
	end := after.next(p)
	// The beginning of a frame, of a size that libraries buffer, and not its end:
	// they hand it to writev with the rest where they can (net.Buffers), but
	// through no other type than net's own.
	begins := len(p) <= 8<<10 && c.out.boundary() && !after.boundary()
	var n int
	var err error
	if tcp, ok := c.Conn.(*net.TCPConn); ok && begins {
		n, err = writeMore(tcp, p)
	} else {
		n, err = c.Conn.Write(p)
	}
	c.sent.Add(int64(n))
	if n == len(p) {
		after.advance(p[end:])
		c.out = after
	} else {
		c.out.advance(p[:n])
	}
	return n, err
}

// writeRest lets the rest of a frame, or of the HTTP response, through on a
// connection that is being ended, and nothing after it.
func (c *frameConn) writeRest(p []byte) (int, error) {
	if len(p) > 0 && c.out.phase == phaseStart {
		c.out.begin(p[0])
	}
	if c.out.boundary() {
		return 0, c.ending.cause
	}
	ahead := c.out
	rest := ahead.next(p)
	n, err := c.send(p[:rest])
	if err == nil && n < len(p) {
		err = c.ending.cause
	}
	return n, err
}

// Close closes the connection, unless it has been taken: then the library is
// done with it, and finish is not.
func (c *frameConn) Close() error {
	if c.k.takeEnd() {
		err := c.Conn.Close()
		c.k.closedByHandler()
		return err
	}
	if c.ending != nil {
		return nil
	}
	return c.Conn.Close()
}

// CloseWrite is for proxies, which pass on that one direction has ended.
func (c *frameConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	if c.taken.Load() {
		return nil
	}
	return half.CloseWrite()
}

func (c *frameConn) SetDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetDeadline)
}

func (c *frameConn) SetReadDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetReadDeadline)
}

func (c *frameConn) SetWriteDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetWriteDeadline)
}

func (c *frameConn) deadline(t time.Time, set func(time.Time) error) error {
	c.k.mu.Lock() // the library's come before ours
	defer c.k.mu.Unlock()
	if c.taken.Load() {
		return nil
	}
	return set(t)
}

// take takes the connection from the library: what it reads and writes from here
// on fails, and what is blocked in reading wakes up.
func (c *frameConn) take() {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	c.taken.Store(true)
	_ = c.Conn.SetWriteDeadline(time.Time{})
	_ = c.Conn.SetReadDeadline(aLongTimeAgo)
}

// finish ends a connection that has been taken, within grace: close frame, FIN,
// and then reading on, because a socket that is closed with unread input makes
// TCP reset, and a reset destroys the close frame on its way (RFC 1122 section
// 4.2.2.13). It returns when the connection is closed.
func (c *frameConn) finish(grace time.Duration) {
	defer c.settle() // on every path: a reader that nobody wakes is a leak
	limit := time.AfterFunc(grace, c.cut)
	defer limit.Stop()
	// Not here: a peer that writes before it reads takes the close frame only
	// when its own bytes have been read.
	go c.tell()

	c.reading.Lock() // the library's Read has returned, and none will begin
	_ = c.Conn.SetReadDeadline(time.Time{})
	c.reading.Unlock()
	if drain(c.below()) == nil {
		<-c.ending.settled
	}
	_ = c.Conn.Close()
}

// tell sends the close frame if a frame may begin here and nobody is writing;
// else the Write that is under way, or the one that ends the frame, comes here.
func (c *frameConn) tell() {
	if !c.writing.TryLock() {
		return
	}
	defer c.writing.Unlock()
	if c.told {
		return
	}
	switch {
	case c.out.phase == phaseOther, c.out.closed:
		// There is no one to tell, or the handler has said it already.
	case c.out.boundary():
		if _, err := c.send(closeFrame(c.ending.cause.Code, c.ending.cause.Reason)); err != nil {
			c.cut()
			return
		}
	default:
		return
	}
	c.told = true
	for _, conn := range []net.Conn{c.Conn, c.below()} { // TLS has an end of its own
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	c.settle()
}

// cut closes the connection at once, whoever may be blocked in it.
func (c *frameConn) cut() {
	_ = c.below().Close()
	c.settle()
}

// below is the connection that carries the bytes. TLS would wait for its own
// locks, and there is nothing in the rest that anyone wants to decrypt.
func (c *frameConn) below() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}

// outcome tells, of a connection that is closed, whether it ever was a WebSocket
// and which close code went out. On an open one it would wait for a Write.
func (c *frameConn) outcome() (opened, closed bool, code int) {
	c.writing.Lock()
	defer c.writing.Unlock()
	opened = c.opened
	c.opened = true // what is written from here on opens nothing
	if c.k.stream { // there are no close codes in HTTP
		return opened, c.out.closed, 0
	}
	return opened, c.out.closed, c.out.closeCode()
}

func drain(conn net.Conn) error {
	buf := make([]byte, 2048)
	for {
		if _, err := conn.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// closeFrame is an unmasked close frame (RFC 6455 section 5.5.1); reason is at
// most maxCloseReason bytes.
func closeFrame(code int, reason string) []byte {
	f := make([]byte, 0, 4+len(reason))
	f = append(f, 0x80|opClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(f, reason...)
}
