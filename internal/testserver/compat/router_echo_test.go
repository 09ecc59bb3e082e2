package compat

import (
	"net/http"
	"net/http/httptest"

	"github.com/labstack/echo/v4"

	"github.com/ticketgate/ticketgate/middleware"
)

// echoRouter needs no more than echo's own WrapMiddleware: it passes request and
// ResponseWriter on, and what was refused does not reach the handler. Once a
// socket is open, return nil: echo would write an error to it.
func echoRouter(
	gate *middleware.Gate, mint *middleware.Mint, guard *middleware.Guard,
	accessLog echo.MiddlewareFunc, socket http.Handler,
) http.Handler {
	e := echo.New()
	e.Use(accessLog)
	pages := e.Group("", echo.WrapMiddleware(gate.Wrap))
	// Every method: Mint itself answers 405.
	pages.Any("/api/auth/ws-ticket", echo.WrapHandler(mint))
	pages.GET("/hello/:name", func(c echo.Context) error {
		session, _ := middleware.SessionFrom(c.Request().Context())
		return c.String(http.StatusOK, session.UserID+" greets "+c.Param("name"))
	})
	e.GET("/ws/:room", echo.WrapHandler(socket), echo.WrapMiddleware(guard.Wrap))
	return middleware.ConcealTicket(e) // around the whole: the log sees no ticket
}

func Example_echo() {
	d := newDoors(everybody, doorOptions{})
	accessLog := echo.WrapMiddleware(printed)
	handler := echoRouter(d.gate, d.mint, d.guard, accessLog, http.HandlerFunc(hello))
	server := httptest.NewServer(handler)
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
