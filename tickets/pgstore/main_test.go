package pgstore_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
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
	sync.Once
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

func newStore(t testing.TB, pool *pgxpool.Pool, schema string) *pgstore.Store {
	t.Helper()
	store, err := pgstore.New(t.Context(), pool, &pgstore.Options{Schema: schema, CreateTables: true})
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
