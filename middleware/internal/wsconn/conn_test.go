package wsconn_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware/internal/wsconn"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

var errEnded = errors.New("ended from outside")

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = 30 * time.Second

// owner records what a Conn tells it.
type owner struct {
	mu     sync.Mutex
	events []string
	closed chan wsconn.Outcome
}

func (o *owner) add(event string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, event)
}

func (o *owner) Opened()  { o.add("opened") }
func (o *owner) Flushed() { o.add("flushed") }

func (o *owner) Closed(outcome wsconn.Outcome) {
	o.add("closed")
	o.closed <- outcome
}

func (o *owner) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.events...)
}

// open makes a Conn of server, as after a hijack.
func open(t testing.TB, server net.Conn, switched, raw bool) (*wsconn.Conn, *owner) {
	t.Helper()
	o := &owner{closed: make(chan wsconn.Outcome, 2)}
	rw := bufio.NewReadWriter(bufio.NewReader(server), bufio.NewWriter(server))
	c, err := wsconn.New(server, rw, switched, raw, o)
	require.NoError(t, err)
	c.Start()
	return c, o
}

// transports are the connections that net/http hands out, and the plainest one.
var transports = map[string]func(t testing.TB) (client, server net.Conn){
	"pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
	"tcp":  tcpPair,
	"tls": func(t testing.TB) (net.Conn, net.Conn) {
		client, server := tcpPair(t)
		c := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate()}})
		go func() { _ = c.Handshake() }()
		require.NoError(t, s.Handshake())
		return c, s
	},
}

func tcpPair(t testing.TB) (client, server net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	return client, server
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// binary is an unmasked frame of n bytes.
func binary(n int) []byte {
	head := []byte{0x82, byte(n)}
	switch {
	case n >= 1<<16:
		head = []byte{0x82, 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	case n >= 126:
		head = []byte{0x82, 126, byte(n >> 8), byte(n)}
	}
	return append(head, bytes.Repeat([]byte("x"), n)...)
}

func closeFrame(code int, reason string) string {
	return string([]byte{0x88, byte(2 + len(reason)), byte(code >> 8), byte(code)}) + reason
}

// A close from outside inside a frame waits for the frame's end, at whatever byte
// it comes, and nothing goes out after the close frame.
func TestCloseWith_AtEverySplitOfAFrame(t *testing.T) {
	for name, dial := range transports {
		for _, size := range []int{0, 1, 125, 126, 300, 70_000} {
			frame := binary(size)
			head := len(frame) - size
			for cut := 0; cut <= len(frame); cut++ {
				if cut > head+2 && cut < len(frame)-2 && cut != len(frame)/2 {
					continue // one split inside the payload is as good as another
				}
				for _, through := range []bool{false, true} { // the 101 too
					t.Run(fmt.Sprintf("%s/%d/%d/%v", name, size, cut, through), func(t *testing.T) {
						closeAt(t, dial, frame, cut, through)
					})
				}
			}
		}
	}
}

func closeAt(
	t *testing.T, dial func(testing.TB) (net.Conn, net.Conn), frame []byte, cut int, through bool,
) {
	client, server := dial(t)
	defer client.Close()
	c, o := open(t, server, !through, false)
	want := string(frame) + closeFrame(4401, "session_revoked")
	if cut == 0 {
		want = closeFrame(4401, "session_revoked")
	}
	got := make(chan string, 1)
	go func() {
		b := make([]byte, len(want))
		if through {
			b = make([]byte, len(switching)+len(want))
		}
		_, err := io.ReadFull(client, b)
		assert.NoError(t, err)
		client.Close()
		got <- strings.TrimPrefix(string(b), switching)
	}()
	if through {
		_, err := io.WriteString(c, switching)
		require.NoError(t, err)
	}
	_, err := c.Write(frame[:cut])
	require.NoError(t, err)
	c.CloseWith(4401, "session_revoked", errEnded, patience)
	n, err := c.Write(append(frame[cut:len(frame):len(frame)], "\x81\x01x"...))
	require.ErrorIs(t, err, errEnded)
	if cut > 0 {
		require.Equal(t, len(frame)-cut, n)
	}
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, errEnded)
	require.NoError(t, c.Close(), "the library's own comes too late to matter")
	require.Equal(t, want, <-got)
	require.Equal(t, wsconn.Outcome{Opened: true, SentClose: true, Code: 4401}, <-o.closed)
	require.Equal(t, []string{"opened", "flushed", "closed"}, o.all())
}

// The response's head may come in pieces as well: the close frame waits for it.
func TestCloseWith_AtEverySplitOfTheResponse(t *testing.T) {
	for cut := range len(switching) {
		client, server := net.Pipe()
		c, o := open(t, server, false, false)
		got := make(chan string, 1)
		go func() {
			b := make([]byte, len(switching)+len(closeFrame(1001, "")))
			_, err := io.ReadFull(client, b)
			assert.NoError(t, err)
			client.Close()
			got <- string(b)
		}()
		_, err := io.WriteString(c, switching[:cut])
		require.NoError(t, err)
		c.CloseWith(1001, "", errEnded, patience)
		_, err = io.WriteString(c, switching[cut:])
		require.NoError(t, err)
		require.Equal(t, switching+closeFrame(1001, ""), <-got)
		require.Equal(t, 1001, (<-o.closed).Code)
		// The close frame may be out before the Write that completes the 101 calls Opened.
		events := o.all()
		require.ElementsMatch(t, []string{"opened", "flushed", "closed"}, events)
		require.Equal(t, "closed", events[2])
	}
}

// When the close frame cannot go out, grace ends it, and nobody stays blocked.
func TestCloseWith_EndsWithGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		c, o := open(t, server, true, false)
		blocked := make(chan error, 2)
		go func() {
			_, err := c.Read(make([]byte, 1))
			blocked <- err
		}()
		go func() {
			_, err := c.Write(binary(10)) // the peer reads nothing
			blocked <- err
		}()
		synctest.Wait()
		begin := time.Now()
		c.CloseWith(4401, "", errEnded, time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"opened"}, o.all(), "the context of the socket is not ended yet")
		for range 2 {
			require.ErrorIs(t, <-blocked, errEnded)
		}
		require.Equal(t, wsconn.Outcome{Opened: true, Code: 1006}, <-o.closed)
		require.Equal(t, time.Minute, time.Since(begin))
	})
}

