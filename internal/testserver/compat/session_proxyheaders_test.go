package compat

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// proxySessions believes the X-Forwarded-User of oauth2-proxy, of the proxies
// named and of nobody else. The header tells who it is and not since when: a
// cookie of the application's own, which the gate sets, tells one sign-in from
// the next, so that a sign-out ends this one and not the person's next one too.
func proxySessions(proxies ...netip.Prefix) middleware.Authenticator {
	trusted := func(r *http.Request) bool {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		return err == nil && slices.ContainsFunc(proxies,
			func(p netip.Prefix) bool { return p.Contains(peer.Addr().Unmap()) })
	}
	return middleware.AuthenticatorFunc(func(
		w http.ResponseWriter, r *http.Request,
	) (*middleware.Session, error) {
		users := r.Header.Values("X-Forwarded-User")
		if len(users) == 0 {
			return nil, middleware.ErrNoSession
		}
		if !trusted(r) || len(users) > 1 || users[0] == "" {
			return nil, middleware.ErrSessionExpired // it was presented: the audit has it
		}
		cookie, err := r.Cookie("__Host-sid")
		if err != nil {
			cookie = sidCookie(rand.Text())
			http.SetCookie(w, cookie)
		}
		return &middleware.Session{
			ID: users[0] + " " + cookie.Value, Provider: "oauth2-proxy", UserID: users[0]}, nil
	})
}

func sidCookie(value string) *http.Cookie {
	return &http.Cookie{Name: "__Host-sid", Value: value, Path: "/",
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// proxySignOut answers the application's POST /logout: here first, then there.
func proxySignOut(issuer *tickets.Issuer, w http.ResponseWriter, r *http.Request) error {
	session, _ := middleware.SessionFrom(r.Context())
	err := issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"})
	gone := sidCookie("")
	gone.MaxAge = -1
	http.SetCookie(w, gone)
	http.Redirect(w, r, "/oauth2/sign_out?rd=%2F", http.StatusSeeOther)
	return err
}

func Example_proxyHeaders() {
	stay(proxyNeighbour)
	// Output:
	// 401
	// ann greets bob
	// hello ann
	// websocket: close 4401: session_revoked
}

func proxyNeighbour(issuer *tickets.Issuer) neighbour {
	return neighbour{
		sessions: proxySessions(netip.MustParsePrefix("127.0.0.1/32")),
		front:    oauth2Proxy,
		enter:    func(v *visitor, user string) { v.setCookie("_oauth2_proxy", user) },
		signOut: func(w http.ResponseWriter, r *http.Request) error {
			return proxySignOut(issuer, w, r)
		},
		leave: func(v *visitor) { v.get("/oauth2/sign_out?rd=%2F") },
	}
}

// oauth2Proxy does what matters here of what oauth2-proxy does with
// --pass-user-headers: it answers for whom it does not know, and says in its
// headers, in place of what the client may have sent, whom it does.
func oauth2Proxy(app *httptest.Server) *httptest.Server {
	upstream := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(must(url.Parse(app.URL)))
		r.Out.Host = r.In.Host
		r.SetXForwarded()
		r.Out.Header.Del("X-Forwarded-User")
		if c, err := r.In.Cookie("_oauth2_proxy"); err == nil {
			r.Out.Header.Set("X-Forwarded-User", c.Value)
			r.Out.Header.Set("X-Forwarded-Email", c.Value+"@example.com")
		}
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("/oauth2/sign_out", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "_oauth2_proxy", Path: "/", MaxAge: -1})
		http.Redirect(w, r, r.FormValue("rd"), http.StatusFound)
	})
	mux.Handle("/", upstream)
	return httptest.NewTLSServer(mux)
}

// A client that reaches the application past the proxy is nobody, whatever the headers
// say; and what the client sends through the proxy is not what arrives.
func TestProxyHeadersForged(t *testing.T) {
	events := &lines{}
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	d := newDoors(proxySessions(netip.MustParsePrefix("127.0.0.1/32")),
		doorOptions{issuer: issuer, audit: events})
	page := func(w http.ResponseWriter, r *http.Request) { greet(w, r, "bob") }
	app := httptest.NewServer(d.gate.Wrap(http.HandlerFunc(page)))
	defer app.Close()
	front := oauth2Proxy(app)
	defer front.Close()

	// Another address of this machine is not the proxy's.
	past := newVisitor(app)
	elsewhere := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	past.http.Transport = &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return elsewhere.DialContext(ctx, network, address)
		}}
	for i, header := range [][]string{
		{"X-Forwarded-User", "ann"},
		{"X-Forwarded-User", "ann", "X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1"},
		{"X-Forwarded-User", "ann", "Forwarded", "for=127.0.0.1", "Cookie", "__Host-sid=x"},
	} {
		a := past.get("/", header...)
		require.Equal(t, 401, a.status)
		require.Contains(t, a.text, "session_expired")
		require.Empty(t, a.header["Set-Cookie"])
		require.Len(t, events.of("session_verify_failure"), i+1)
		require.Equal(t, "127.0.0.2", events.of("session_verify_failure")[i]["ip"])
	}

	through := newVisitor(front)
	require.Equal(t, 401, through.get("/", "X-Forwarded-User", "ann").status)
	through.setCookie("_oauth2_proxy", "ann")
	require.Equal(t, "ann greets bob", through.get("/", "X-Forwarded-User", "root").text)

	// Of two, nobody can say which one the proxy meant.
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header["X-Forwarded-User"] = []string{"ann", "root"}
	_, err := proxySessions(netip.MustParsePrefix("127.0.0.1/32")).
		Authenticate(httptest.NewRecorder(), r)
	require.ErrorIs(t, err, middleware.ErrSessionExpired)
}
