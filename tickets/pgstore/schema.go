package pgstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ticketgate/ticketgate/tickets"
)

// A name in PostgreSQL has 63 bytes; a longer one is cut without an error.
const maxName = 63

// DDL returns the statements that create the schema and the tables, for migrations. They leave
// alone what exists already.
func DDL(opts *Options) (string, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return "", fmt.Errorf("postgres store: %w", err)
	}
	return fill(ddl, o.Schema), nil
}

// Both tables remember the transaction that wrote a row: a row that was copied back from a dump or
// a replica was written by another. fillfactor leaves room for the row that a Take writes. Without
// vacuum_truncate, statements that are planned while the table is empty would read all of it later.
const ddl = `CREATE SCHEMA IF NOT EXISTS {schema};

-- UNLOGGED: empty after a crash, on a standby and in a backup. That is the point.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.tickets (
	ends   timestamptz NOT NULL,
	life   timestamptz NOT NULL DEFAULT pg_postmaster_start_time(),
	born   xid8        NOT NULL DEFAULT pg_current_xact_id(),
	used   boolean     NOT NULL DEFAULT false,
	id     bytea       PRIMARY KEY, -- SHA-256 of the ticket
	sealed bytea       NOT NULL     -- the grant, which only the ticket opens
) WITH (fillfactor = 70, vacuum_truncate = false);

CREATE TABLE IF NOT EXISTS {schema}.revocations (
	position bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	appended timestamptz NOT NULL DEFAULT statement_timestamp(),
	born     xid8        NOT NULL DEFAULT pg_current_xact_id(),
	at       timestamptz NOT NULL,
	session  bytea, -- SHA-256 of a session's id,
	person   bytea, -- or of a provider and a user id; neither: the log was opened
	reason   bytea       NOT NULL
);
`

type statements struct {
	schema                                            string // as SQL spells it
	put, take, whyNot, sweep                          string
	append, begin, read, trim, listen, unlisten, lock string
}

// The time is that of the server when it received the statement.
const (
	putSQL = `INSERT INTO {schema}.tickets (id, sealed, ends)
		VALUES ($1, $2, statement_timestamp() + $3::bigint * interval '1 microsecond')
		RETURNING used`

	// The row is the one that Put wrote, in the life of this server process.
	sameSQL = `life = pg_postmaster_start_time() AND xmin = born::xid`

	takeSQL = `UPDATE {schema}.tickets SET used = true
		WHERE id = $1 AND NOT used AND ends >= statement_timestamp() AND ` + sameSQL + `
		RETURNING sealed`

	whyNotSQL = `SELECT used, ends < statement_timestamp(), ` + sameSQL + `
		FROM {schema}.tickets WHERE id = $1`

	// An expired ticket is remembered for 5 s by the contract.
	sweepSQL = `WITH gone AS (
			DELETE FROM {schema}.tickets WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)'
				AND ends < statement_timestamp() - interval '6 seconds'
		)
		SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint`
)

func statementsFor(schema string) statements {
	f := func(sql string) string { return fill(sql, schema) }
	return statements{
		schema:   f("{schema}"),
		put:      f(putSQL),
		take:     f(takeSQL),
		whyNot:   f(whyNotSQL),
		sweep:    f(sweepSQL),
		append:   f(appendSQL),
		begin:    f(beginSQL),
		read:     f(readSQL),
		trim:     f(trimSQL),
		listen:   f("LISTEN {channel}"),
		unlisten: f("UNLISTEN {channel}"),
		lock:     f("SELECT pg_advisory_xact_lock({lock})"),
	}
}

// fill puts names and numbers in their places.
func fill(sql, schema string) string {
	// An advisory lock has only a number, and the name of a channel is global in the database.
	hash := sha256.Sum256([]byte("ticketgate revocations " + schema))
	return strings.NewReplacer(
		"{schema}", pgx.Identifier{schema}.Sanitize(),
		"{lock}", fmt.Sprint(int64(binary.BigEndian.Uint64(hash[:]))),
		"{channel}", fmt.Sprintf("ticketgate_%x", hash[:8]),
		"{page}", fmt.Sprint(page),
		"{trim}", fmt.Sprint(trimLimit),
		"{least}", fmt.Sprint(keepLeast),
	).Replace(sql)
}

// try checks that everything exists and is allowed, and then runs everything once.
func (s *Store) try(ctx context.Context, o *Options) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("no connection: %w", err)
	}
	defer conn.Release()
	server, err := s.look(ctx, conn.Conn(), o.Schema)
	if err == nil && o.CreateTables && server.missing() {
		if err := s.create(ctx, conn.Conn(), o.Schema); err != nil {
			return err
		}
		server, err = s.look(ctx, conn.Conn(), o.Schema)
	}
	if err != nil {
		return err
	}
	if err := server.check(s); err != nil {
		return err
	}
	// Poolers give a connection a process id of their own.
	direct := server.pid == conn.Conn().PgConn().PID()
	config := s.pool.Config().ConnConfig
	s.notified = direct && config.OnNotification == nil // else the application receives them
	s.isolated = server.isolation != "read committed" && server.isolation != "read uncommitted"
	caches := config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
	s.prepared = direct && !s.isolated && caches
	return s.rehearse(ctx, conn.Conn())
}

// server describes the server and the role.
type server struct {
	version             int
	standby, readOnly   bool
	isolation, role     string
	pid                 uint32
	usage               bool // of the schema
	tickets, revocation table
}