func TestAbort_EndsACloseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		c, o := open(t, server, true, false)
		c.Abort() // nothing: no close is under way
		require.Equal(t, []string{"opened"}, o.all())
		begin := time.Now()
		c.CloseWith(4401, "", errEnded, time.Hour)
		c.Abort()
		<-o.closed
		require.Zero(t, time.Since(begin))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, errEnded)
	})
}

// A peer that resets while it is told wakes the reader.
func TestCloseWith_WhenThePeerResets(t *testing.T) {
	client, server := tcpPair(t)
	c, o := open(t, server, true, false)
	_, err := c.Write([]byte{0x82, 5, 'a'}) // a frame that never ends
	require.NoError(t, err)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	c.CloseWith(4401, "", errEnded, patience)
	require.NoError(t, client.(*net.TCPConn).SetLinger(0))
	require.NoError(t, client.Close())
	require.ErrorIs(t, <-read, errEnded)
	require.Equal(t, 1006, (<-o.closed).Code)
}

// Whichever of the library's Close and CloseWith comes first, Closed is called
// once.
func TestClose_RacesCloseWith(t *testing.T) {
	for range 200 {
		client, server := net.Pipe()
		go func() {
			_, _ = io.ReadFull(client, make([]byte, 4))
			client.Close()
		}()
		c, o := open(t, server, true, false)
		var both sync.WaitGroup
		both.Go(func() { _ = c.Close() })
		both.Go(func() { c.CloseWith(1001, "", errEnded, patience) })
		both.Wait()
		<-o.closed
		_ = c.Close()
		c.CloseWith(1001, "", errEnded, patience)
		require.Equal(t, []string{"opened", "flushed", "closed"}, o.all())
	}
}

// A connection that never answered 101 was no WebSocket, and opens no more once
// it is closed.
func TestClose_BeforeTheResponse(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c, o := open(t, server, false, false)
	require.NoError(t, c.Close())
	require.Equal(t, wsconn.Outcome{Code: 1006}, <-o.closed)
	_, err := c.Write([]byte("\x81\x00"))
	require.Error(t, err)
	require.Equal(t, []string{"flushed", "closed"}, o.all())
}

