// Command demo serves the application in miniature with a page to look at: what
// a ticket is, what happens to one that is no good, who is connected, and what
// the audit has to say about it.
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
	"syscall"
	"time"

	"github.com/ticketgate/ticketgate/audit"
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

// run serves until ctx is done, and then ends what is open.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(errOut)
	addr := flags.String("addr", "127.0.0.1:8080", "`host:port` to listen on")
	file := flags.String("audit", "",
		"`file` that the audit is written to (default: the page shows it, no file has it)")
	ttl := flags.Duration("ttl", tickets.DefaultTTL, "how long a ticket is good, at least 1s")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *ttl < time.Second {
		return fmt.Errorf("-ttl is %v, want at least 1s", *ttl)
	}

	opts := &testserver.Options{TTL: *ttl, Pages: page.Files}
	if *file != "" {
		log, err := audit.OpenFile(*file, nil)
		if err != nil {
			return fmt.Errorf("-audit: %w", err)
		}
		defer log.Close()
		opts.Audit = log.Handler()
	}
	app, err := testserver.New(opts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return errors.Join(err, app.Close())
	}
	fmt.Fprintf(out, "ticketgate demo: %s\nSign in with any name. Ctrl-C ends it.\n",
		testserver.Address(listener.Addr()))
	return testserver.Serve(ctx, listener, app)
}
