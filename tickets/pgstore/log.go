package pgstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	heartbeat = 800 * time.Millisecond // the contract says 1 s, and an answer takes its time
	pollEvery = 25 * time.Millisecond  // without LISTEN
	page      = 1000                   // rows that are read at once
	trimEvery = 64                     // appends
	trimLimit = 1000
	keepLeast = 1000 // rows that stay however old they are, because cursors are at them
)

const (
	// Rows become visible in the order of their positions: the lock is taken before the position
	// (FROM is evaluated before the selected list) and held until the commit is visible. So a
	// cursor is a position, and a transaction that is open for hours delays nothing. It is one
	// statement, and so one message: no client can disappear while it holds the lock.
	//
	// The commit is durable before it is visible, whatever the role or the database are set to.
	appendSQL = `INSERT INTO {schema}.revocations (at, session, person, reason)
		SELECT $1::timestamptz, $2::bytea, $3::bytea, $4::bytea
		FROM pg_advisory_xact_lock({lock}),
			set_config('synchronous_commit', CASE current_setting('synchronous_commit')
				WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
			pg_notify('{channel}', '')`

	// The result does not depend on settings of the session (DateStyle, bytea_output).
	//
	// The proof of a row is the server process, and the transaction that first wrote the row if it
	// also wrote what is there now. After a restart, promotion, restore or copy it is another.
	readSQL = `SELECT position,
			concat((extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, '-',
				CASE WHEN xmin = born::xid THEN born END),
			(extract(epoch FROM at) * 1000000)::bigint,
			coalesce(encode(session, 'hex'), ''), coalesce(encode(person, 'hex'), ''),
			encode(reason, 'hex')
		FROM {schema}.revocations WHERE position >= $1 ORDER BY position LIMIT {page}`

	// Rows older than KeepRevocations that a trim has left must not be in force again.
	beginSQL = `SELECT coalesce(
			(SELECT min(position) FROM {schema}.revocations
				WHERE appended >= statement_timestamp() - $1 * interval '1 microsecond'),
			(SELECT max(position) FROM {schema}.revocations), 0)`

	trimSQL = `DELETE FROM {schema}.revocations WHERE position IN (
			SELECT position FROM (
				SELECT position, appended FROM {schema}.revocations ORDER BY position LIMIT {trim}
			) oldest
			WHERE appended < statement_timestamp() - $1 * interval '1 microsecond'
				AND position <= (SELECT max(position) FROM {schema}.revocations) - {least})`
)

// KeepsRevocations returns Options.KeepRevocations, for the issuer to check.
func (s *Store) KeepsRevocations() time.Duration { return s.keep }

// Append adds r at the end of the log, and returns when it is on disk. Every 64th Append deletes
// what is older than Options.KeepRevocations.
func (s *Store) Append(ctx context.Context, r tickets.Revocation) error {
	r, err := r.Hashed()
	if err != nil {
		return fmt.Errorf("postgres store: append: %w", err)
	}
	err = s.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := s.append(ctx, conn, r); err != nil {
			return err
		}
		if s.appends.Add(1)%trimEvery == 0 {
			s.trim(ctx, conn) // an error does not matter: r is in the log
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("postgres store: append: %w", err)
	}
	return nil
}

func (s *Store) append(ctx context.Context, conn *pgx.Conn, r tickets.Revocation) error {
	_, err := conn.Exec(ctx, s.sql.append, unprepared,
		r.At, hashOrNull(r.SessionHash), hashOrNull(r.UserHash), []byte(r.Reason))
	return err
}

func (s *Store) trim(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, s.sql.trim, unprepared, s.keep.Microseconds())
	return err
}

func hashOrNull(h [sha256.Size]byte) []byte {
	if h == [sha256.Size]byte{} {
		return nil
	}
	return h[:]
}

// Next returns what was appended after the cursor, or waits for it. The error is tickets.ErrGap if
// the row of the cursor has changed, or the server process is another one, which may have less than
// was read.
func (s *Store) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	rs, next, err := s.next(ctx, after)
	if err != nil {
		return nil, "", fmt.Errorf("postgres store: next: %w", err)
	}
	return rs, next, nil
}

