package middleware_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/coder/websocket"

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
	srv := httptest.NewServer(middleware.ConcealTicket(accessLog(guard.Wrap(http.HandlerFunc(hello)))))
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
