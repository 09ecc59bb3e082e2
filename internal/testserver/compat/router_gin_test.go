package compat

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"

	"github.com/ticketgate/ticketgate/middleware"
)

// ginWrap makes a gin middleware of gate.Wrap or guard.Wrap. What they refuse
// they have answered: the chain is aborted. What they admit goes on with their
// request, whose context has the session, and with their ResponseWriter, which
// sees a socket take the connection.
func ginWrap(wrap func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		admitted := false
		wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			admitted = true
			c.Request, c.Writer = r, &ginWriter{c.Writer, w}
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
		if !admitted {
			c.Abort()
		}
	}
}

type ginWriter struct {
	gin.ResponseWriter
	w http.ResponseWriter
}

func (g *ginWriter) Unwrap() http.ResponseWriter { return g.w }
func (g *ginWriter) WriteHeader(status int)      { g.w.WriteHeader(status) }
func (g *ginWriter) Write(p []byte) (int, error) { return g.w.Write(p) }
func (g *ginWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(g.w).Hijack()
}

// ginRouter uses it for a group and for one route.
func ginRouter(
	gate *middleware.Gate, mint *middleware.Mint, guard *middleware.Guard,
	accessLog gin.HandlerFunc, socket http.Handler,
) http.Handler {
	r := gin.New()
	r.Use(accessLog, gin.Recovery())
	pages := r.Group("/", ginWrap(gate.Wrap))
	pages.Any("/api/auth/ws-ticket", gin.WrapH(mint)) // every method: Mint itself answers 405
	pages.GET("/hello/:name", func(c *gin.Context) {
		session, _ := middleware.SessionFrom(c.Request.Context())
		c.String(http.StatusOK, "%s greets %s", session.UserID, c.Param("name"))
	})
	r.GET("/ws/:room", ginWrap(guard.Wrap), gin.WrapH(socket))
	return middleware.ConcealTicket(r) // around the engine: the log sees no ticket
}

func Example_gin() {
	d := newDoors(everybody, doorOptions{})
	accessLog := func(c *gin.Context) { fmt.Println(c.Request.Method, c.Request.RequestURI) }
	handler := ginRouter(d.gate, d.mint, d.guard, accessLog, http.HandlerFunc(hello))
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
