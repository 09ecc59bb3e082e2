package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

// Two servers of one application, each with its own client and store. A ticket of one is valid on
// the other, once, and a revocation on one takes effect on the other.
func Example() {
	addr, stop := startRedis() // yours is running already: "localhost:6379"
	defer stop()

	open := func() (*tickets.Issuer, func()) {
		client := redis.NewClient(&redis.Options{Addr: addr})
		store, err := redisstore.New(context.Background(), client, nil)
		if err != nil {
			log.Fatal(err)
		}
		issuer, err := tickets.NewIssuer(store, nil)
		if err != nil {
			log.Fatal(err)
		}
		return issuer, func() {
			issuer.Close()
			client.Close()
		}
	}
	here, closeHere := open()
	defer closeHere()
	there, closeThere := open()
	defer closeThere()
	for here.Health() != nil || there.Health() != nil { // until they have read the log
		time.Sleep(time.Millisecond)
	}

	ctx := context.Background()
	ticket, err := here.Mint(ctx, tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "u1"})
	if err != nil {
		log.Fatal(err)
	}
	grant, err := there.Consume(ctx, ticket)
	fmt.Println("there:", grant.UserID, err)
	_, err = here.Consume(ctx, ticket)
	fmt.Println("again:", errors.Is(err, tickets.ErrUsed))

	ended := make(chan string)
	there.OnRevoke(func(r tickets.Revocation) { ended <- r.Reason })
	if err := here.Revoke(ctx, tickets.Revocation{SessionID: "s1", Reason: "logout"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ended there:", <-ended)
	// Output:
	// there: u1 <nil>
	// again: true
	// ended there: logout
}

// The client of the application can be for a cluster, a sentinel, or TLS.
func ExampleNew() {
	client := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs:    []string{"redis-1:6379", "redis-2:6379", "redis-3:6379"},
		Username: "app",
		Password: os.Getenv("REDIS_PASSWORD"),
	})
	store, err := redisstore.New(
		context.Background(),
		client,
		&redisstore.Options{Prefix: "shop:tickets:"},
	)
	if err != nil {
		log.Fatal(err) // says what is wrong with the servers, or what the user must be granted
	}
	issuer, err := tickets.NewIssuer(store, &tickets.IssuerOptions{MaxStaleness: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer issuer.Close()
}

func startRedis() (addr string, stop func()) {
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		log.Fatal(err)
	}
	r, err := servers.NewRedis(dir)
	if err != nil {
		log.Fatal(err)
	}
	return r.Addr, func() {
		r.Close()
		os.RemoveAll(dir)
	}
}
