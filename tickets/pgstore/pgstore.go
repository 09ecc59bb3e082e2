// Package pgstore keeps tickets and the revocation log in PostgreSQL 14 or later, for applications
// on more than one server. It uses the pool that the application has.
//
// No ticket is accepted twice, whatever fails: tickets are in an UNLOGGED table, which is empty
// after a crash, a promotion or a restore, and each is valid only while the server process that
// stored it runs, and only as the row that was written (see the README). So a failover or a restart
// loses the outstanding tickets, which live for 30 s: the page mints another.
//
// The contents of the tables cannot be used to open a socket, and have no names. The key of a
// ticket is its SHA-256, the grant is sealed under a key that only the ticket gives, and a
// revocation is the hash of a session's id or of a user.
package pgstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
)

// The defaults of Options.
const (
	DefaultSchema          = "ticketgate"
	DefaultTimeout         = 500 * time.Millisecond
	DefaultKeepRevocations = 65 * time.Minute
)

// Options are the options of a Store; nil is the defaults.
type Options struct {
	// Schema has the tables "tickets" and "revocations". Stores with the same schema in one
	// database are one store. Default: DefaultSchema, "ticketgate".
	Schema string
	// CreateTables makes New create the schema and the tables if they are missing, which the role
	// must be allowed to do. Default: they must exist; see DDL.
	CreateTables bool
	// Timeout is how long Put, Take and Append may take, including the wait for a connection: at
	// least 10 ms. Default: DefaultTimeout, 500 ms.
	Timeout time.Duration
	// KeepRevocations is how long a revocation stays in the log for nodes that start or were cut
	// off: more than the issuers' RememberRevocations. Default: DefaultKeepRevocations, 65 min.
	KeepRevocations time.Duration
}

const minTimeout = 10 * time.Millisecond

// withDefaults returns a copy, and everything that is wrong with it.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Schema == "" {
		c.Schema = DefaultSchema
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.KeepRevocations == 0 {
		c.KeepRevocations = DefaultKeepRevocations
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Schema) > maxName {
		wrong("Schema has %d bytes, want at most %d", len(c.Schema), maxName)
	}
	if c.Timeout < minTimeout {
		wrong("Timeout is %v, want at least %v", c.Timeout, minTimeout)
	}
	if c.KeepRevocations < time.Millisecond {
		wrong("KeepRevocations is %v, want more than the issuers' RememberRevocations",
			c.KeepRevocations)
	}
	return c, errors.Join(errs...)
}

// Store is a tickets.Store and a tickets.RevocationLog. It is safe for concurrent use, runs no
// goroutine, needs no Close, and does not close the pool.
//
// It takes a connection of the pool for each Put, Take and Append. Next holds one while it waits,
// as long as no more than half of the pool's connections are in use.
type Store struct {
	pool     *pgxpool.Pool
	timeout  time.Duration
	keep     time.Duration
	sql      statements
	prepared bool // put and take are prepared: the pool prepares statements, and there is no pooler
	isolated bool // transactions begin at an isolation level above READ COMMITTED
	notified bool // notifications reach the connection that listens

	puts, appends atomic.Uint64
	sweep         sweep
}

var (
	_ tickets.Store         = (*Store)(nil)
	_ tickets.RevocationLog = (*Store)(nil)
)

var (
	errKnown   = errors.New("the key was put before")
	errNoKey   = errors.New("the key is of no ticket")
	errForeign = fmt.Errorf("%w: the server has restarted since it was put", tickets.ErrUnknown)
)

// New returns a store over pool; nil options are the defaults. It tries everything that the store
// needs. The error says what is wrong: a server that cannot be reached, a standby, tables that are
// missing or of the wrong kind, and what to grant to the role. It waits for at most 10 s.
//
// Between the pool and the server may be a pooler such as PgBouncer, in any mode. New notices it,
// and the store then uses neither prepared statements nor LISTEN, which do not work through one.
func New(ctx context.Context, pool *pgxpool.Pool, opts *Options) (*Store, error) {
	o, err := opts.withDefaults()
	if pool == nil {
		err = errors.Join(err, errors.New("pool is nil, want what pgxpool.New returns"))
	}
	if err != nil {
		return nil, fmt.Errorf("pgstore.New: %w", err)
	}
	s := &Store{
		pool: pool, timeout: o.Timeout, keep: o.KeepRevocations, sql: statementsFor(o.Schema),
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.try(ctx, &o); err != nil {
		return nil, fmt.Errorf("pgstore.New: %w", err)
	}
	return s, nil
}

// Put keeps g, sealed, under key for g.ExpiresAt.Sub(g.MintedAt): this machine's clock does not
// matter. Every 64th Put also deletes some rows that have expired.
func (s *Store) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	sealed := key.Seal(g)
	if sealed == nil {
		return fmt.Errorf("postgres store: put: %w", errNoKey)
	}
	lifetime := g.ExpiresAt.Sub(g.MintedAt)
	if g.MintedAt.IsZero() {
		lifetime = time.Until(g.ExpiresAt)
	}
	id := key.ID()
	err := s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := s.put(ctx, conn, id[:], sealed, lifetime)
		if err == nil && s.puts.Add(1)%sweepEvery == 0 {
			s.sweep.run(ctx, s, conn)
		}
		return err
	})
	switch {
	case isCode(err, "23505"): // unique_violation
		return fmt.Errorf("postgres store: put: %w", errKnown)
	case err != nil:
		return fmt.Errorf("postgres store: put: %w", err)
	}
	return nil
}

