package ticketgate_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/middleware/client"
	"github.com/ticketgate/ticketgate/tickets"
)

// newApp is a whole application: a dashboard, its socket, sign-in and sign-out.
func newApp(auditFile string) (http.Handler, error) {
	var store sessionStore // stands for your own
	sessions := middleware.CookieSessions("session", store.find)
	socket := http.HandlerFunc(greet)
	dashboard := http.HandlerFunc(serveDashboard)

	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	events, err2 := audit.OpenFile(auditFile, nil)
	gate, err3 := middleware.NewGate(sessions, &middleware.GateOptions{
		LoginURL: "/login",
		Audit:    events,
	})
	mint, err4 := middleware.NewMint(issuer, &middleware.MintOptions{Audit: events})
	guard, err5 := middleware.NewGuard(issuer, &middleware.GuardOptions{
		Audit:    events,
		OnReject: middleware.RejectByClosing, // a page can read a close code, and no HTTP status
	})
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/{$}", gate.Wrap(dashboard))           // the gate: who is there?
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint)) // a ticket for that session
	mux.Handle("/ws", guard.Wrap(socket))              // the guard: has this upgrade a ticket?
	mux.Handle("/ticketgate.js", client.Handler())     // what the page imports

	signIn := func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{
			Name: "session", Value: store.start(r.FormValue("user")), Path: "/",
			HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
		})
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	}
	signOut := func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		store.delete(session.ID) // first in your own session store, then the tickets and sockets:
		revocation := tickets.Revocation{SessionID: session.ID, Reason: "logout"}
		err := issuer.Revoke(r.Context(), revocation) // on every server
		if err != nil {
			log.Print(err) // it holds here; the issuer publishes it to the other servers later
		}
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	}
	sameOrigin := http.NewCrossOriginProtection() // no form of another site signs in or out
	mux.Handle("POST /login", sameOrigin.Handler(http.HandlerFunc(signIn)))
	mux.Handle("POST /logout", sameOrigin.Handler(gate.Wrap(http.HandlerFunc(signOut))))
	mux.HandleFunc("GET /login", serveLogin)
	return mux, nil
}

// greet is the socket's handler. It uses coder/websocket; any other library will do.
func greet(w http.ResponseWriter, r *http.Request) {
	session, _ := middleware.SessionFrom(r.Context())
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
	_, _, _ = conn.Read(r.Context())
}

func serveDashboard(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `<!doctype html>
<form method="post" action="/logout"><button>Sign out</button></form>
<pre id="log"></pre>
<script type="module">
import { connect } from '/ticketgate.js'
const show = (...words) => log.append(words.join(' ') + '\n')
connect('/ws', { // it comes back after a restart, and goes to sign in after a sign-out
  onmessage: ({ data }) => show(data),
  onclose: ({ code, reason }) => show('closed:', code, reason),
})
</script>`)
}

func serveLogin(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `<!doctype html>
<form method="post"><input name="user"> <button>Sign in</button></form>`)
}

// sessionStore keeps sessions by their cookie, until the process ends.
type sessionStore struct {
	sessions sync.Map // → *middleware.Session
}

func (s *sessionStore) start(user string) (cookie string) {
	cookie = rand.Text()
	session := &middleware.Session{ID: cookie, UserID: user, StartedAt: time.Now()}
	s.sessions.Store(cookie, session)
	return cookie
}

// find returns nil for a cookie that nobody knows.
func (s *sessionStore) find(_ context.Context, cookie string) (*middleware.Session, error) {
	found, _ := s.sessions.Load(cookie)
	session, _ := found.(*middleware.Session)
	return session, nil
}

func (s *sessionStore) delete(cookie string) { s.sessions.Delete(cookie) }

func Example() {
	dir, err := os.MkdirTemp("", "ticketgate")
	check(err)
	defer os.RemoveAll(dir)
	app, err := newApp(filepath.Join(dir, "auth.log"))
	check(err)
	server := httptest.NewTLSServer(app)
	defer server.Close()
	browser := server.Client()
	browser.Jar, err = cookiejar.New(nil)
	check(err)
	ctx := context.Background()

	response, err := browser.PostForm(server.URL+"/login", url.Values{"user": {"ada"}})
	check(err)
	response.Body.Close()
	fmt.Println("signed in:", response.StatusCode, response.Request.URL.Path,
		response.Header.Get("Content-Type"))

	response, err = browser.Post(server.URL+"/api/auth/ws-ticket", "", nil)
	check(err)
	var minted struct {
		Ticket string `json:"ticket"`
		TTL    int    `json:"ttl_seconds"`
	}
	check(json.NewDecoder(response.Body).Decode(&minted))
	response.Body.Close()
	fmt.Printf("a ticket: %d characters, good for %d seconds\n", len(minted.Ticket), minted.TTL)

	open := func() {
		// The cookie stays behind: the ticket is all that an upgrade needs.
		conn, _, err := websocket.Dial(ctx, server.URL+"/ws?ticket="+minted.Ticket,
			&websocket.DialOptions{HTTPClient: &http.Client{Transport: browser.Transport}})
		check(err)
		defer conn.CloseNow()
		if _, message, err := conn.Read(ctx); err != nil {
			fmt.Println("the socket was closed:", websocket.CloseStatus(err), closeReason(err))
		} else {
			fmt.Println("the socket says:", string(message))
			conn.Close(websocket.StatusNormalClosure, "")
		}
	}
	open()
	open()

	// Output:
	// signed in: 200 / text/html; charset=utf-8
	// a ticket: 43 characters, good for 30 seconds
	// the socket says: hello ada
	// the socket was closed: StatusCode(4401) ticket_rejected
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func closeReason(err error) string {
	var closed websocket.CloseError
	errors.As(err, &closed)
	return closed.Reason
}
