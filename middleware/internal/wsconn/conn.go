// Package wsconn closes a hijacked WebSocket connection from outside, with a close frame that the
// peer can read, whatever library holds it. It knows nothing of sessions, tickets or logs.
package wsconn

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a hijacked connection. Reads and writes pass through, and Conn follows the frames that go
// out. Closing from outside takes these steps:
//
//  1. [Conn.CloseWith] returns. From now on the library's reads and writes block, except to finish
//     a frame that has begun. Conn reads and drops what the peer sends: some peers read the close
//     frame only after their own write.
//  2. The close frame goes out at the next frame boundary, and FIN after it.
//  3. Flushed is called.
//  4. The library's reads and writes return the error given to CloseWith.
//  5. The peer closes its side, and the connection is closed. Closing earlier, with input unread,
//     would make TCP reset, and the reset destroys the close frame (RFC 1122 section 4.2.2.13).
//
// If the grace ends first, steps 3 to 5 happen at once.
type Conn struct {
	net.Conn // the original
	owner    Owner

	in, out    atomic.Int64
	readFailed atomic.Bool
	opened     atomic.Bool // the connection has become a WebSocket

	reading sync.Mutex // held for the length of a Read
	writing sync.Mutex // held for the length of a Write; guards sent
	sent    frames

	mu              sync.Mutex // orders Close, CloseWith and the library's deadlines
	closedByLibrary bool       // before CloseWith was called
	closing         atomic.Pointer[closing]

	reportOpened, reportFlushed sync.Once
	flushed                     sync.WaitGroup // one, until Flushed has returned
}

// An Owner learns what happens to its [Conn]. Each method is called at most once, without a lock.
type Owner interface {
	// Opened: the 101 is out. It returns before Closed is called.
	Opened()
	// Flushed: nothing more goes out: the close frame is on its way, or never will be.
	Flushed()
	// Closed: the connection is closed, by the library or after CloseWith.
	Closed(Outcome)
}

// Outcome describes a connection that is closed.
type Outcome struct {
	Opened    bool // it was a WebSocket
	SentClose bool // a close frame went out
	Code      int  // of that close frame; 1005: it had none; 1006: no close frame
}

// New returns conn as a Conn. rw is the pair that came with it from Hijack: New resets it to go
// through the Conn, with what the client has sent already. switched says that the 101 went out
// before the hijack; [Conn.Start] then reports that the connection has opened. raw says that it is
// no WebSocket.
func New(conn net.Conn, rw *bufio.ReadWriter, switched, raw bool, owner Owner) (*Conn, error) {
	c := &Conn{Conn: conn, owner: owner}
	c.flushed.Add(1)
	c.opened.Store(switched || raw)
	switch {
	case raw:
		c.sent.phase = phaseOther
	case switched:
		c.sent.phase = phaseFrames
	}
	if err := rw.Flush(); err != nil {
		return nil, fmt.Errorf("hijacked connection: %w", err)
	}
	rw.Writer.Reset(c)
	early, _ := rw.Peek(rw.Reader.Buffered())
	if len(early) == 0 {
		rw.Reader.Reset(c)
		return c, nil
	}
	c.in.Add(int64(len(early)))
	rw.Reader.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(early)), c))
	_, _ = rw.Peek(len(early)) // into the buffer: libraries look for it there
	return c, nil
}

// Start calls Opened, if the 101 is out.
func (c *Conn) Start() {
	if c.opened.Load() {
		c.reportOpened.Do(c.owner.Opened)
	}
}

// NetConn returns the original connection, for socket options only: writes go past Conn.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Traffic returns how many bytes were read and written.
func (c *Conn) Traffic() (in, out int64) { return c.in.Load(), c.out.Load() }

// ReadFailed reports whether a Read failed, other than by its deadline.
func (c *Conn) ReadFailed() bool { return c.readFailed.Load() }

func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	var n int
	var err error
	if c.closing.Load() == nil {
		n, err = c.Conn.Read(p)
	}
	c.reading.Unlock()
	if closing := c.closing.Load(); closing != nil {
		// Not before the close frame is out: a proxy that copies in two goroutines closes both ends
		// when this fails, and the rest of a frame never comes.
		c.flushed.Wait()
		return 0, closing.err
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.readFailed.Store(true)
	}
	c.in.Add(int64(n))
	return n, err
}

func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	var n int
	var err error
	if c.closing.Load() == nil {
		n, err = c.send(p)
	} else {
		n, err = c.sendRest(p)
	}
	if c.sent.phase == phaseFrames {
		c.opened.Store(true)
	}
	c.writing.Unlock()
	c.Start()
	// Check after unlocking: closing may have started, and found the lock held.
	if closing := c.closing.Load(); closing != nil {
		c.sendClose(closing.frame)
		if err != nil || n < len(p) {
			c.flushed.Wait()
			err = closing.err
		}
	}
	return n, err
}

// send writes p, and tracks the frames in it.
func (c *Conn) send(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	c.sent.advance(p[:n])
	return n, err
}

// sendRest writes the rest of a frame, or of the HTTP response, and nothing after it.
func (c *Conn) sendRest(p []byte) (int, error) {
	c.sent.begin(p)
	if c.sent.boundary() {
		return 0, nil
	}
	ahead := c.sent
	return c.send(p[:ahead.next(p)])
}

// Close is for the library. It closes the connection, unless CloseWith was called first: then the
// connection is closed after the close frame.
func (c *Conn) Close() error {
	c.mu.Lock()
	closing, again := c.closing.Load() != nil, c.closedByLibrary
	c.closedByLibrary = !closing
	c.mu.Unlock()
	switch {
	case closing:
		return nil
	case again:
		return c.Conn.Close()
	}
	c.reportFlush()
	if t, ok := c.Conn.(*tls.Conn); ok {
		// crypto/tls waits up to 5 s for a peer that reads nothing.
		limit := time.AfterFunc(time.Second, func() { _ = t.NetConn().Close() })
		defer limit.Stop()
	}
	err := c.Conn.Close()
	c.report()
	return err
}

// CloseWrite closes one direction, for proxies.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	if c.closing.Load() != nil {
		return nil
	}
	return half.CloseWrite()
}

func (c *Conn) SetDeadline(t time.Time) error      { return c.deadline(t, c.Conn.SetDeadline) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.deadline(t, c.Conn.SetReadDeadline) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.deadline(t, c.Conn.SetWriteDeadline) }

func (c *Conn) deadline(t time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Load() != nil {
		return nil
	}
	return set(t)
}
