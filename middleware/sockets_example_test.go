package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// exampleServer is an application with one guarded endpoint, /ws, and a page of
// it that has opened a socket.
func exampleServer(opts middleware.SocketsOptions) (*http.Server, *middleware.Sockets, *websocket.Conn, error) {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	if err != nil {
		return nil, nil, nil, err
	}
	opts.Audit = audit.New(slog.DiscardHandler)
	sockets, err := middleware.NewSockets(issuer, &opts)
	if err != nil {
		return nil, nil, nil, err
	}
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Sockets: sockets})
	if err != nil {
		return nil, nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		_ = c.Write(r.Context(), websocket.MessageText, []byte("hello"))
		_, _, _ = c.Read(r.Context())
	})))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(ln) }()

	ticket, err := issuer.Mint(context.Background(), tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "ann"})
	if err != nil {
		return nil, nil, nil, err
	}
	page, _, err := websocket.Dial(context.Background(), "ws://"+ln.Addr().String()+"/ws?ticket="+string(ticket), nil)
	if err != nil {
		return nil, nil, nil, err
	}
	_, _, err = page.Read(context.Background()) // hello
	return server, sockets, page, err
}

// A server that stops tells its pages so, and waits for them.
// http.Server.Shutdown alone does neither for connections that were hijacked.
func ExampleSockets_Shutdown() {
	server, sockets, page, err := exampleServer(middleware.SocketsOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	gone := make(chan error, 1)
	server.RegisterOnShutdown(func() { gone <- sockets.Shutdown(ctx) })

	stopped := make(chan error, 1)
	go func() { // on SIGTERM, say
		stopped <- errors.Join(server.Shutdown(ctx), <-gone)
	}()

	_, _, err = page.Read(ctx)
	fmt.Println("page:", websocket.CloseStatus(err))
	fmt.Println("server:", <-stopped)
	// Output:
	// page: StatusGoingAway
	// server: <nil>
}

// Who is there, and out with one of them: an application that revokes by its
// own means. Issuer.Revoke does as much, and stops the tickets that are out too.
func ExampleSockets_CloseUser() {
	server, sockets, page, err := exampleServer(middleware.SocketsOptions{MaxPerUser: 8, EvictOldest: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	for s := range sockets.All() {
		fmt.Println(s.Provider, s.UserID, s.Path)
	}
	fmt.Println(sockets.CloseUser("oidc", "ann", "account_disabled"), "ended")

	var closed websocket.CloseError
	_, _, err = page.Read(context.Background())
	fmt.Println(errors.As(err, &closed), int(closed.Code), closed.Reason)
	// Output:
	// oidc ann /ws
	// 1 ended
	// true 4401 account_disabled
}

// A sliding session: each use moves its end, and Extend moves the sockets' too.
func ExampleSockets_Extend() {
	server, sockets, page, err := exampleServer(middleware.SocketsOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	defer page.CloseNow()
	touched := func(sessionID string) { // the application's session store calls this
		sockets.Extend(sessionID, time.Now().Add(30*time.Minute))
	}
	touched("s1")
	fmt.Println(sockets.Len(), "sockets")
	// Output: 1 sockets
}
