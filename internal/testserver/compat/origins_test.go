package compat

import (
	"net/http"
	"net/http/httptest"
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

// public is where browsers find an application whose own Host is another one.
const public = "https://app.example"

// allowPublic tells every library that asks for the Origin itself what the guard
// has been told: GuardOptions{Origins: []string{public}}.
var allowPublic = map[string]http.HandlerFunc{
	"coder": func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, &coder.AcceptOptions{OriginPatterns: []string{public}})
		if err == nil {
			c.CloseNow()
		}
	},
	"gorilla": func(w http.ResponseWriter, r *http.Request) {
		// The guard has checked it.
		u := gorilla.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		if c, err := u.Upgrade(w, r, nil); err == nil {
			c.Close()
		}
	},
	"gobwas": func(w http.ResponseWriter, r *http.Request) {
		if c, _, _, err := ws.UpgradeHTTP(r, w); err == nil {
			c.Close()
		}
	},
	"gws": func(w http.ResponseWriter, r *http.Request) {
		if c, err := gws.NewUpgrader(gwsEvents{}, nil).Upgrade(w, r); err == nil {
			_ = c.NetConn().Close()
		}
	},
	"x_net": xnet.Handler(func(*xnet.Conn) {}).ServeHTTP,
}

// Behind a proxy that ends TLS, the page's Origin is not the Host that arrives.
// What each library makes of that when nobody has told it, the README says too.
func TestPublicOrigin(t *testing.T) {
	untold := map[string]struct {
		handler http.Handler
		status  int
	}{
		"coder":   {libraries[0].echo, http.StatusForbidden},
		"gorilla": {libraries[1].echo, http.StatusForbidden},
		"gobwas":  {libraries[2].echo, http.StatusSwitchingProtocols},
		"gws":     {libraries[3].echo, http.StatusSwitchingProtocols},
		"x_net":   {libraries[4].echo, http.StatusSwitchingProtocols},
	}
	for name, handler := range allowPublic {
		t.Run(name, func(t *testing.T) {
			d := newDoors(everybody,
				doorOptions{guard: middleware.GuardOptions{Origins: []string{public}}})
			mux := http.NewServeMux()
			mux.Handle("/told", d.guard.Wrap(handler))
			mux.Handle("/untold", d.guard.Wrap(untold[name].handler))
			server := httptest.NewServer(mux)
			defer server.Close()
			dial := func(path, origin string) int {
				v := newVisitor(server)
				v.origin = origin
				ticket := must(d.issuer.Mint(t.Context(),
					tickets.Grant{SessionID: "s1", UserID: "ann"}))
				c, response, err := v.dial(path + "?ticket=" + string(ticket))
				if err == nil {
					c.Close()
				}
				return response.StatusCode
			}
			require.Equal(t, http.StatusSwitchingProtocols, dial("/told", public))
			require.Equal(t, untold[name].status, dial("/untold", public))
			require.Equal(t, http.StatusForbidden, dial("/told", "https://elsewhere.example"))
			require.Equal(t, http.StatusForbidden, dial("/told", server.URL),
				"the list is the whole list")
		})
	}
}
