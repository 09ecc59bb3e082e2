package testserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// How long what is open has to end after ctx is done.
const shutdownWait = 5 * time.Second

// Serve serves s until ctx is done, then ends what is open, and closes listener and s.
func Serve(ctx context.Context, listener net.Listener, s *Server) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return errors.Join(err, s.Close())
	case <-ctx.Done():
	}

	// http.Server.Shutdown waits for requests and knows nothing of sockets, so
	// those that were let in are told first.
	ending, cancel := context.WithTimeout(context.Background(), shutdownWait)
	defer cancel()
	err := errors.Join(s.Shutdown(ending), server.Shutdown(ending))
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, s.Close())
}

// Address is what to type into a browser on this machine.
func Address(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}
