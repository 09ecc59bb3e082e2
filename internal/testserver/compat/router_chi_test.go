package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/chi/v5"

	"github.com/ticketgate/ticketgate/middleware"
)

// chiRouter needs no adapter. accessLog is chi's middleware.Logger, or any other.
func chiRouter(
	gate *middleware.Gate, mint *middleware.Mint, guard *middleware.Guard,
	accessLog func(http.Handler) http.Handler, socket http.Handler,
) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.ConcealTicket, accessLog) // the whole router: the log sees no ticket
	r.Group(func(r chi.Router) {
		r.Use(gate.Wrap)
		r.Handle("/api/auth/ws-ticket", mint) // every method: Mint itself answers 405
		r.Get("/hello/{name}", func(w http.ResponseWriter, r *http.Request) {
			session, _ := middleware.SessionFrom(r.Context())
			fmt.Fprintf(w, "%s greets %s", session.UserID, chi.URLParam(r, "name"))
		})
	})
	r.With(guard.Wrap).Method("GET", "/ws/{room}", socket) // one route
	return r
}

func Example_chi() {
	d := newDoors(everybody, doorOptions{})
	server := httptest.NewServer(chiRouter(d.gate, d.mint, d.guard, printed,
		http.HandlerFunc(hello)))
	defer server.Close()
	tour(server)
	// Output:
	// GET /hello/bob
	// 401
	// GET /hello/bob
	// ann greets bob
	// POST /api/auth/ws-ticket
	// GET /ws/7
	// hello ann
	// GET /ws/7
	// refused: 401
}
