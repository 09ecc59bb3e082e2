package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// exampleServer is an application with one guarded endpoint, /ws, and a page of
// it that has opened a socket.
func exampleServer(
	opts middleware.SocketsOptions,
) (*http.Server, *middleware.Sockets, *websocket.Conn) {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	opts.Audit = quiet
	sockets, err := middleware.NewSockets(issuer, &opts)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Sockets: sockets})
	check(err)
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
	check(err)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(ln) }()

	ticket, err := issuer.Mint(context.Background(), annAtS1)
	check(err)
	target := "ws://" + ln.Addr().String() + "/ws?ticket=" + string(ticket)
	page, _, err := websocket.Dial(context.Background(), target, nil)
	check(err)
	_, _, err = page.Read(context.Background()) // hello
	check(err)
	return server, sockets, page
}

// A server that stops tells its pages so, and waits for them.
// http.Server.Shutdown alone does neither for connections that were hijacked.
func ExampleSockets_Shutdown() {
	server, sockets, page := exampleServer(middleware.SocketsOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	gone := make(chan error, 1)
	server.RegisterOnShutdown(func() { gone <- sockets.Shutdown(ctx) })

	stopped := make(chan error, 1)
	go func() { // on SIGTERM, say
		stopped <- errors.Join(server.Shutdown(ctx), <-gone)
	}()

	_, _, err := page.Read(ctx)
	fmt.Println("page:", websocket.CloseStatus(err))
	fmt.Println("server:", <-stopped)
	// Output:
	// page: StatusGoingAway
	// server: <nil>
}

// Who is there, and out with one of them: an application that revokes by its
// own means. Issuer.Revoke does as much, and stops the tickets that are out too.
func ExampleSockets_CloseUser() {
	server, sockets, page := exampleServer(
		middleware.SocketsOptions{MaxPerUser: 8, EvictOldest: true})
	defer server.Close()

	for s := range sockets.All() {
		fmt.Println(s.Provider, s.UserID, s.Path)
	}
	fmt.Println(sockets.CloseUser("oidc", "ann", "account_disabled"), "ended")

	var closed websocket.CloseError
	_, _, err := page.Read(context.Background())
	fmt.Println(errors.As(err, &closed), int(closed.Code), closed.Reason)
	// Output:
	// oidc ann /ws
	// 1 ended
	// true 4401 account_disabled
}

// A sliding session: each use moves its end, and Extend moves the sockets' too.
func ExampleSockets_Extend() {
	server, sockets, page := exampleServer(middleware.SocketsOptions{})
	defer server.Close()
	defer page.CloseNow()
	touched := func(sessionID string) { // the application's session store calls this
		sockets.Extend(sessionID, time.Now().Add(30*time.Minute))
	}
	touched("s1")
	fmt.Println(sockets.Len(), "sockets")
	// Output: 1 sockets
}

// A handler that decides per message asks SessionFrom per message: an
// administrator who loses the role loses it in the sockets that are open, at the
// next recheck.
func ExampleSessionFrom_perMessage() {
	var role atomic.Value // the application's own session store
	role.Store("admin")

	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	defer issuer.Close()
	sockets, err := middleware.NewSockets(issuer, &middleware.SocketsOptions{
		Restore: func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			s.Value = role.Load()
			return s, nil
		},
		RecheckEvery: 10 * time.Millisecond, // a minute, say
		Audit:        quiet,
	})
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Sockets: sockets})
	check(err)
	obey := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, _, err := c.Read(r.Context())
			if err != nil {
				return
			}
			answer := "denied"
			if s, ok := middleware.SessionFrom(r.Context()); ok && s.Value == "admin" {
				answer = "done"
			}
			_ = c.Write(r.Context(), kind, []byte(answer))
		}
	})
	server := httptest.NewServer(guard.Wrap(obey))
	defer server.Close()

	ctx := context.Background()
	ticket, err := issuer.Mint(ctx, annAtS1)
	check(err)
	page, _, err := websocket.Dial(ctx, server.URL+"/ws?ticket="+string(ticket), nil)
	check(err)
	defer page.CloseNow()
	ask := func() string {
		_ = page.Write(ctx, websocket.MessageText, []byte("delete everything"))
		_, answer, _ := page.Read(ctx)
		return string(answer)
	}
	fmt.Println(ask())
	role.Store("guest")
	for ask() == "done" { // until the next recheck
		time.Sleep(time.Millisecond)
	}
	fmt.Println(ask(), "with", sockets.Len(), "socket open")
	// Output:
	// done
	// denied with 1 socket open
}
