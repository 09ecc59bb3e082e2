package compat

//lint:file-ignore SA1019 applications still have golang.org/x/net/http2/h2c

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A guard before a handler that speaks h2c: neither an upgrade with a ticket nor
// the preface of HTTP/2 becomes a tunnel past it (HOSTILE W31).
func TestNoTunnelToH2C(t *testing.T) {
	d := newDoors(everybody, doorOptions{guard: middleware.GuardOptions{PassOthers: true}})
	speaker := h2c.NewHandler(http.HandlerFunc(hello), &http2.Server{})
	server := httptest.NewServer(d.guard.Wrap(speaker))
	defer server.Close()
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	const settings = "HTTP2-Settings: AAMAAABkAAQAAP__"
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"h2c, websocket": {request("GET", "/ws?ticket={T}", "Connection: Upgrade, HTTP2-Settings",
			"Upgrade: h2c, websocket", "Sec-WebSocket-Version: 13", key, settings), 400},
		"h2c": {request("GET", "/ws?ticket={T}", "Connection: Upgrade, HTTP2-Settings",
			"Upgrade: h2c", settings), 426},
		"the preface": {"PRI * HTTP/2.0\r\n\r\n", 426},
	} {
		ticket := string(must(d.issuer.Mint(t.Context(),
			tickets.Grant{SessionID: "1", UserID: "ann"})))
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err, name)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)), name)
		_, err = io.WriteString(conn, strings.ReplaceAll(c.request, "{T}", ticket))
		require.NoError(t, err, name)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, name)
		assert.Equal(t, c.status, res.StatusCode, name)
		require.NoError(t, res.Body.Close(), name)
		require.NoError(t, conn.Close(), name)
		_, err = d.issuer.Consume(t.Context(), tickets.Ticket(ticket))
		assert.NoError(t, err, "%s: the ticket was consumed", name)
	}
}
