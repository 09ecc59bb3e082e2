package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// BenchmarkRevokeElsewhere measures from the call of Revoke at one server to the close code at a
// page whose socket is open at another: the median and the 99th of a hundred.
//
//	go test -run '^$' -bench RevokeElsewhere -benchtime 500x ./demo
func BenchmarkRevokeElsewhere(b *testing.B) {
	for name, open := range map[string]func(*testing.B) shared{
		"redis": func(b *testing.B) shared {
			r, err := servers.NewRedis(b.TempDir())
			b.Cleanup(r.Close)
			servers.Skip(b, err)
			both, err := openRedis(b.Context(), "redis://"+r.Addr)
			require.NoError(b, err)
			return both
		},
		"postgres": func(b *testing.B) shared {
			p, err := servers.NewPostgres(b.TempDir())
			b.Cleanup(p.Close)
			servers.Skip(b, err)
			both, err := openPostgres(b.Context(), p.URL("postgres"))
			require.NoError(b, err)
			return both
		},
	} {
		b.Run(name, func(b *testing.B) { revokeElsewhere(b, open) })
	}
}

func revokeElsewhere(b *testing.B, open func(*testing.B) shared) {
	both := open(b)
	here, err := tickets.NewIssuer(both.Store, nil)
	require.NoError(b, err)
	there, err := tickets.NewIssuer(both.Store, nil) // with a place in the log of its own
	require.NoError(b, err)
	guard, err := middleware.NewGuard(there,
		&middleware.GuardOptions{Audit: audit.New(slog.DiscardHandler)})
	require.NoError(b, err)
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(silent)))
	b.Cleanup(func() {
		server.Close()
		require.NoError(b, here.Close())
		require.NoError(b, there.Close())
		both.close()
	})
	require.Eventually(b, func() bool { return there.Health() == nil },
		10*time.Second, time.Millisecond)

	var took []time.Duration
	for n := range b.N {
		g := tickets.Grant{SessionID: fmt.Sprint("session ", n), UserID: "u1"}
		ticket, err := here.Mint(b.Context(), g)
		require.NoError(b, err)
		address := "ws" + strings.TrimPrefix(server.URL, "http") + "?ticket=" + string(ticket)
		c, _, err := websocket.Dial(b.Context(), address, nil)
		require.NoError(b, err)
		closed := make(chan time.Time, 1)
		go func() {
			_, _, err := c.Read(b.Context())
			at := time.Now()
			if websocket.CloseStatus(err) != 4401 {
				b.Error(err)
			}
			closed <- at
		}()
		began := time.Now()
		require.NoError(b, here.Revoke(b.Context(), tickets.Revocation{SessionID: g.SessionID}))
		took = append(took, (<-closed).Sub(began))
		c.CloseNow()
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
}

func silent(w http.ResponseWriter, r *http.Request) {
	if c, err := websocket.Accept(w, r, nil); err == nil {
		c.Read(r.Context())
		c.CloseNow()
	}
}
