package pgstore_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// Each row spoils something, and New says what.
func TestNew_RefusesAndSaysWhy(t *testing.T) {
	s := server(t)
	sql(t, s, "", `CREATE ROLE app LOGIN`)
	grants := `GRANT USAGE ON SCHEMA {s} TO app;
		GRANT SELECT, INSERT, UPDATE, DELETE ON {s}.tickets TO app;
		GRANT SELECT, INSERT, DELETE ON {s}.revocations TO app;`
	for name, row := range map[string]struct {
		spoil string
		edit  func(*pgxpool.Config)
		want  []string // none: it is fine
	}{
		"what the README grants is enough": {},
		"no tables": {
			"DROP TABLE {s}.tickets, {s}.revocations", nil,
			[]string{"there is no table {s}.tickets", "there is no table {s}.revocations",
				"DDL"},
		},
		"no schema": {
			"DROP SCHEMA {s} CASCADE", nil, []string{"there is no table {s}.tickets"},
		},
		// A LOGGED table replays after the promotion of a lagging standby.
		"tickets are LOGGED": {
			"ALTER TABLE {s}.tickets SET LOGGED", nil,
			[]string{"ALTER TABLE {s}.tickets SET UNLOGGED"},
		},
		"the log is UNLOGGED": {
			"ALTER TABLE {s}.revocations SET UNLOGGED", nil,
			[]string{"ALTER TABLE {s}.revocations SET LOGGED"},
		},
		"nothing is granted": {
			"REVOKE ALL ON {s}.tickets, {s}.revocations FROM app", nil,
			[]string{`role "app" may not SELECT, INSERT, UPDATE, DELETE: ` +
				`GRANT SELECT, INSERT, UPDATE, DELETE ON {s}.tickets TO "app"`,
				`GRANT SELECT, INSERT, DELETE ON {s}.revocations TO "app"`},
		},
		"no DELETE": {
			"REVOKE DELETE ON {s}.tickets FROM app", nil,
			[]string{`role "app" may not DELETE: GRANT`},
		},
		"no USAGE": {
			"REVOKE USAGE ON SCHEMA {s} FROM app", nil,
			[]string{`GRANT USAGE ON SCHEMA {s} TO "app"`},
		},
		"no lock": {
			"REVOKE EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) FROM PUBLIC", nil,
			[]string{"open the log", "permission denied for function pg_advisory_xact_lock"},
		},
		"a view": {
			"ALTER TABLE {s}.tickets RENAME TO t; " +
				"CREATE VIEW {s}.tickets AS SELECT * FROM {s}.t; " +
				"GRANT ALL ON {s}.tickets TO app", nil,
			[]string{"{s}.tickets is no ordinary table"},
		},
		"a column is missing": {
			"ALTER TABLE {s}.tickets DROP COLUMN born", nil,
			[]string{"take a ticket to try", "born"},
		},
		"rows are hidden": {
			"ALTER TABLE {s}.tickets ENABLE ROW LEVEL SECURITY", nil,
			[]string{"put a ticket to try", "row-level security"},
		},
		"rows are kept": {
			"CREATE RULE kept AS ON UPDATE TO {s}.tickets " +
				"DO INSTEAD SELECT sealed FROM {s}.tickets", nil, []string{"to try"},
		},
		"transactions are read-only": {
			"", parameter("default_transaction_read_only", "on"),
			[]string{"transactions are read-only", "default_transaction_read_only = off"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			schema := newSchema()
			ddl, err := pgstore.DDL(&pgstore.Options{Schema: schema})
			require.NoError(t, err)
			sql(t, s, schema, ddl+grants+row.spoil)
			if name == "no lock" {
				defer sql(
					t,
					s,
					"",
					"GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO PUBLIC",
				)
			}
			edits := []func(*pgxpool.Config){maxConns(1)}
			if row.edit != nil {
				edits = append(edits, row.edit)
			}
			pool := newPool(t, servers.PostgresURL(s.Addr, "app", "postgres"), edits...)
			_, err = pgstore.New(t.Context(), pool, &pgstore.Options{Schema: schema})
			if len(row.want) == 0 {
				require.NoError(t, err)
			}
			for _, want := range row.want {
				assert.ErrorContains(t, err, strings.ReplaceAll(want, "{s}", `"`+schema+`"`))
			}
		})
	}
}

func TestNew_RefusesBadOptionsAllAtOnce(t *testing.T) {
	_, err := pgstore.New(t.Context(), nil, &pgstore.Options{
		Schema: strings.Repeat("s", 64), Timeout: time.Millisecond, KeepRevocations: -1,
	})
	for _, want := range []string{
		"Schema has 64 bytes", "Timeout is 1ms", "KeepRevocations is -1ns", "pool is nil",
	} {
		assert.ErrorContains(t, err, want)
	}
	_, err = pgstore.DDL(&pgstore.Options{Timeout: -1})
	assert.ErrorContains(t, err, "Timeout is -1ns")
}

func TestNew_UnreachableServer(t *testing.T) {
	port, err := servers.FreePort()
	require.NoError(t, err)
	_, err = pgstore.New(
		t.Context(),
		newPool(t, servers.PostgresURL(servers.Address(port), "postgres", "postgres")),
		nil,
	)
	assert.ErrorContains(t, err, "pgstore.New: no connection")
	assert.ErrorContains(t, err, "refused")
}

// IF NOT EXISTS is no lock: without one, all but the first fail on a duplicate key of the
// catalogue.
func TestNew_ManyNodesCreateTheTables(t *testing.T) {
	s := server(t)
	for range 3 {
		schema := newSchema()
		var wg sync.WaitGroup
		for range 8 {
			pool := newPool(t, s.URL("postgres"), maxConns(1))
			wg.Go(func() {
				_, err := pgstore.New(
					context.Background(),
					pool,
					&pgstore.Options{Schema: schema, CreateTables: true},
				)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
	}
}

func TestNew_CreateTablesNeedsTheRight(t *testing.T) {
	s := server(t)
	sql(t, s, "", `CREATE ROLE visitor LOGIN`)
	pool := newPool(t, servers.PostgresURL(s.Addr, "visitor", "postgres"))
	_, err := pgstore.New(
		t.Context(),
		pool,
		&pgstore.Options{Schema: newSchema(), CreateTables: true},
	)
	assert.ErrorContains(t, err, "create the tables (run what DDL returns as a role that may)")
	assert.ErrorContains(t, err, "permission denied")
}

// Names are quoted, and the statements of the README are what DDL returns.
func TestDDL(t *testing.T) {
	s := server(t)
	for _, schema := range []string{`a"b'c; DROP`, "MixedCase", "ß", "public"} {
		newStore(t, newPool(t, s.URL("postgres")), schema)
	}
	ddl, err := pgstore.DDL(nil)
	require.NoError(t, err)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	assert.Contains(t, string(readme), ddl)
}
