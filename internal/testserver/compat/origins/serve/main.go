// Command serve runs the API of package app over TLS for the page origins that are its arguments,
// until its standard input ends. For each it prints an address and a bearer token.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/origins/app"
)

// apis begin with the recipe. The test adds variants of it.
var apis = []func(page string){
	func(page string) { serve(page, app.New, (*app.Sessions).Start) },
}

func main() {
	for _, api := range apis {
		for _, page := range os.Args[1:] {
			api(page)
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func serve[S any](
	page string,
	newAPI func(string, *S) (http.Handler, error),
	startSession func(*S, string) string,
) {
	sessions := new(S)
	api, err := newAPI(page, sessions)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(httptest.NewTLSServer(api).URL, startSession(sessions, "bearer"))
}
