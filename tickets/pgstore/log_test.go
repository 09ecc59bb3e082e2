package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

func revocation(id string) tickets.Revocation {
	return tickets.Revocation{SessionHash: tickets.HashSession(id), Reason: id, At: time.Now()}
}

// reasons calls Next once, and returns the reasons and the cursor.
func reasons(t testing.TB, s *pgstore.Store, after string) ([]string, string) {
	t.Helper()
	rs, next, err := s.Next(t.Context(), after)
	require.NoError(t, err)
	var received []string
	for _, r := range rs {
		received = append(received, r.Reason)
	}
	return received, next
}

// What happens to the table while a cursor is in it, and whether Next may continue.
func TestNext_Gaps(t *testing.T) {
	s := server(t)
	for name, row := range map[string]struct {
		sql string
		gap bool
	}{
		"nothing":       {"SELECT 1", false},
		"emptied":       {"TRUNCATE {s}.revocations", true},
		"deleted":       {"DELETE FROM {s}.revocations", true},
		"numbered anew": {"TRUNCATE {s}.revocations RESTART IDENTITY; " + filler(100), true},
		"restored": {
			"CREATE TABLE {s}.dump AS TABLE {s}.revocations; TRUNCATE {s}.revocations; " +
				"INSERT INTO {s}.revocations OVERRIDING SYSTEM VALUE TABLE {s}.dump", true,
		},
		"the end is missing": {
			"DELETE FROM {s}.revocations WHERE position = " +
				"(SELECT max(position) FROM {s}.revocations)", true,
		},
		"vacuumed": {"SELECT 1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			schema := newSchema()
			store := newStore(t, newPool(t, s.URL("postgres")), schema)
			require.NoError(t, store.Append(t.Context(), revocation("a")))
			received, cursor := reasons(t, store, "")
			require.Equal(t, []string{"a"}, received)
			sql(t, s, schema, row.sql)
			if name == "vacuumed" {
				sql(t, s, schema, "VACUUM (FULL, FREEZE) {s}.revocations")
			}
			require.NoError(t, store.Append(t.Context(), revocation("b")))
			rs, _, err := store.Next(t.Context(), cursor)
			if row.gap {
				require.ErrorIs(t, err, tickets.ErrGap)
				assert.Empty(t, rs)
			} else {
				require.NoError(t, err)
				require.Len(t, rs, 1)
			}
			received, _ = reasons(t, store, "")
			assert.Contains(t, received, "b")
		})
	}
}

func filler(n int) string {
	return fmt.Sprintf(
		"INSERT INTO {s}.revocations (at, reason) SELECT now(), '' FROM generate_series(1, %d)",
		n,
	)
}

// Also where the log was empty: a cursor is always at a row.
func TestNext_GapOfAnEmptyLog(t *testing.T) {
	s := server(t)
	schema := newSchema()
	store := newStore(t, newPool(t, s.URL("postgres")), schema)
	sql(t, s, schema, "TRUNCATE {s}.revocations")
	received, cursor := reasons(t, store, "")
	require.Empty(t, received)
	require.NoError(t, store.Append(t.Context(), revocation("lost")))
	sql(t, s, schema, "TRUNCATE {s}.revocations")
	_, _, err := store.Next(t.Context(), cursor)
	require.ErrorIs(t, err, tickets.ErrGap)
}

// A restart may have been a restore, so it is a gap.
func TestNext_RestartIsAGap(t *testing.T) {
	server(t)
	s, err := servers.NewPostgres(t.TempDir())
	require.NoError(t, err)
	defer s.Close()
	pool := newPool(t, s.URL("postgres"))
	store := newStore(t, pool, newSchema())
	require.NoError(t, store.Append(t.Context(), revocation("a")))
	_, cursor := reasons(t, store, "")
	s.Shutdown()
	require.NoError(t, s.Start())
	pool.Reset()
	_, _, err = store.Next(t.Context(), cursor)
	require.ErrorIs(t, err, tickets.ErrGap)
	received, _ := reasons(t, store, "")
	assert.Equal(t, []string{"a"}, received)
}

// Transactions that stay open, with a lower number than any revocation, delay nothing; and no
// cursor passes over a revocation whose commit takes long.
func TestNext_LongTransactions(t *testing.T) {
	s := server(t)
	schema := newSchema()
	pool := newPool(t, s.URL("postgres"), maxConns(8))
	store := newStore(t, pool, schema)
	_, cursor := reasons(t, store, "")
	old, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer old.Rollback(context.Background())
	_, err = old.Exec(
		t.Context(),
		"CREATE TEMP TABLE held (n int); SELECT pg_current_xact_id()",
		pgx.QueryExecModeSimpleProtocol,
	)
	require.NoError(t, err)
	var received []string
	for n := range 20 {
		require.NoError(t, store.Append(t.Context(), revocation(fmt.Sprint(n))))
		var got []string
		got, cursor = reasons(t, store, cursor)
		received = append(received, got...)
	}
	assert.Len(t, received, 20)
	// An append that is held between its row and its commit: by a trigger at the commit.
	sql(t, s, schema, `CREATE FUNCTION {s}.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF new.reason = 'slow' THEN PERFORM pg_sleep(0.3); END IF; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON {s}.revocations DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION {s}.hold()`)
	slow := make(chan error, 1)
	go func() { slow <- store.Append(context.Background(), revocation("slow")) }()
	require.Eventually(t, func() bool {
		return sql(
			t,
			s,
			"",
			"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
		) == "1"
	}, patience, time.Millisecond)
	require.NoError(t, store.Append(t.Context(), revocation("quick")))
	last, cursor := reasons(t, store, cursor) // at once: here an entry could be passed over
	require.NoError(t, <-slow)
	if len(last) < 2 {
		got, _ := reasons(t, store, cursor)
		last = append(last, got...)
	}
	assert.Equal(t, []string{"slow", "quick"}, last)
}

