package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

func Example() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer issuer.Close()
	ctx := context.Background()

	// Over HTTPS, for a page that is signed in:
	ticket, err := issuer.Mint(
		ctx,
		tickets.Grant{SessionID: "s-81", Provider: "oidc", UserID: "ada", Endpoint: "/ws"},
	)
	if err != nil {
		log.Fatal(err)
	}
	answer := string(ticket) // the one place where it is revealed

	// At the upgrade:
	grant, err := issuer.Consume(ctx, tickets.Ticket(answer))
	fmt.Println(grant.UserID, grant.ExpiresAt.Sub(grant.MintedAt), err)

	// At the second use:
	_, err = issuer.Consume(ctx, tickets.Ticket(answer))
	fmt.Println(errors.Is(err, tickets.ErrInvalid), errors.Is(err, tickets.ErrUsed))
	// Output:
	// ada 30s <nil>
	// true true
}

func ExampleNewIssuer_badOptions() {
	_, err := tickets.NewIssuer(nil, &tickets.IssuerOptions{TTL: 24 * time.Hour})
	fmt.Println(err)
	// Output:
	// tickets.NewIssuer: store is nil, want a Store such as NewMemoryStore(nil)
	// TTL is 24h0m0s, want 1ms to 1h0m0s
}

// Three answers, and what to do with each.
func ExampleIssuer_Consume() {
	issuer, _ := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	admit := func(ticket tickets.Ticket) string {
		grant, err := issuer.Consume(context.Background(), ticket)
		switch {
		case err == nil:
			return "welcome, " + grant.UserID
		case errors.Is(err, tickets.ErrInvalid):
			return "401: " + err.Error() // for the audit; the client learns no more than 401
		default:
			return "503: " + err.Error() // no answer: do not admit
		}
	}
	ticket, _ := issuer.Mint(context.Background(), tickets.Grant{UserID: "ada"})
	fmt.Println(admit(ticket))
	fmt.Println(admit("guess-guess-guess"))
	issuer.Close()
	fmt.Println(admit(ticket))
	// Output:
	// welcome, ada
	// 401: unknown ticket: guess-gu
	// 503: consume ticket: issuer is closed
}

func ExampleTooManyError() {
	issuer, _ := tickets.NewIssuer(
		tickets.NewMemoryStore(nil),
		&tickets.IssuerOptions{MaxPerSession: 1},
	)
	grant := tickets.Grant{SessionID: "s-81"}
	issuer.Mint(context.Background(), grant)
	_, err := issuer.Mint(context.Background(), grant)
	var tooMany *tickets.TooManyError
	if errors.As(err, &tooMany) {
		fmt.Println("429, Retry-After:", tooMany.RetryAfter.Round(time.Second))
	}
	// Output: 429, Retry-After: 30s
}

func ExampleIssuer_Revoke() {
	issuer, _ := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	ctx := context.Background()
	stop := issuer.OnRevoke(func(r tickets.Revocation) {
		fmt.Println("closing the sockets of", r.SessionID, "for", r.Reason)
	})
	defer stop()

	grant := tickets.Grant{SessionID: "s-81", UserID: "ada"}
	ticket, _ := issuer.Mint(ctx, grant)

	// The session has ended in the application's own store. Then:
	err := issuer.Revoke(ctx, tickets.Revocation{SessionID: "s-81", Reason: "logout"})
	if err != nil {
		log.Fatal(err)
	}
	_, err = issuer.Consume(ctx, ticket)
	fmt.Println(err)
	_, err = issuer.Mint(ctx, grant)
	fmt.Println(err)
	// Output:
	// closing the sockets of s-81 for logout
	// ticket revoked
	// mint ticket: the session was revoked
}

// A user is signed out everywhere, and signs in again.
func ExampleIssuer_Revoke_user() {
	issuer, _ := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	session := func(id string, startedAt time.Time) tickets.Grant {
		return tickets.Grant{SessionID: id, Provider: "oidc", UserID: "ada", StartedAt: startedAt}
	}
	now := time.Now()
	issuer.Revoke(
		context.Background(),
		tickets.Revocation{Provider: "oidc", UserID: "ada", Reason: "stolen phone"},
	)
	fmt.Println("phone:", issuer.Revoked(session("s-1", now.Add(-time.Hour))))
	fmt.Println("signed in again:", issuer.Revoked(session("s-2", now.Add(time.Minute))))
	// Output:
	// phone: invalid ticket: revoked
	// signed in again: <nil>
}

func ExampleTicket() {
	issuer, _ := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	ticket, _ := issuer.Mint(context.Background(), tickets.Grant{})
	fmt.Printf("%v %q %+v\n", ticket, ticket, struct{ T tickets.Ticket }{ticket})
	fmt.Println(len(string(ticket)))
	// Output:
	// [ticket] [ticket] {T:[ticket]}
	// 43
}

// The name of a ticket in an audit log cannot be used to open a socket.
func ExampleTicket_Key() {
	ticket := tickets.Ticket("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	fmt.Println("ticket_id", ticket.Key().String()[:12])
	// Output: ticket_id 0f007385b6f9
}

// What a store outside the process keeps can only be read with the ticket.
func ExampleKey_Seal() {
	ticket := tickets.Ticket("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	sealed := ticket.Key().Seal(tickets.Grant{UserID: "ada"})

	grant, err := ticket.Key().Open(sealed)
	fmt.Println(grant.UserID, err)
	_, err = tickets.Ticket("another").Key().Open(sealed)
	fmt.Println(err != nil)
	// Output:
	// ada <nil>
	// true
}

func ExampleNewMemoryStore() {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1})
	issuer, _ := tickets.NewIssuer(store, nil)
	issuer.Mint(context.Background(), tickets.Grant{})
	_, err := issuer.Mint(context.Background(), tickets.Grant{})
	fmt.Println(err, errors.Is(err, tickets.ErrFull))
	// Output: mint ticket: ticket store is full true
}

// A readiness probe: a server that refuses every ticket gets no traffic.
func ExampleIssuer_Health() {
	issuer, err := tickets.NewIssuer(
		tickets.NewMemoryStore(nil),
		nil,
	) // or over redisstore, pgstore
	if err != nil {
		fmt.Println(err)
		return
	}
	defer issuer.Close()

	ready := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		err := issuer.Health()
		if err != nil {
			slog.Error("ticketgate", "error", err) // an alert
		}
		if errors.Is(err, tickets.ErrStale) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	answer := httptest.NewRecorder()
	ready.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	fmt.Println(answer.Code)
	// Output: 200
}
