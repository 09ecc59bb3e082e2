package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// Two servers of one application, each with its own client and store. A ticket of one is valid on
// the other, once, and a revocation on one takes effect on the other.
func Example() {
	url, stop := startPostgres() // yours is running already: "postgres://app@localhost/app"
	defer stop()

	open := func() (*tickets.Issuer, func()) {
		pool, err := pgxpool.New(context.Background(), url)
		if err != nil {
			log.Fatal(err)
		}
		store, err := pgstore.New(context.Background(), pool, &pgstore.Options{CreateTables: true})
		if err != nil {
			log.Fatal(err)
		}
		issuer, err := tickets.NewIssuer(store, nil)
		if err != nil {
			log.Fatal(err)
		}
		return issuer, func() {
			issuer.Close()
			pool.Close()
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

// Where migrations make the tables, this is what they are to run.
func ExampleDDL() {
	ddl, err := pgstore.DDL(&pgstore.Options{Schema: "door"})
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(ddl) {
		if strings.HasPrefix(line, "CREATE") {
			fmt.Print(line)
		}
	}
	// Output:
	// CREATE SCHEMA IF NOT EXISTS "door";
	// CREATE UNLOGGED TABLE IF NOT EXISTS "door".tickets (
	// CREATE TABLE IF NOT EXISTS "door".revocations (
}

// An application that keeps several connections for itself gives the store a pool of its own.
func ExampleNew() {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 8
	config.ConnConfig.ConnectTimeout = 2 * time.Second // a host that is gone blocks no longer
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := pgstore.New(context.Background(), pool, nil)
	if err != nil {
		log.Fatal(err) // says what is missing, or what the role must be granted
	}
	issuer, err := tickets.NewIssuer(store, &tickets.IssuerOptions{MaxStaleness: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer issuer.Close()
}

func startPostgres() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "postgres")
	if err != nil {
		log.Fatal(err)
	}
	p, err := servers.NewPostgres(dir)
	if err != nil {
		log.Fatal(err)
	}
	return p.URL("postgres"), func() {
		p.Close()
		os.RemoveAll(dir)
	}
}
