package compat

import (
	"fmt"
	"net/http"
	"net/http/httptest"
)

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

// printed is an access log.
func printed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.RequestURI)
		next.ServeHTTP(w, r)
	})
}