// The handler's own close frame stands: a second one would break the protocol
// (RFC 6455 section 5.5.1).
func TestCloseWith_AfterTheHandlersCloseFrame(t *testing.T) {
	client, server := tcpPair(t)
	defer client.Close()
	c, o := open(t, server, true, false)
	_, err := io.WriteString(c, closeFrame(3007, "done"))
	require.NoError(t, err)
	c.CloseWith(4401, "session_revoked", errEnded, patience)
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, closeFrame(3007, "done"), string(got))
	client.Close()
	require.Equal(t, wsconn.Outcome{Opened: true, SentClose: true, Code: 3007}, <-o.closed)
}

// A connection without frames is closed without a close frame.
func TestCloseWith_ARawConnection(t *testing.T) {
	client, server := tcpPair(t)
	defer client.Close()
	c, o := open(t, server, false, true)
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhi")
	require.NoError(t, err)
	c.CloseWith(4401, "session_revoked", errEnded, patience)
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK\r\n\r\nhi", string(got))
	client.Close()
	require.False(t, (<-o.closed).SentClose)
}

// The library's deadlines do not interfere with ours.
func TestDeadlines_AreIgnoredWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c, o := open(t, server, true, false)
		require.NoError(t, c.SetDeadline(time.Now().Add(-time.Hour)))
		c.CloseWith(4401, "", errEnded, time.Hour)
		for _, set := range []func(time.Time) error{
			c.SetDeadline, c.SetReadDeadline, c.SetWriteDeadline,
		} {
			require.NoError(t, set(time.Now().Add(-time.Hour)))
		}
		time.Sleep(time.Minute)
		b := make([]byte, 4)
		_, err := io.ReadFull(client, b)
		require.NoError(t, err)
		require.Equal(t, closeFrame(4401, ""), string(b))
		client.Close()
		require.True(t, (<-o.closed).SentClose)
	})
}

// What the client has sent before the hijack stays in the reader's buffer.
func TestNew_KeepsEarlyBytes(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	go func() { _, _ = io.WriteString(client, "early") }()
	rw := bufio.NewReadWriter(bufio.NewReader(server), bufio.NewWriter(server))
	_, err := rw.Reader.Peek(5)
	require.NoError(t, err)
	c, err := wsconn.New(server, rw, true, false, &owner{closed: make(chan wsconn.Outcome, 1)})
	require.NoError(t, err)
	require.Equal(t, 5, rw.Reader.Buffered())
	go func() { _, _ = io.WriteString(client, "late") }()
	got := make([]byte, 9)
	_, err = io.ReadFull(rw, got)
	require.NoError(t, err)
	require.Equal(t, "earlylate", string(got))
	in, out := c.Traffic()
	require.EqualValues(t, 9, in)
	require.Zero(t, out)
	require.Same(t, server, c.NetConn())
	require.NoError(t, c.Close())
}

// crypto/tls gives its goodbye 5 s: a peer that reads nothing would keep the
// descriptor of a connection that its library has closed.
func TestClose_WaitsOneSecondForTLS(t *testing.T) {
	for _, abort := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			handshake := make(chan error, 1)
			config := &tls.Config{InsecureSkipVerify: true}
			go func() { handshake <- tls.Client(client, config).Handshake() }()
			s := tls.Server(server, &tls.Config{
				Certificates:           []tls.Certificate{certificate()},
				SessionTicketsDisabled: true, // or the client would have more to read
			})
			require.NoError(t, s.Handshake())
			require.NoError(t, <-handshake)
			c, o := open(t, s, true, false)
			begin, want := time.Now(), time.Second
			go func() { _ = c.Close() }()
			if abort {
				synctest.Wait()
				c.Abort()
				want = 0
			}
			<-o.closed
			require.Equal(t, want, time.Since(begin))
		})
	}
}

// A listener may hand out connections that == cannot compare.
func TestClose_ConnectionThatCannotBeCompared(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c, o := open(t, struct {
		net.Conn
		onClose func()
	}{Conn: server}, true, false)
	require.NoError(t, c.Close())
	require.True(t, (<-o.closed).Opened)
}
