package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A neighbour is whatever an application knows its people by.
type neighbour struct {
	sessions middleware.Authenticator
	sockets  middleware.SocketsOptions
	around   func(http.Handler) http.Handler             // the library's own middleware
	front    func(app *httptest.Server) *httptest.Server // a proxy before the application
	routes   map[string]http.HandlerFunc                 // of its own

	signIn  func(w http.ResponseWriter, r *http.Request, user string) error // at /login?user=
	signOut func(w http.ResponseWriter, r *http.Request) error              // at /logout
	// enter is in place of a POST to /login.
	enter func(v *visitor, user string)

	leave   func(v *visitor)  // what a page does after /logout
	started func(base string) // where the application is now
	stop    func()            // what it needed

	cookie string // that is renewed by page loads
	old    bool   // a renewed cookie does not end the one before
	fail   func() // from here on nobody's session can be looked up
}

var neighbours = []struct {
	name  string
	build func(*tickets.Issuer) neighbour
}{
	{"scs", scsNeighbour},
	{"gorilla_sessions", gorillaNeighbour},
	{"jwt", jwtNeighbour},
	{"proxy_headers", proxyNeighbour},
	{"oidc", oidcNeighbour},
}

// serve is an application around n.
func (n neighbour) serve(
	issuer *tickets.Issuer, events *lines,
) (server *httptest.Server, d doors, end func()) {
	d = newDoors(n.sessions, doorOptions{issuer: issuer, audit: events, sockets: n.sockets})
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			panic(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		answer(w, n.signIn(w, r, r.FormValue("user")))
	})
	logout := func(w http.ResponseWriter, r *http.Request) { answer(w, n.signOut(w, r)) }
	mux.Handle("POST /logout", d.gate.Wrap(http.HandlerFunc(logout)))
	for pattern, route := range n.routes {
		mux.Handle(pattern, route)
	}
	mux.Handle("/api/auth/ws-ticket", d.gate.Wrap(d.mint))
	page := func(w http.ResponseWriter, r *http.Request) { greet(w, r, r.PathValue("name")) }
	mux.Handle("GET /hello/{name}", d.gate.Wrap(http.HandlerFunc(page)))
	mux.Handle("GET /ws/{room}", d.guard.Wrap(http.HandlerFunc(hello)))
	app := http.NewCrossOriginProtection().Handler(mux)
	if n.around != nil {
		app = n.around(app)
	}
	var closing []func()
	if n.front != nil {
		behind := httptest.NewServer(app)
		server = n.front(behind)
		closing = append(closing, server.Close, behind.Close)
	} else {
		server = httptest.NewTLSServer(app)
		closing = append(closing, server.Close)
	}
	if n.started != nil {
		n.started(server.URL)
	}
	if n.stop != nil {
		closing = append(closing, n.stop)
	}
	return server, d, func() {
		for _, close := range closing {
			close()
		}
	}
}

// signInAs returns the page that comes after.
func (n neighbour) signInAs(v *visitor, user string) string {
	if n.enter != nil {
		n.enter(v, user)
	} else if a := v.post("/login?user=" + user); a.status != 200 {
		panic(fmt.Sprint("signing in: ", a))
	}
	return v.get("/hello/bob").text
}

// stay prints what a person sees from the sign-in to the sign-out.
func stay(build func(*tickets.Issuer) neighbour) {
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	n := build(issuer)
	server, _, end := n.serve(issuer, &lines{})
	defer end()
	page := newVisitor(server)
	fmt.Println(page.get("/hello/bob").status)
	fmt.Println(n.signInAs(page, "ann"))
	socket, _, err := page.dial("/ws/7?ticket=" + page.ticket())
	if err != nil {
		panic(err)
	}
	defer socket.Close()
	_, message, _ := socket.ReadMessage()
	fmt.Println(string(message))
	page.post("/logout")
	_, _, err = socket.ReadMessage()
	fmt.Println(err)
}

// socket opens one and hears its greeting.
func (v *visitor) socket(t testing.TB) *gorilla.Conn {
	c, _, err := v.dial("/ws/7?ticket=" + v.ticket())
	require.NoError(t, err)
	_, message, err := c.ReadMessage()
	require.NoError(t, err)
	require.Contains(t, string(message), "hello ")
	t.Cleanup(func() { c.Close() })
	return c
}

