package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/ticketgate/ticketgate/middleware"
)

// muxRouter is net/http's own ServeMux: a log around the whole of it, a group of pages behind the
// gate, one route behind the guard.
func muxRouter(
	gate *middleware.Gate, mint *middleware.Mint, guard *middleware.Guard,
	accessLog func(http.Handler) http.Handler, socket http.Handler,
) http.Handler {
	pages := http.NewServeMux()
	pages.Handle("/api/auth/ws-ticket", mint) // every method: Mint itself answers 405
	pages.HandleFunc("GET /hello/{name}", func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		fmt.Fprintf(w, "%s greets %s", session.UserID, r.PathValue("name"))
	})

	mux := http.NewServeMux()
	mux.Handle("/", gate.Wrap(pages))                // a group
	mux.Handle("GET /ws/{room}", guard.Wrap(socket)) // a route
	return middleware.ConcealTicket(accessLog(mux))  // the whole: the log sees no ticket
}

func Example_serveMux() {
	d := newDoors(everybody, doorOptions{})
	server := httptest.NewServer(muxRouter(d.gate, d.mint, d.guard, printed,
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
