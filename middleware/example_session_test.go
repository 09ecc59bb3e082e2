package middleware_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A handler that decides per message asks SessionFrom per message: an
// administrator who loses the role loses it in the sockets that are open, at the
// next recheck.
func ExampleSessionFrom_perMessage() {
	var role atomic.Value // the application's own session store
	role.Store("admin")

	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer issuer.Close()
	sockets, err := middleware.NewSockets(issuer, &middleware.SocketsOptions{
		Restore: func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
			s.Value = role.Load()
			return s, nil
		},
		RecheckEvery: 10 * time.Millisecond, // a minute, say
		Audit:        audit.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Sockets: sockets})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	})))
	defer server.Close()

	ctx := context.Background()
	ticket, err := issuer.Mint(ctx, tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "ann"})
	if err != nil {
		fmt.Println(err)
		return
	}
	page, _, err := websocket.Dial(ctx, server.URL+"/ws?ticket="+string(ticket), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
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
