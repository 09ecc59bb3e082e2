// Command demo serves the application in miniature with a page to look at: what
// a ticket is, what happens to one that is no good, who is connected, and what
// the audit has to say about it.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/tickets"
)

//go:embed page
var page embed.FS

// How long what is open has to end after a signal.
const shutdownWait = 5 * time.Second

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
	file := flags.String("audit", "", "`file` that the audit is written to (default: the page shows it, no file has it)")
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

	pages, err := fs.Sub(page, "page")
	if err != nil {
		return err
	}
	opts := &testserver.Options{TTL: *ttl, Pages: pages}
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
	fmt.Fprintf(out, "ticketgate demo: %s\nSign in with any name. Ctrl-C ends it.\n", address(listener.Addr()))
	return errors.Join(serve(ctx, listener, app), app.Close())
}

func serve(ctx context.Context, listener net.Listener, app *testserver.Server) error {
	server := &http.Server{
		Handler:           app.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// http.Server.Shutdown waits for requests and knows nothing of sockets, so
	// those that were let in are told first.
	ending, cancel := context.WithTimeout(context.Background(), shutdownWait)
	defer cancel()
	err := errors.Join(app.Shutdown(ending), server.Shutdown(ending))
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// address is what to type into a browser on this machine.
func address(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}