type table struct {
	name        string
	kind        string // "r" is a table; "" where there is none
	persistence string // "p" or "u"
	wants       []string
	lacks       string // of these privileges
}

func (v *server) missing() bool { return v.tickets.kind == "" || v.revocation.kind == "" }

// look needs no privilege, no version and no tables.
func (s *Store) look(ctx context.Context, conn *pgx.Conn, schema string) (server, error) {
	v := server{
		tickets:    table{name: "tickets", wants: []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
		revocation: table{name: "revocations", wants: []string{"SELECT", "INSERT", "DELETE"}},
	}
	err := conn.QueryRow(ctx, `SELECT
		current_setting('server_version_num')::int, pg_is_in_recovery(),
		current_setting('transaction_read_only') = 'on',
		current_setting('default_transaction_isolation'),
		current_user::text, pg_backend_pid(),
		coalesce((SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace
			WHERE nspname = $1), true)`,
		unprepared, schema,
	).Scan(&v.version, &v.standby, &v.readOnly, &v.isolation, &v.role, &v.pid, &v.usage)
	for _, t := range []*table{&v.tickets, &v.revocation} {
		if err != nil {
			break
		}
		err = conn.QueryRow(ctx, `SELECT
				c.relkind::text, c.relpersistence::text, array_to_string(ARRAY(
				SELECT p FROM unnest(string_to_array($3, ' ')) p
					WHERE NOT has_table_privilege(c.oid, p)), ', ')
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relname = $2`,
			unprepared, schema, t.name, strings.Join(t.wants, " "),
		).Scan(&t.kind, &t.persistence, &t.lacks)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
	}
	if err != nil {
		return v, fmt.Errorf("look at the server: %w", err)
	}
	return v, nil
}

// check returns everything that is wrong, and what would be right.
func (v *server) check(s *Store) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	role := pgx.Identifier{v.role}.Sanitize()
	if v.version < 140000 {
		wrong("the server is version %d.%d, want 14 or later", v.version/10000, v.version%10000)
	}
	switch {
	case v.standby:
		wrong("the server is a standby: connect to the primary, with target_session_attrs=primary")
	case v.readOnly:
		wrong("transactions are read-only: "+
			"want default_transaction_read_only = off for the role %s", role)
	}
	if !v.usage {
		wrong("the role %s may not use the schema: GRANT USAGE ON SCHEMA %s TO %s",
			role, s.sql.schema, role)
	}
	for _, t := range []table{v.tickets, v.revocation} {
		name := s.sql.schema + "." + t.name
		switch {
		case t.kind == "":
			wrong("there is no table %s: run what DDL returns, or set Options.CreateTables", name)
			continue
		case t.kind != "r":
			wrong("%s is no ordinary table (relkind %s), want what DDL makes", name, t.kind)
		case t.name == "tickets" && t.persistence != "u":
			// https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-UNLOGGED
			wrong("%s is not UNLOGGED, so that tickets would be valid again after a failover: "+
				"ALTER TABLE %s SET UNLOGGED", name, name)
		case t.name == "revocations" && t.persistence != "p":
			wrong("%s is not LOGGED, so that revocations would be lost in a crash: "+
				"ALTER TABLE %s SET LOGGED", name, name)
		}
		if t.lacks != "" {
			wrong("the role %s may not %s: GRANT %s ON %s TO %s",
				role, t.lacks, strings.Join(t.wants, ", "), name, role)
		}
	}
	return errors.Join(errs...)
}

// create makes the tables. Several nodes may start at once, and IF NOT EXISTS is no lock.
func (s *Store) create(ctx context.Context, conn *pgx.Conn, schema string) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.sql.lock, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fill(ddl, schema), pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		return fmt.Errorf("create the tables (run what DDL returns as a role that may): %w", err)
	}
	return nil
}

// rehearse puts a ticket and takes it twice, sweeps, and opens the log. This finds what look does
// not: a policy, a trigger, a missing column, a function that may not be called.
func (s *Store) rehearse(ctx context.Context, conn *pgx.Conn) error {
	var secret [32]byte
	rand.Read(secret[:])
	key := tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:])).Key()
	id := key.ID()
	fail := func(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
	if err := s.put(ctx, conn, id[:], key.Seal(tickets.Grant{}), time.Minute); err != nil {
		return fail("put a ticket to try", err)
	}
	sealed, err := s.take(ctx, conn, id[:])
	if err == nil {
		_, err = key.Open(sealed)
	}
	if err != nil {
		return fail("take a ticket to try", err)
	}
	if _, err := s.take(ctx, conn, id[:]); !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("take a ticket again to try: %v, want no rows", err)
	}
	if err := s.whyNot(ctx, conn, id[:], nil); !errors.Is(err, tickets.ErrUsed) {
		return fmt.Errorf("look at a used ticket to try: %v, want %q", err, tickets.ErrUsed)
	}
	if err := s.sweep.run(ctx, s, conn); err != nil {
		return fail("sweep to try", err)
	}
	if err := s.append(ctx, conn, tickets.Revocation{At: time.Now()}); err != nil {
		return fail("open the log", err)
	}
	if err := s.trim(ctx, conn); err != nil {
		return fail("trim the log to try", err)
	}
	if _, _, err := s.read(ctx, conn, ""); err != nil {
		return fail("read the log to try", err)
	}
	return nil
}

// isCode reports whether err is the server's, with this SQLSTATE.
func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}
