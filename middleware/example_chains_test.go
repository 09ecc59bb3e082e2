package middleware_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"github.com/justinas/alice"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// The same gate and guard in chains of justinas/alice; chi's r.Use takes them
// as they stand too.
func Example_alice() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	var people sync.Map // by their cookie
	sessions := middleware.CookieSessions("session", func(_ context.Context, cookie string) (*middleware.Session, error) {
		found, _ := people.Load(cookie)
		session, _ := found.(*middleware.Session)
		return session, nil
	})
	gate, err := middleware.NewGate(sessions, &middleware.GateOptions{Audit: quiet})
	check(err)
	mint, err := middleware.NewMint(issuer, &middleware.MintOptions{Audit: quiet})
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)

	form := alice.New(http.NewCrossOriginProtection().Handler)
	page := alice.New(gate.Wrap)
	socket := alice.New(middleware.ConcealTicket, accessLog, guard.Wrap)
	mux := http.NewServeMux()
	mux.Handle("POST /login", form.ThenFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie := rand.Text()
		people.Store(cookie, &middleware.Session{ID: cookie, UserID: r.FormValue("user")})
		http.SetCookie(w, &http.Cookie{Name: "session", Value: cookie, Secure: true, HttpOnly: true})
	}))
	mux.Handle("/api/auth/ws-ticket", page.Then(mint))
	mux.Handle("/ws", socket.ThenFunc(hello))
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	client := server.Client()
	client.Jar, err = cookiejar.New(nil)
	check(err)

	response, err := client.PostForm(server.URL+"/login", url.Values{"user": {"ada"}})
	check(err)
	response.Body.Close()
	response, err = client.Post(server.URL+"/api/auth/ws-ticket", "", nil)
	check(err)
	var minted struct{ Ticket string }
	check(json.Unmarshal([]byte(text(response)), &minted))

	withoutCookie := &http.Client{Transport: client.Transport}
	fmt.Println(firstMessage(withoutCookie, server.URL+"/ws?ticket="+minted.Ticket))
	fmt.Println(firstMessage(withoutCookie, server.URL+"/ws?ticket="+minted.Ticket))
	// Output:
	// access log: GET /ws
	// hello ada
	// access log: GET /ws
	// refused: 401
}

// ConcealTicket stands before whatever writes URLs down. The guard behind it
// finds the ticket all the same.
func Example_accessLog() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	guarded := guard.Wrap(http.HandlerFunc(hello))
	server := httptest.NewServer(middleware.ConcealTicket(accessLog(guarded)))
	defer server.Close()

	ticket, err := issuer.Mint(context.Background(), tickets.Grant{SessionID: "s1", UserID: "ada"})
	check(err)
	fmt.Println(firstMessage(http.DefaultClient, server.URL+"/ws?room=7&ticket="+string(ticket)))
	// Output:
	// access log: GET /ws?room=7
	// hello ada
}

// The wrong order: the access log is outside ConcealTicket, and has the ticket. The upgrade
// did not reach the guard, so the ticket is still valid. A reader of the log opens a socket
// with it, as the person that it was minted for.
func Example_wrongOrder() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	var lines bytes.Buffer
	logged := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(&lines, r.Method, r.RequestURI)
			next.ServeHTTP(w, r)
		})
	}
	down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	})
	wrong := logged(middleware.ConcealTicket(down)) // the upgrade never reaches the guard
	right := middleware.ConcealTicket(logged(down))
	ticket, err := issuer.Mint(context.Background(), tickets.Grant{SessionID: "s1", UserID: "ada"})
	check(err)

	request := httptest.NewRequest("GET", "/ws?ticket="+string(ticket), nil)
	right.ServeHTTP(httptest.NewRecorder(), request)
	logHasTicket := func() bool { return strings.Contains(lines.String(), string(ticket)) }
	fmt.Println("right order, a ticket in the log:", logHasTicket())
	wrong.ServeHTTP(httptest.NewRecorder(), request)
	fmt.Println("wrong order, a ticket in the log:", logHasTicket())

	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(hello)))
	defer server.Close()
	_, stolen, _ := strings.Cut(strings.TrimSpace(lines.String()), "ticket=")
	heard := firstMessage(http.DefaultClient, server.URL+"/ws?ticket="+stolen)
	fmt.Println("what the log's reader hears:", heard)
	// Output:
	// right order, a ticket in the log: false
	// wrong order, a ticket in the log: true
	// what the log's reader hears: hello ada
}

// quiet keeps the examples' audit out of their output.
var quiet = audit.New(slog.DiscardHandler)

// hello is a socket that greets the person that the guard admits.
func hello(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	session, _ := middleware.SessionFrom(r.Context())
	_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
	_ = conn.Close(websocket.StatusNormalClosure, "")
}

func accessLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("access log:", r.Method, r.RequestURI)
		next.ServeHTTP(w, r)
	})
}

// firstMessage opens a socket and returns the first message that comes, or how it was
// refused.
func firstMessage(client *http.Client, url string) string {
	options := &websocket.DialOptions{HTTPClient: client}
	conn, response, err := websocket.Dial(context.Background(), url, options)
	if err != nil && response != nil {
		return fmt.Sprint("refused: ", response.StatusCode)
	}
	check(err)
	defer conn.CloseNow()
	_, message, err := conn.Read(context.Background())
	check(err)
	return string(message)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func text(r *http.Response) string {
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	check(err)
	return string(b)
}
