package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/ticketgate/ticketgate/middleware"
)

// wholeRouter closes any router that is an http.Handler at once: a ServeMux, or chi, gin's engine,
// echo. No route of it can be forgotten.
//
//	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{PassOthers: true})
//	gate, err := middleware.NewGate(middleware.FirstOf(middleware.ContextSessions, sessions), nil)
//
// The guard passes requests that are no upgrades on to the gate. The gate finds the session of a
// socket in the context, where the guard has put it.
func wholeRouter(guard *middleware.Guard, gate *middleware.Gate, router http.Handler) http.Handler {
	return middleware.ConcealTicket(guard.Wrap(gate.Wrap(router)))
}

func Example_wholeRouter() {
	d := newDoors(middleware.FirstOf(middleware.ContextSessions, everybody), doorOptions{
		guard: middleware.GuardOptions{PassOthers: true},
	})
	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", d.mint)
	mux.HandleFunc("GET /hello/{name}", func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		fmt.Fprintf(w, "%s greets %s", session.UserID, r.PathValue("name"))
	})
	mux.HandleFunc("GET /ws/{room}", hello)
	server := httptest.NewServer(wholeRouter(d.guard, d.gate, printed(mux)))
	defer server.Close()
	tour(server)
	// Output:
	// 401
	// GET /hello/bob
	// ann greets bob
	// POST /api/auth/ws-ticket
	// GET /ws/7
	// hello ann
	// refused: 401
}