// Entries older than KeepRevocations are deleted, except the newest, because cursors are at them.
func TestLog_Trim(t *testing.T) {
	s := server(t)
	schema := newSchema()
	pool := newPool(t, s.URL("postgres"))
	store := newStore(t, pool, schema)
	_, cursor := reasons(t, store, "")
	sql(t, s, schema, filler(1900)+aged)
	again, err := pgstore.New(
		t.Context(),
		pool,
		&pgstore.Options{Schema: schema, Timeout: patience},
	)
	require.NoError(t, err)
	_, _, err = again.Next(t.Context(), cursor)
	require.ErrorIs(t, err, tickets.ErrGap, "its place has been trimmed")
	left := sql(t, s, schema, "SELECT count(*) FROM {s}.revocations")
	assert.Equal(t, "1000", left)
	received, _ := reasons(t, again, "")
	assert.Empty(t, received)

	// Append deletes them too.
	sql(t, s, schema, filler(900)+aged)
	for n := range 64 {
		require.NoError(t, again.Append(t.Context(), revocation(fmt.Sprint(n))))
	}
	assert.Equal(t, "1000", sql(t, s, schema, "SELECT count(*) FROM {s}.revocations"))
}

const aged = "; UPDATE {s}.revocations SET appended = now() - interval '66 minutes'"

// Waiting takes one connection, and gives it back as it was. Where readers would take more than
// half of the pool's, they look now and then instead.
func TestNext_WaitingTakesOneConnection(t *testing.T) {
	s := server(t)
	schema := newSchema()
	pool := newPool(t, s.URL("postgres"), maxConns(4))
	store := newStore(t, pool, schema)
	_, cursor := reasons(t, store, "")
	ctx, cancel := context.WithCancel(t.Context())
	const readers = 12
	ended := make(chan error, readers)
	for range readers {
		go func() {
			cursor := cursor
			for ctx.Err() == nil {
				var err error
				if _, cursor, err = store.Next(ctx, cursor); err != nil && ctx.Err() == nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	for range 300 {
		require.NoError(t, take(store, put(t, store)))
		assert.LessOrEqual(t, pool.Stat().AcquiredConns(), int32(4))
	}
	cancel()
	began := time.Now()
	for range readers {
		require.NoError(t, <-ended)
	}
	assert.Less(t, time.Since(began), patience)
	assert.LessOrEqual(
		t,
		pool.Stat().NewConnsCount(),
		int64(4),
		"a wait that ended has cost a connection",
	)
	for range 4 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		var listening int
		require.NoError(
			t,
			conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_listening_channels()").
				Scan(&listening),
		)
		assert.Zero(t, listening)
	}
	assert.Zero(t, sessionSettings(t, pool, "synchronous_commit"))
}

// A revocation is on disk when Append returns, whatever the settings of the role.
func TestAppend_IsDurable(t *testing.T) {
	server(t)
	s, err := servers.NewPostgres(
		t.TempDir(),
		"fsync=on",
		"synchronous_commit=off",
		"wal_writer_delay=10s",
	)
	require.NoError(t, err)
	defer s.Close()
	schema := newSchema()
	pool := newPool(t, s.URL("postgres"))
	store := newStore(t, pool, schema)
	sql(t, s, schema, "CREATE TABLE {s}.other (n int)")
	for n := range 3 {
		sql(t, s, schema, "CHECKPOINT")
		reason := fmt.Sprint("crash ", n)
		require.NoError(t, store.Append(t.Context(), revocation(reason)))
		_, err := pool.Exec(
			t.Context(),
			fmt.Sprintf(`INSERT INTO %q.other VALUES (1)`, schema),
		) // as the role settles for
		require.NoError(t, err)
		s.Crash()
		require.NoError(t, s.Start())
		pool.Reset()
		var received []string
		require.Eventually(t, func() bool {
			rs, _, err := store.Next(t.Context(), "")
			for _, r := range rs {
				received = append(received, r.Reason)
			}
			return err == nil
		}, patience, 10*time.Millisecond)
		assert.Contains(t, received, reason)
	}
	assert.Equal(
		t,
		"0",
		sql(t, s, schema, "SELECT count(*) FROM {s}.other"),
		"the crash loses what is not made durable",
	)
}

func TestNext_ContextIsDone(t *testing.T) {
	store := newStore(t, newPool(t, server(t).URL("postgres")), newSchema())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := store.Next(ctx, "")
	assert.True(t, errors.Is(err, context.Canceled), err)
}

func TestAppend_OfNobodyIsRefused(t *testing.T) {
	store := newStore(t, newPool(t, server(t).URL("postgres")), newSchema())
	both := tickets.Revocation{SessionID: "s1", UserID: "u1"}
	for _, r := range []tickets.Revocation{{Reason: "nobody"}, both} {
		require.ErrorContains(t, store.Append(t.Context(), r), "exactly one session or user")
	}
	received, _ := reasons(t, store, "")
	require.Empty(t, received)
}
