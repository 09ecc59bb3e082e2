// Package pgstore keeps tickets, and the log of revocations, in PostgreSQL 14 or later, for
// applications that run on more than one server. It is handed the pool that the application has.
//
// No ticket is accepted twice, whatever fails: tickets are in an UNLOGGED table, which is empty after
// a crash, a promotion or a restore, and each is good only while the server process that took it in
// runs, as the very row that was written (see the README for what that covers). A server that fails
// over or restarts therefore loses the tickets that are on their way, which live for 30 s anyway: the
// page mints another.
//
// What is in the tables opens no door and names nobody. A ticket is filed under its SHA-256, the grant
// is sealed under a key that only the ticket itself gives, and a revocation is the hash of a session's
// id or of a person's name.
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

// What Options are unless they say otherwise.
const (
	DefaultSchema          = "ticketgate"
	DefaultTimeout         = 500 * time.Millisecond
	DefaultKeepRevocations = 65 * time.Minute
)

// Options are the options of a Store; nil is the defaults.
type Options struct {
	// Schema has the tables "tickets" and "revocations". Stores with one schema in one database are
	// one store. Default: DefaultSchema, "ticketgate".
	Schema string
	// CreateTables has New make the schema and the tables where they are missing, which the role must
	// be allowed to. Default: they must be there; see DDL.
	CreateTables bool
	// Timeout is how long Put, Take and Append may take, with the wait for a connection, at least
	// 10 ms. Default: DefaultTimeout, 500 ms.
	Timeout time.Duration
	// KeepRevocations is how long a revocation is in the log for nodes that start, or were cut off.
	// It is to be more than the issuers' RememberRevocations. Default: DefaultKeepRevocations, 65 min.
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
	if len(c.Schema) > maxName {
		errs = append(errs, fmt.Errorf("option Schema has %d bytes, want at most %d", len(c.Schema), maxName))
	}
	if c.Timeout < minTimeout {
		errs = append(errs, fmt.Errorf("option Timeout is %v, want at least %v", c.Timeout, minTimeout))
	}
	if c.KeepRevocations < time.Millisecond {
		errs = append(errs, fmt.Errorf("option KeepRevocations is %v, want more than the issuers' RememberRevocations", c.KeepRevocations))
	}
	return c, errors.Join(errs...)
}

// Store is a tickets.Store and a tickets.RevocationLog. It is safe for concurrent use, runs no
// goroutine, needs no Close, and does not close the pool.
//
// It takes a connection of the pool for each Put, Take and Append. Next holds one while it waits, as
// long as no more than half of the pool's connections are in use.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	keep    time.Duration
	sql     statements
	// The statements that every ticket is are prepared: the pool does it too, and there is no pooler.
	prepared bool
	// The server, or the role, begins transactions at an isolation level above READ COMMITTED.
	isolated bool
	// Notifications reach the connection that listens.
	notified bool

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

// New returns a store over pool; nil options are the defaults. It does everything that the store will
// do once, and says what is wrong: a server that can't be reached, a standby, tables that are missing
// or of the wrong kind, and what the role must be granted. It waits for 10 s at most.
//
// Between the pool and the server may be a pooler such as PgBouncer, in any mode. New notices, and
// the store then does without prepared statements and without LISTEN, which do not go through one.
func New(ctx context.Context, pool *pgxpool.Pool, opts *Options) (*Store, error) {
	o, err := opts.withDefaults()
	if pool == nil {
		err = errors.Join(err, errors.New("pool is nil, want what pgxpool.New returns"))
	}
	if err != nil {
		return nil, fmt.Errorf("new postgres store: %w", err)
	}
	s := &Store{
		pool: pool, timeout: o.Timeout, keep: o.KeepRevocations, sql: statementsFor(o.Schema),
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.try(ctx, &o); err != nil {
		return nil, fmt.Errorf("new postgres store: %w", err)
	}
	return s, nil
}

// Put keeps g, sealed, under key for as long as it was to live when it was minted: this machine's
// clock does not matter. Every 64th Put also takes some rows out that have expired.
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

func (s *Store) put(ctx context.Context, conn *pgx.Conn, id, sealed []byte, lifetime time.Duration) error {
	micros := binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(lifetime.Microseconds()))
	row, err := s.exec(ctx, conn, s.sql.put, id, sealed, micros)
	if err == nil && row == nil {
		err = errors.New("the row was not written") // a trigger or a rule may have that effect
	}
	return err
}

// Take returns the grant under key to the first that asks. It is sent once: an answer that is lost
// or late is an error, and the ticket may be used then.
func (s *Store) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	id := key.ID()
	var sealed []byte
	err := s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var err error
		sealed, err = s.take(ctx, conn, id[:])
		// Above READ COMMITTED, whoever comes second to a row that another has changed is told so by
		// this code: most likely the ticket is used.
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

// take is one statement, or one transaction where its isolation level has to be set: under
// SERIALIZABLE, those who take different tickets would fail each other.
func (s *Store) take(ctx context.Context, conn *pgx.Conn, id []byte) (sealed []byte, err error) {
	if s.isolated {
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(pgx.Tx) error {
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

// exec sends one of the two statements that every ticket is, and returns the first column of the row,
// if there is one.
func (s *Store) exec(ctx context.Context, conn *pgx.Conn, sql string, params ...[]byte) ([]byte, error) {
	if !s.prepared {
		return firstColumn(conn.PgConn().ExecParams(ctx, sql, params, nil, binaryFormat, binaryFormat))
	}
	for again := false; ; again = true {
		statement, err := conn.Prepare(ctx, sql, sql) // once for every connection
		if err != nil {
			return nil, err
		}
		column, err := firstColumn(conn.PgConn().ExecStatement(ctx, statement, params, binaryFormat, binaryFormat))
		// Where an application says DISCARD ALL between its uses of a connection, the server has
		// forgotten the statement, and has done nothing.
		if again || !isCode(err, "26000") { // invalid_sql_statement_name
			return column, err
		}
		if err := conn.Deallocate(ctx, sql); err != nil {
			return nil, err
		}
	}
}

// Parameters and columns are in the binary format, which for bytea is the bytes: what pgx does for
// values of any type would cost half as much again.
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

// How all other statements are sent: in one round trip, whatever there is between us and the server.
const unprepared = pgx.QueryExecModeExec

// whyNot looks why there is no ticket. It admits nobody.
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

// One Put in so many also looks through so many pages of the table for rows that have expired: several
// times as many as can have been filled. There is no goroutine for it, and whoever mints then pays
// about as much as for another statement.
const (
	sweepEvery = 64
	sweepPages = 24
)

// sweep goes round the table as the hand of a clock does, and so has as much to do each time, however
// many rows there are and whatever else is going on. An index on the rows' ends would cost each Put
// more, and be full of what is deleted while another transaction stays open for hours.
type sweep struct {
	mu   sync.Mutex
	hand int64 // the page that comes next
}

func (w *sweep) run(ctx context.Context, s *Store, conn *pgx.Conn) error {
	if !w.mu.TryLock() {
		return nil
	}
	defer w.mu.Unlock()
	var pages int64
	// The pages stand in the text: a plan for any pages might read them all.
	sql := fmt.Sprintf(s.sql.sweep, w.hand, w.hand+sweepPages)
	err := conn.QueryRow(ctx, sql, unprepared, s.sql.schema+".tickets").Scan(&pages)
	if w.hand += sweepPages; w.hand >= pages {
		w.hand = 0
	}
	return err
}
