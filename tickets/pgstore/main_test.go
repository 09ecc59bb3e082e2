package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// One server for all tests that do it no harm; each has a schema of its own there.
var shared struct {
	server *servers.Postgres
	err    error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgstore")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.server, shared.err = servers.NewPostgres(dir)
	if missing := (*servers.MissingError)(nil); errors.As(shared.err, &missing) &&
		os.Getenv("CI") == "" {
		fmt.Println("skipped:", missing) // an example can't skip
		os.RemoveAll(dir)
		os.Exit(0)
	}
	code := m.Run()
	shared.server.Close()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func server(t testing.TB) *servers.Postgres {
	t.Helper()
	servers.Skip(t, shared.err)
	return shared.server
}

var schemas atomic.Int32

// newSchema returns the name of a schema that nobody has used.
func newSchema() string { return fmt.Sprintf("Gate %d", schemas.Add(1)) }

// newPool connects to the database at a URL such as servers.Postgres.URL returns; edits change the
// configuration before.
func newPool(t testing.TB, url string, edits ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	for _, edit := range edits {
		edit(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func maxConns(n int32) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.MaxConns = n }
}

func parameter(name, value string) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams[name] = value }
}

// newStore returns one that is as patient as a machine may be slow.
func newStore(t testing.TB, pool *pgxpool.Pool, schema string) *pgstore.Store {
	t.Helper()
	return newStoreWith(t, pool, &pgstore.Options{Schema: schema, Timeout: patience})
}

func newStoreWith(t testing.TB, pool *pgxpool.Pool, opts *pgstore.Options) *pgstore.Store {
	t.Helper()
	opts.CreateTables = true
	store, err := pgstore.New(t.Context(), pool, opts)
	require.NoError(t, err)
	return store
}

// sql runs statements in which {s} is the schema, as the superuser.
func sql(t testing.TB, s *servers.Postgres, schema, text string) string {
	t.Helper()
	value, err := s.Do(strings.ReplaceAll(text, "{s}", `"`+schema+`"`))
	require.NoError(t, err, text)
	return value
}

const patience = 20 * time.Second

// sessionSettings returns on how many of the pool's connections the setting is not what it was at
// the beginning.
func sessionSettings(t testing.TB, pool *pgxpool.Pool, name string) (changed int) {
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		var same bool
		err := conn.QueryRow(t.Context(),
			"SELECT setting = reset_val FROM pg_settings WHERE name = $1", name).
			Scan(&same)
		require.NoError(t, err)
		if !same {
			changed++
		}
		conn.Release()
	}
	return changed
}