// TestSessions tells one story of every neighbour: two people sign in, their
// cookies are renewed under a live socket, one of them signs out.
func TestSessions(t *testing.T) {
	for _, neighbour := range neighbours {
		t.Run(neighbour.name, func(t *testing.T) {
			events := &lines{}
			issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
			n := neighbour.build(issuer)
			server, d, end := n.serve(issuer, events)
			defer end()
			ann, bob := newVisitor(server), newVisitor(server)

			refused := ann.get("/hello/bob")
			require.Equal(t, 401, refused.status)
			require.Contains(t, refused.text, `"no_session"`)
			require.Empty(t, ann.ticket())
			require.Empty(t, events.of("session_verify_failure"), "everyday life")

			require.Equal(t, "ann greets bob", n.signInAs(ann, "ann"))
			require.Equal(t, "bob greets bob", n.signInAs(bob, "bob"))
			annSocket := ann.socket(t)
			bob.socket(t)

			if n.cookie != "" {
				n.renew(t, ann)
				ann.socket(t)
				sessions := make(map[string]bool)
				for info := range d.guard.Sockets().All() {
					if info.UserID == "ann" {
						sessions[info.Session] = true
					}
				}
				require.Len(t, sessions, 1, "a session outlives its cookie")
			}

			held := ann.ticket()
			thief := ann.another()
			thief.bearer = ann.bearer
			if n.cookie != "" {
				thief.setCookie(n.cookie, ann.cookie(n.cookie))
				require.Equal(t, 200, thief.get("/hello/bob").status)
			}
			require.Less(t, ann.post("/logout").status, 400)
			requireClosed(t, annSocket, 4401, "session_revoked")
			require.Equal(t, "refused: 401", ann.hear("/ws/7?ticket="+held))
			if n.leave != nil {
				n.leave(ann)
			}
			require.Empty(t, ann.ticket())
			if n.cookie != "" || thief.bearer != "" {
				lines := len(events.of("session_verify_failure"))
				require.Contains(t, thief.get("/hello/bob").text, "session_expired")
				require.Len(t, events.of("session_verify_failure"), lines+1)
				require.Empty(t, thief.ticket())
			}
			require.Len(t, d.guard.Sockets().Users(), 1, "bob stays")

			require.Equal(t, "ann greets bob", n.signInAs(ann, "ann"))
			ann.socket(t)

			if n.fail != nil {
				n.fail()
				down := bob.get("/hello/bob", "Sec-Fetch-Mode", "navigate")
				require.Equal(t, 503, down.status)
				require.Empty(t, down.header["Set-Cookie"], "nobody is signed out")
			}
		})
	}
}

// renew loads a page, and sees that the answer brings another cookie, which is
// good from there on.
func (n neighbour) renew(t testing.TB, v *visitor) {
	before := v.cookie(n.cookie)
	require.NotEmpty(t, before)
	require.Equal(t, 200, v.get("/hello/bob", "Sec-Fetch-Mode", "navigate").status)
	require.NotEqual(t, before, v.cookie(n.cookie))
	require.Equal(t, 200, v.get("/hello/bob").status)
	if !n.old {
		late := v.another()
		late.setCookie(n.cookie, before)
		require.Equal(t, 401, late.get("/hello/bob").status)
	}
}

// What no session stands behind is refused, and audited: it was presented.
func TestSessionsForged(t *testing.T) {
	for _, neighbour := range neighbours {
		t.Run(neighbour.name, func(t *testing.T) {
			events := &lines{}
			issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
			n := neighbour.build(issuer)
			if n.cookie == "" {
				t.Skip("it has no cookie")
			}
			server, _, end := n.serve(issuer, events)
			defer end()
			for i, value := range []string{"guessed", "MTIz", url.QueryEscape(`{"user":"ann"}`)} {
				v := newVisitor(server)
				v.setCookie(n.cookie, value)
				require.Contains(t, v.get("/hello/bob").text, "session_expired")
				require.Empty(t, v.ticket())
				require.Len(t, events.of("session_verify_failure"), 2*i+2)
				require.NotContains(t, fmt.Sprint(events.of("session_verify_failure")), value)
			}
		})
	}
}