func (s *Store) put(
	ctx context.Context, conn *pgx.Conn, id, sealed []byte, lifetime time.Duration,
) error {
	micros := binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(lifetime.Microseconds()))
	row, err := s.exec(ctx, conn, s.sql.put, id, sealed, micros)
	if err == nil && row == nil {
		err = errors.New("the row was not written") // a trigger or a rule may have that effect
	}
	return err
}

// Take returns the grant under key to the first caller. It is sent once: a lost or late answer is
// an error, and the ticket may be used then.
func (s *Store) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	id := key.ID()
	var sealed []byte
	err := s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var err error
		sealed, err = s.take(ctx, conn, id[:])
		// Above READ COMMITTED, the second transaction to change a row fails with this code: most
		// likely the ticket is used.
		if errors.Is(err, pgx.ErrNoRows) || isCode(err, "40001") { // serialization_failure
			err = s.whyNot(ctx, conn, id[:], err)
		}
		return err
	})
	if errors.Is(err, tickets.ErrInvalid) {
		return tickets.Grant{}, err
	}
	if err != nil {
		return tickets.Grant{}, fmt.Errorf("postgres store: take: %w", err)
	}
	// Only a row that came back is a ticket, and only the ticket itself opens it.
	g, err := key.Open(sealed)
	if err != nil {
		return tickets.Grant{}, fmt.Errorf("postgres store: take: %w", err)
	}
	return g, nil
}

// take is one statement, or one transaction if its isolation level has to be set: under
// SERIALIZABLE, transactions that take different tickets would make each other fail.
func (s *Store) take(ctx context.Context, conn *pgx.Conn, id []byte) (sealed []byte, err error) {
	if s.isolated {
		options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
		err = pgx.BeginTxFunc(ctx, conn, options, func(pgx.Tx) error {
			sealed, err = s.exec(ctx, conn, s.sql.take, id)
			return err
		})
	} else {
		sealed, err = s.exec(ctx, conn, s.sql.take, id)
	}
	if err == nil && sealed == nil {
		err = pgx.ErrNoRows
	}
	return sealed, err
}

// exec sends put or take, and returns the first column of the row, if there is one.
func (s *Store) exec(
	ctx context.Context, conn *pgx.Conn, sql string, params ...[]byte,
) ([]byte, error) {
	pg := conn.PgConn()
	if !s.prepared {
		return firstColumn(pg.ExecParams(ctx, sql, params, nil, binaryFormat, binaryFormat))
	}
	for again := false; ; again = true {
		statement, err := conn.Prepare(ctx, sql, sql) // once for every connection
		if err != nil {
			return nil, err
		}
		column, err := firstColumn(
			pg.ExecStatement(ctx, statement, params, binaryFormat, binaryFormat))
		// If an application sends DISCARD ALL between two uses of a connection, the server has
		// dropped the statement, and has executed nothing.
		if again || !isCode(err, "26000") { // invalid_sql_statement_name
			return column, err
		}
		if err := conn.Deallocate(ctx, sql); err != nil {
			return nil, err
		}
	}
}

// firstColumn reads a reply in the binary format, which for bytea is the bytes themselves. The
// conversions of pgx for values of any type would take half as much time again.
func firstColumn(reply *pgconn.ResultReader) (column []byte, err error) {
	if reply.NextRow() {
		column = bytes.Clone(reply.Values()[0])
	}
	if _, err := reply.Close(); err != nil {
		return nil, err
	}
	return column, nil
}

var binaryFormat = []int16{1}

// All other statements are sent in this mode: one round trip, with or without a pooler.
const unprepared = pgx.QueryExecModeExec

// whyNot returns why a ticket could not be taken. It never returns nil.
func (s *Store) whyNot(ctx context.Context, conn *pgx.Conn, id []byte, cause error) error {
	var used, expired, same bool
	err := conn.QueryRow(ctx, s.sql.whyNot, unprepared, id).Scan(&used, &expired, &same)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return tickets.ErrUnknown
	case err != nil:
		return err
	case used:
		return tickets.ErrUsed
	case expired:
		return tickets.ErrExpired
	case !same:
		return errForeign
	}
	return fmt.Errorf("the ticket could not be taken: %v", cause)
}

// One Put in sweepEvery also looks through sweepPages pages of the table for expired rows: several
// times as many as these Puts can have filled. It takes about as long as another statement, and
// needs no goroutine.
const (
	sweepEvery = 64
	sweepPages = 24
)

// sweep goes round the table page by page, so each run takes the same time, however many rows there
// are. An index on the end of a ticket would cost each Put more, and would fill with deleted rows
// while another transaction stays open for hours.
type sweep struct {
	mu   sync.Mutex
	next int64 // the next page
}

func (w *sweep) run(ctx context.Context, s *Store, conn *pgx.Conn) error {
	if !w.mu.TryLock() {
		return nil
	}
	defer w.mu.Unlock()
	var pages int64
	// The pages are part of the text: a plan for any pages might read them all.
	sql := fmt.Sprintf(s.sql.sweep, w.next, w.next+sweepPages)
	err := conn.QueryRow(ctx, sql, unprepared, s.sql.schema+".tickets").Scan(&pages)
	if w.next += sweepPages; w.next >= pages {
		w.next = 0
	}
	return err
}
