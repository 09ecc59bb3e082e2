// Package compat runs ticketgate beside what applications have already: routers,
// session libraries and WebSocket libraries, none of which the root module
// requires. README.md shows how each goes together.
package compat

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestMain(m *testing.M) {
	// scs.New sweeps its memory in a goroutine that cannot be stopped safely.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/alexedwards/scs/v2/memstore.(*MemStore).startCleanup"),
		// nbio's default engine, which its import starts.
		goleak.IgnoreTopFunction("github.com/lesismal/nbio/taskpool.New.func3"))
}

// app is one guarded endpoint behind a real listener.
type app struct {
	issuer  *tickets.Issuer
	sockets *middleware.Sockets
	server  *httptest.Server
	lines   *lines
	seq     atomic.Int64
}

type appOptions struct {
	sockets middleware.SocketsOptions
	guard   middleware.GuardOptions
	tls     bool

	connState func(net.Conn, http.ConnState)
}

func newApp(tb testing.TB, next http.Handler, o appOptions) *app {
	tb.Helper()
	a := &app{lines: &lines{}}
	var err error
	a.issuer, err = tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	require.NoError(tb, err)
	o.sockets.Audit = audit.New(a.lines)
	a.sockets, err = middleware.NewSockets(a.issuer, &o.sockets)
	require.NoError(tb, err)
	o.guard.Sockets = a.sockets
	guard, err := middleware.NewGuard(a.issuer, &o.guard)
	require.NoError(tb, err)
	a.server = httptest.NewUnstartedServer(guard.Wrap(next))
	if o.connState != nil {
		a.server.Config.ConnState = o.connState
	}
	if o.tls {
		a.server.StartTLS()
	} else {
		a.server.Start()
	}
	tb.Cleanup(func() {
		_ = a.sockets.Shutdown(tb.Context())
		a.server.Close()
		_ = a.issuer.Close()
	})
	return a
}

// session returns a name that no other session has.
func (a *app) session() string { return "session-" + strconv.FormatInt(a.seq.Add(1), 10) }

// url is the endpoint's with a fresh ticket of the session.
func (a *app) url(tb testing.TB, session, user string) string {
	tb.Helper()
	t, err := a.issuer.Mint(context.Background(), tickets.Grant{SessionID: session, Provider: "test", UserID: user})
	require.NoError(tb, err)
	return "ws" + strings.TrimPrefix(a.server.URL, "http") + "/ws?ticket=" + string(t)
}

func (a *app) revoke(tb testing.TB, r tickets.Revocation) {
	if err := a.issuer.Revoke(context.Background(), r); err != nil {
		tb.Error(err)
	}
}

// lines is a sink of audit events.
type lines struct {
	mu  sync.Mutex
	all []map[string]any
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	line := make(map[string]any)
	r.Attrs(func(a slog.Attr) bool {
		line[a.Key] = a.Value.Any()
		return true
	})
	l.mu.Lock()
	l.all = append(l.all, line)
	l.mu.Unlock()
	return nil
}

func (l *lines) of(event string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var of []map[string]any
	for _, line := range l.all {
		if line["event"] == event {
			of = append(of, line)
		}
	}
	return of
}