func (s *Store) next(
	ctx context.Context, after string,
) (rs []tickets.Revocation, next string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	read := func(ctx context.Context, conn *pgx.Conn) error {
		rs, next, err = s.read(ctx, conn, after)
		return err
	}
	err = s.with(ctx, read)
	if err != nil || after == "" || next != after {
		return rs, next, err
	}
	end := time.Now().Add(heartbeat)
	conn := s.listen(ctx)
	if conn != nil {
		defer s.unlisten(ctx, conn)
	}
	for {
		if conn == nil {
			sleep(ctx, min(pollEvery, time.Until(end)))
			err = s.with(ctx, read)
		} else {
			// Read first: what was appended before the LISTEN has sent no notification.
			err = s.on(ctx, conn, read)
		}
		if err != nil || next != after || !time.Now().Before(end) {
			return rs, next, err
		}
		if conn != nil {
			wait, cancel := context.WithDeadline(ctx, end)
			conn.Conn().WaitForNotification(wait) // the next read finds a lost connection
			cancel()
		}
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
	}
}

// read returns everything after the cursor, page by page.
func (s *Store) read(
	ctx context.Context, conn *pgx.Conn, after string,
) (rs []tickets.Revocation, next string, err error) {
	var from int64
	if after != "" {
		position, _, _ := strings.Cut(after, "-")
		if from, err = strconv.ParseInt(position, 10, 64); err != nil {
			return nil, "", tickets.ErrGap // not a cursor of this log
		}
	} else {
		begin := conn.QueryRow(ctx, s.sql.begin, unprepared, s.keep.Microseconds())
		if err := begin.Scan(&from); err != nil {
			return nil, "", err
		}
	}
	next = after
	for {
		n, err := s.readPage(ctx, conn, &from, &next, &rs)
		switch {
		case err != nil:
			return nil, "", err
		case n == page:
			continue
		case n > 0:
			return rs, next, nil
		case next != "":
			return nil, "", tickets.ErrGap
		}
		// The log is empty, and a cursor has to be at a row.
		if err := s.append(ctx, conn, tickets.Revocation{At: time.Now()}); err != nil {
			return nil, "", err
		}
	}
}

// readPage appends the rows of one page to rs, moves from and next behind them, and returns how
// many rows it read. A page begins with the last row of the page before, as a proof that nothing is
// lost.
func (s *Store) readPage(
	ctx context.Context, conn *pgx.Conn, from *int64, next *string, rs *[]tickets.Revocation,
) (n int, err error) {
	rows, err := conn.Query(ctx, s.sql.read, unprepared, *from)
	if err != nil {
		return 0, err
	}
	var position, at int64
	var proof, session, person, reason string
	columns := []any{&position, &proof, &at, &session, &person, &reason}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		cursor := fmt.Sprint(position, "-", proof)
		if n++; n == 1 && *next != "" {
			if cursor != *next {
				return tickets.ErrGap
			}
			return nil
		}
		*next, *from = cursor, position
		r, err := revocationOf(at, session, person, reason)
		if session+person != "" { // else it is the row for an opened log
			*rs = append(*rs, r)
		}
		return err
	})
	return n, err
}

func revocationOf(micros int64, session, person, reason string) (r tickets.Revocation, err error) {
	_, err1 := hex.Decode(r.SessionHash[:], []byte(session)[:min(len(session), 2*sha256.Size)])
	_, err2 := hex.Decode(r.UserHash[:], []byte(person)[:min(len(person), 2*sha256.Size)])
	text, err3 := hex.DecodeString(reason)
	r.At, r.Reason = time.UnixMicro(micros).UTC(), string(text)
	return r, errors.Join(err1, err2, err3)
}

// listen returns a connection that is notified of appended rows, or nil if none can be spared:
// waiting readers must not keep the pool from Put and Take.
func (s *Store) listen(ctx context.Context) *pgxpool.Conn {
	if !s.notified {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		return nil
	}
	stat := s.pool.Stat()
	spare := stat.AcquiredConns() <= stat.MaxConns()/2
	if spare && s.on(ctx, conn, s.simple(s.sql.listen)) == nil {
		return conn
	}
	conn.Release()
	return nil
}

// simple returns a function that executes a statement without a result.
func (s *Store) simple(sql string) func(context.Context, *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
}

// unlisten releases the connection as it was.
func (s *Store) unlisten(ctx context.Context, conn *pgxpool.Conn) {
	defer conn.Release()
	if err := s.on(ctx, conn, s.simple(s.sql.unlisten)); err != nil {
		// Close it: it still listens, or is broken. The pool opens another.
		closed, cancel := context.WithCancel(context.Background())
		cancel()
		conn.Conn().Close(closed)
		return
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	for { // drop the notifications that are left
		if _, err := conn.Conn().WaitForNotification(over); err != nil {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
