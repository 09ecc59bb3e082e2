package middleware_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
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

// signedIn stands for a gate: everybody is ann.
var signedIn = signedInAs(&middleware.Session{ID: "s1", Provider: "oidc", UserID: "ann"})

// annAtS1 is what a ticket of ann's session s1 says.
var annAtS1 = tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "ann"}

// A page that is signed in asks for a ticket, which is then good for one path
// alone.
func ExampleMint() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	mint, err := middleware.NewMint(issuer, &middleware.MintOptions{
		Audit: quiet,
		Authorize: func(ctx context.Context, s *middleware.Session, endpoint string) error {
			if endpoint == "/ws/admin" && s.UserID != "root" {
				return errors.New("not an administrator")
			}
			return nil
		},
	})
	check(err)
	srv := httptest.NewServer(signedIn(mint)) // in real life: gate.Wrap(mint)
	defer srv.Close()

	for _, endpoint := range []string{"/ws", "/ws/admin"} {
		body := strings.NewReader(`{"endpoint":"` + endpoint + `"}`)
		res, err := http.Post(srv.URL, "application/json", body)
		check(err)
		var answer struct {
			Ticket string `json:"ticket"`
			TTL    int    `json:"ttl_seconds"`
			Error  string `json:"error"`
		}
		check(json.NewDecoder(res.Body).Decode(&answer))
		res.Body.Close()
		fmt.Printf("%d %d %d %q\n", res.StatusCode, len(answer.Ticket), answer.TTL, answer.Error)
	}
	// Output:
	// 200 43 30 ""
	// 403 0 0 "forbidden"
}

// A socket opens with its ticket, once.
func ExampleGuard() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	srv := httptest.NewServer(guard.Wrap(http.HandlerFunc(hello)))
	defer srv.Close()

	ctx := context.Background()
	ticket, err := issuer.Mint(ctx, annAtS1)
	check(err)
	for range 2 {
		c, res, err := websocket.Dial(ctx, srv.URL+"/ws?ticket="+string(ticket), nil)
		if err != nil {
			fmt.Println(res.Status)
			continue
		}
		_, message, err := c.Read(ctx)
		fmt.Println(string(message), err)
		c.CloseNow()
	}
	// Output:
	// hello ann <nil>
	// 401 Unauthorized
}

// EventSource cannot set headers either: it comes in with a ticket too.
func ExampleGuard_admitRequests() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{
		AdmitRequests: true,
		Audit:         quiet,
	})
	check(err)
	events := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := middleware.SessionFrom(r.Context())
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: hello %s\n\n", s.UserID)
	})
	srv := httptest.NewServer(guard.Wrap(events))
	defer srv.Close()

	ticket, err := issuer.Mint(context.Background(), annAtS1)
	check(err)
	res, err := http.Get(srv.URL + "/events?ticket=" + string(ticket))
	check(err)
	defer res.Body.Close()
	line, _ := bufio.NewReader(res.Body).ReadString('\n')
	fmt.Print(res.Status, "\n", line)
	// Output:
	// 200 OK
	// data: hello ann
}

// An application with its own framework asks for the decision.
func ExampleGuard_Admit() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, rej := guard.Admit(r)
		if rej != nil {
			fmt.Println("refused:", rej.Reason)
			rej.ServeHTTP(w, r)
			return
		}
		defer a.Release()
		fmt.Printf("%s at %s\n", a.Session.UserID, a.Request.URL) // no ticket is left in it
		hello(a.ResponseWriter(w), a.Request)
	}))
	defer srv.Close()

	ctx := context.Background()
	ticket, err := issuer.Mint(ctx, annAtS1)
	check(err)
	for _, protocols := range [][]string{{"chat", "ticket." + string(ticket)}, {"chat"}} {
		opts := &websocket.DialOptions{Subprotocols: protocols}
		c, _, err := websocket.Dial(ctx, srv.URL+"/ws?room=7", opts)
		if err == nil {
			_, message, _ := c.Read(ctx)
			fmt.Println(string(message))
			c.CloseNow()
		}
	}
	// Output:
	// ann at /ws?room=7
	// hello ann
	// refused: no_ticket
}

// A page sees nothing of a refusal in HTTP but close code 1006. This tells it
// why.
func ExampleRejectByClosing() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{
		OnReject: middleware.RejectByClosing,
		Audit:    quiet,
	})
	check(err)
	srv := httptest.NewServer(guard.Wrap(http.HandlerFunc(hello)))
	defer srv.Close()

	ctx := context.Background()
	c, _, err := websocket.Dial(ctx, srv.URL+"/ws?ticket=of-yesterday", nil)
	check(err)
	defer c.CloseNow()
	_, _, err = c.Read(ctx)
	var closed websocket.CloseError
	fmt.Println(errors.As(err, &closed), int(closed.Code), closed.Reason)
	// Output: true 4401 ticket_rejected
}

// ConcealTicket goes before whatever records URLs; the guard behind it still
// finds the ticket.
func ExampleConcealTicket() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	h := guard.Wrap(http.HandlerFunc(hello))
	srv := httptest.NewServer(middleware.ConcealTicket(accessLog(h)))
	defer srv.Close()

	ctx := context.Background()
	ticket, err := issuer.Mint(ctx, annAtS1)
	check(err)
	c, _, err := websocket.Dial(ctx, srv.URL+"/ws?ticket="+string(ticket)+"&room=7", nil)
	check(err)
	defer c.CloseNow()
	_, message, err := c.Read(ctx)
	fmt.Println(string(message), err)
	// Output:
	// access log: GET /ws?room=7
	// hello ann <nil>
}

// The same gate and guard in chains of justinas/alice; chi's r.Use takes them
// as they stand too.
func Example_alice() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	var people sync.Map // by their cookie
	sessions := middleware.CookieSessions("session",
		func(_ context.Context, cookie string) (*middleware.Session, error) {
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
		http.SetCookie(w,
			&http.Cookie{Name: "session", Value: cookie, Secure: true, HttpOnly: true})
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
