package middleware_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// deadResponse is a ResponseWriter whose connection goes nowhere.
type deadResponse struct {
	nowhere
	conn deadConn
	rw   *bufio.ReadWriter
}

func newDeadResponse() *deadResponse {
	return &deadResponse{nowhere: nowhere{make(http.Header)}, rw: bufio.NewReadWriter(bufio.NewReader(nil), bufio.NewWriter(nil))}
}

func (w *deadResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) { return &w.conn, w.rw, nil }

type deadConn struct{ addr net.TCPAddr }

func (*deadConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (*deadConn) Write(p []byte) (int, error)      { return len(p), nil }
func (*deadConn) Close() error                     { return nil }
func (c *deadConn) LocalAddr() net.Addr            { return &c.addr }
func (c *deadConn) RemoteAddr() net.Addr           { return &c.addr }
func (*deadConn) SetDeadline(time.Time) error      { return nil }
func (*deadConn) SetReadDeadline(time.Time) error  { return nil }
func (*deadConn) SetWriteDeadline(time.Time) error { return nil }

var switching = []byte("HTTP/1.1 101 Switching Protocols\r\n\r\n")

// opensAndCloses does of a WebSocket library only what it does to the connection.
var opensAndCloses = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = conn.Write(switching)
	_ = conn.Close()
})

// upgrades are n requests with a ticket each.
func upgrades(tb testing.TB, issuer *tickets.Issuer, n int) []*http.Request {
	rs := make([]*http.Request, n)
	for i := range rs {
		t := must(issuer.Mint(tb.Context(), tickets.Grant{SessionID: fmt.Sprint("session-", i), Provider: "oidc", UserID: "ann"}))
		rs[i] = readRequest(upgrade("GET", "/ws?ticket="+string(t), "Origin: http://app.example"))
	}
	return rs
}

// BenchmarkAdmit is what a guard adds to an upgrade that comes in, from the
// request to the closed connection.
func BenchmarkAdmit(b *testing.B) {
	guard, issuer := benchGuard(b, middleware.GuardOptions{})
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"bare", opensAndCloses}, {"guarded", guard.Wrap(opensAndCloses)}} {
		b.Run(c.name, func(b *testing.B) {
			const batch = 500
			b.ReportAllocs()
			w := newDeadResponse()
			for i := 0; i < b.N; i += batch {
				b.StopTimer()
				rs := upgrades(b, issuer, min(batch, b.N-i))
				b.StartTimer()
				for _, r := range rs {
					c.h.ServeHTTP(w, r)
				}
			}
		})
	}
}
