package compat

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	coder "github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"github.com/ticketgate/ticketgate/middleware"
)

func init() { gin.SetMode(gin.TestMode) }

// everybody stands for a sign-in: the cookie is the name, and the session's.
var everybody = middleware.CookieSessions("session", func(_ context.Context, name string) (*middleware.Session, error) {
	return &middleware.Session{ID: "session-of-" + name, Provider: "test", UserID: name}, nil
})

// tour shows what a router does with a stranger, with somebody who has signed
// in, and with a ticket that is used twice.
func tour(server *httptest.Server) {
	page := newVisitor(server)
	fmt.Println(page.get("/hello/bob").status)

	page.setCookie("session", "ann")
	fmt.Println(page.get("/hello/bob").text)

	ticket := page.ticket()
	fmt.Println(page.hear("/ws/7?ticket=" + ticket))
	fmt.Println(page.hear("/ws/7?ticket=" + ticket))
}

// hello is a socket that greets whoever the guard let in.
func hello(w http.ResponseWriter, r *http.Request) {
	conn, err := coder.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	session, _ := middleware.SessionFrom(r.Context())
	_ = conn.Write(r.Context(), coder.MessageText, []byte("hello "+session.UserID))
	_, _, _ = conn.Read(r.Context())
}

// printed is an access log.
func printed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.RequestURI)
		next.ServeHTTP(w, r)
	})
}
