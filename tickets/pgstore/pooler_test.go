package pgstore_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
)

// Some pools leave nothing of a session behind, prepared statements included.
func TestStore_DiscardAll(t *testing.T) {
	s := server(t)
	for _, level := range []string{"read committed", "serializable"} {
		pool := newPool(
			t,
			s.URL("postgres"),
			maxConns(2),
			parameter("default_transaction_isolation", level),
			func(c *pgxpool.Config) {
				c.AfterRelease = func(conn *pgx.Conn) bool {
					_, err := conn.Exec(context.Background(), "DISCARD ALL")
					return err == nil
				}
			},
		)
		store := newStore(t, pool, newSchema())
		for range 20 {
			key := newTicket().Key()
			err := store.Put(t.Context(), key, grant(time.Minute))
			require.NoError(t, err)
			require.NoError(t, take(store, key))
			require.ErrorIs(t, take(store, key), tickets.ErrUsed)
		}
	}
}

// Through PgBouncer, which hands each transaction to another connection: no prepared statement, no
// LISTEN and no setting of a session goes through.
func TestStore_ThroughAPooler(t *testing.T) {
	s := server(t)
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			addr := pgbouncer(t, s.Addr, mode)
			pool := newPool(t, servers.PostgresURL(addr, "postgres", "postgres"), maxConns(8))
			schema := newSchema()
			store, other := newStore(
				t,
				pool,
				schema,
			), newStore(
				t,
				newPool(t, s.URL("postgres")),
				schema,
			)
			_, cursor := reasons(t, store, "")
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 100 {
						key := newTicket().Key()
						if !assert.NoError(
							t,
							store.Put(context.Background(), key, grant(time.Minute)),
						) {
							return
						}
						assert.NoError(t, take(store, key))
						assert.ErrorIs(t, take(other, key), tickets.ErrUsed)
					}
				})
			}
			wg.Wait()
			go other.Append(context.Background(), revocation("elsewhere"))
			var received []string
			for len(received) == 0 {
				received, cursor = reasons(t, store, cursor)
			}
			assert.Equal(t, []string{"elsewhere"}, received)
			require.NoError(t, store.Append(t.Context(), revocation("here")))
		})
	}
}

// pgbouncer starts one with two connections to the server, and returns where it listens.
func pgbouncer(t *testing.T, server, mode string) string {
	path, err := servers.Find("pgbouncer", "pgbouncer", "/usr/sbin/pgbouncer")
	servers.Skip(t, err)
	port, err := servers.FreePort()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "pgbouncer")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	host, serverPort, _ := strings.Cut(server, ":")
	size := map[string]string{"transaction": "2", "session": "8"}[mode]
	config := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(
		t,
		os.WriteFile(
			config,
			[]byte("[databases]\npostgres = host="+host+" port="+serverPort+" user=postgres\n"+
				"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = "+strconv.Itoa(port)+"\n"+
				"auth_type = any\nunix_socket_dir =\n"+
				"pool_mode = "+mode+"\ndefault_pool_size = "+size+"\n"),
			0o644,
		),
	)
	p, err := servers.Command{
		Path:         path,
		Args:         []string{config},
		Dir:          dir,
		Unprivileged: true,
	}.Start()
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	addr := servers.Address(port)
	require.NoError(t, p.Await(patience, func() error {
		pool, err := pgxpool.New(
			context.Background(),
			servers.PostgresURL(addr, "postgres", "postgres"),
		)
		if err != nil {
			return err
		}
		defer pool.Close()
		return pool.Ping(context.Background())
	}))
	return addr
}
