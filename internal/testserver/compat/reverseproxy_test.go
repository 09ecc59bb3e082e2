package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	coder "github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// proxySocket passes a socket that was let in on to a server of its own, which
// takes the person from a header and must be reachable through here alone.
func proxySocket(backend *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.Out.Host = r.In.Host // the backend's library compares the Origin with it
		r.Out.Header.Del("Cookie")
		session, _ := middleware.SessionFrom(r.In.Context())
		r.Out.Header.Set("X-User", session.UserID) // in place of what the client may have sent
	}}
}

func Example_reverseProxy() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := coder.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		_ = conn.Write(r.Context(), coder.MessageText,
			[]byte(r.RequestURI+" for "+r.Header.Get("X-User")))
		_, _, _ = conn.Read(r.Context())
	}))
	defer backend.Close()

	d := newDoors(everybody, doorOptions{})
	front := http.NewServeMux()
	front.Handle("/api/auth/ws-ticket", d.gate.Wrap(d.mint))
	front.Handle("/ws/", d.guard.Wrap(proxySocket(must(url.Parse(backend.URL)))))
	server := httptest.NewServer(front)
	defer server.Close()

	page := newVisitor(server)
	page.setCookie("session", "ann")
	fmt.Println(page.hear("/ws/7?lang=en&ticket=" + page.ticket()))
	// Output: /ws/7?lang=en for ann
}

// proxied is a library in the sense of the others: an echo behind a proxy.
func proxied(t testing.TB, echo http.Handler) http.Handler {
	backend := httptest.NewServer(echo)
	t.Cleanup(backend.Close)
	return proxySocket(must(url.Parse(backend.URL)))
}

// A person who has gone from the page has gone from the backend as well.
func TestReverseProxyEndsTheBackend(t *testing.T) {
	ended := make(chan struct{})
	a := newApp(t, proxied(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := coder.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		_, _, _ = conn.Read(r.Context())
		close(ended)
	})), appOptions{})
	session := a.session()
	c, _, err := a.dial(t, session)
	require.NoError(t, err)
	eventually(t, "the hijack", func() bool { return a.sockets.Len() == 1 })
	a.revoke(t, tickets.Revocation{SessionID: session})
	requireClosed(t, c, 4401, "session_revoked")
	<-ended
}

// A backend that is down is a 502 of the proxy's; the ticket is spent.
func TestReverseProxyWithoutBackend(t *testing.T) {
	backend := httptest.NewServer(http.NotFoundHandler())
	backend.Close()
	a := newApp(t, proxySocket(must(url.Parse(backend.URL))), appOptions{})
	_, response, err := a.dial(t, a.session())
	require.Error(t, err)
	require.Equal(t, http.StatusBadGateway, response.StatusCode)
	eventually(t, "the line", func() bool { return len(a.lines.of("ws_upgrade_refused")) == 1 })
	require.Equal(t, "upgrade_failed", a.lines.of("ws_upgrade_refused")[0]["reason"])
	require.Zero(t, a.sockets.Len())
}
