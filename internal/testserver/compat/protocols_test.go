package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/stretchr/testify/require"
	xnet "golang.org/x/net/websocket"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// speakChat are servers whose subprotocol is called chat, in the way of each
// library. None of them ever sees the ticket that came in the same list.
var speakChat = []library{
	{"coder", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: []string{"chat"}})
		if err == nil {
			defer c.CloseNow()
			_, _, _ = c.Read(r.Context())
		}
	}), nil},
	{"gorilla", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chat := &gorilla.Upgrader{Subprotocols: []string{"chat"}}
		if c, err := chat.Upgrade(w, r, nil); err == nil {
			defer c.Close()
			_, _, _ = c.ReadMessage()
		}
	}), nil},
	{"gobwas", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chat := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == "chat" }}
		if c, rw, _, err := chat.Upgrade(r, w); err == nil {
			go func() {
				defer c.Close()
				_ = gobwasLoop(c, rw)
			}()
		}
	}), nil},
	{"gws", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chat := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{SubProtocols: []string{"chat"}})
		if c, err := chat.Upgrade(w, r); err == nil {
			go c.ReadLoop()
		}
	}), nil},
	{"x_net", xnet.Server{
		Handler: xnetLoop,
		Handshake: func(c *xnet.Config, _ *http.Request) error {
			if !slices.Contains(c.Protocol, "chat") {
				return xnet.ErrBadWebSocketProtocol
			}
			c.Protocol = []string{"chat"}
			return nil
		},
	}, nil},
}

// new WebSocket(url, ["chat", "ticket." + ticket]): for those who want it in no
// URL. Admitted, refused both ways, ended with the session.
func TestTicketAmongSubprotocols(t *testing.T) {
	for _, through := range []string{"direct", "ReverseProxy"} {
		for _, lib := range speakChat {
			t.Run(through+"/"+lib.name, func(t *testing.T) {
				var offered []string
				look := func(w http.ResponseWriter, r *http.Request) {
					offered = r.Header.Values("Sec-WebSocket-Protocol")
					lib.echo.ServeHTTP(w, r)
				}
				var handler http.Handler = http.HandlerFunc(look)
				if through == "ReverseProxy" {
					handler = proxied(t, handler)
				}
				d := newDoors(everybody, doorOptions{})
				closing := must(middleware.NewGuard(d.issuer,
					&middleware.GuardOptions{OnReject: middleware.RejectByClosing}))
				mux := http.NewServeMux()
				mux.Handle("/ws", d.guard.Wrap(handler))
				mux.Handle("/closing", closing.Wrap(handler))
				server := httptest.NewServer(mux)
				defer server.Close()
				v := newVisitor(server)
				mint := func() string {
					grant := tickets.Grant{SessionID: "s1", UserID: "ann"}
					return "ticket." + string(must(d.issuer.Mint(t.Context(), grant)))
				}

				for i, protocols := range [][]string{
					{"chat", mint()}, {mint(), "chat"}, {"other", mint(), "chat"}} {
					c, _, err := v.dial("/ws", protocols...)
					require.NoError(t, err)
					defer c.Close()
					require.Equal(t, "chat", c.Subprotocol())
					require.NotContains(t, fmt.Sprint(offered), "ticket", "%d", i)
					require.Equal(t, "refused: 401", v.hear("/ws", protocols...), "a replay")
				}

				// Refused by closing, a browser must find a protocol that it offered.
				c, response, err := v.dial("/closing", "chat", mint()+"x")
				require.NoError(t, err)
				require.Equal(t, "chat", response.Header.Get("Sec-WebSocket-Protocol"))
				requireClosed(t, c, 4401, "ticket_rejected")

				// Without a protocol beside it the browser would drop the socket.
				alone := mint()
				require.Equal(t, "refused: 400", v.hear("/ws", alone))
				require.Equal(t, "refused: 400", v.hear("/closing", alone))
				c, _, err = v.dial("/closing", "chat", alone)
				require.NoError(t, err, "it was not spent")

				require.NoError(t, d.issuer.Revoke(t.Context(),
					tickets.Revocation{SessionID: "s1"}))
				requireClosed(t, c, 4401, "session_revoked")
			})
		}
	}
}
