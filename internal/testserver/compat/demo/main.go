// Command demo is one server of several that share a store: the page of
// internal/testserver/demo, over Redis or PostgreSQL. Start it on as many ports
// as you like, each with all the others as its peers:
//
//	go run ./demo -redis redis://127.0.0.1:6379 -addr 127.0.0.1:8080 -peer 127.0.0.1:8081
//	go run ./demo -redis redis://127.0.0.1:6379 -addr 127.0.0.1:8081 -peer 127.0.0.1:8080
//
// Sign in at one, open a socket at another with a ticket of the first, sign out at
// the first: the socket at the other closes, with 4401.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/demo/page"
	"github.com/ticketgate/ticketgate/tickets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// shared is what the servers have in common.
type shared struct {
	tickets.Store
	testserver.Sessions
	close func()
}

// run serves until ctx is done, and then ends what is open.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(errOut)
	addr := flags.String("addr", "127.0.0.1:8080", "`host:port` to listen on, as browsers reach it")
	redisURL := flags.String("redis", "", "`URL` of the Redis that the servers share")
	postgresURL := flags.String("postgres", "", "`URL` of the PostgreSQL that the servers share")
	ttl := flags.Duration("ttl", tickets.DefaultTTL, "how long a ticket is good")
	var peers []string
	addPeer := func(peer string) error {
		_, _, err := net.SplitHostPort(peer)
		peers = append(peers, peer)
		return err
	}
	flags.Func("peer", "`host:port` of another server; may be given more than once", addPeer)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if (*redisURL == "") == (*postgresURL == "") {
		return errors.New("want exactly one of -redis and -postgres")
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	var both shared
	if *redisURL != "" {
		both, err = openRedis(ctx, *redisURL)
	} else {
		both, err = openPostgres(ctx, *postgresURL)
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer both.close()

	self := strings.TrimSuffix(testserver.Address(listener.Addr()), "/")
	origins := []string{self}
	for _, peer := range peers {
		origins = append(origins, "http://"+peer)
	}
	app, err := testserver.New(&testserver.Options{
		TTL: *ttl, Pages: page.Files, Peers: peers, Origins: origins,
		Store: both.Store, Sessions: both.Sessions,
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	awaitOthers(ctx, app.Issuer())
	fmt.Fprintf(out, "ticketgate demo: %s/\nSign in with any name. Ctrl-C ends it.\n", self)
	return testserver.Serve(ctx, listener, app)
}

// awaitOthers returns when this server has caught up with the others, or that takes too long: until
// then it lets nobody in.
func awaitOthers(ctx context.Context, issuer *tickets.Issuer) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for issuer.Health() != nil && ctx.Err() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
