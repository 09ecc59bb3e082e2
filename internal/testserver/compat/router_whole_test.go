package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/ticketgate/ticketgate/middleware"
)

// wholeRouter closes any router that is an http.Handler at once: a ServeMux, or
// chi, gin's engine, echo. Nothing in it can be forgotten. The guard is made
// with PassOthers, and the gate for FirstOf(ContextSessions, sessions): behind
// the guard, the session of a socket is in the context already.
func wholeRouter(d doors, router http.Handler) http.Handler {
	return middleware.ConcealTicket(d.guard.Wrap(d.gate.Wrap(router)))
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
	server := httptest.NewServer(wholeRouter(d, printed(mux)))
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
