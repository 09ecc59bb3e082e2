package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
)

// with runs f on a connection of the pool. The wait for a connection and f together take at most
// the store's timeout. The caller's context ends the wait, but not f: whether a statement was
// executed is a fact, and a query that is cancelled costs the pool its connection
// (https://github.com/jackc/pgx/issues/2425).
func (s *Store) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	deadline := time.Now().Add(s.timeout)
	wait, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		if wait.Err() != nil {
			err = wait.Err()
		}
		return fmt.Errorf("no connection: %w", err)
	}
	defer conn.Release()
	return s.run(ctx, deadline, conn, f)
}

// on runs f on a connection that the caller has, for at most the store's timeout.
func (s *Store) on(
	ctx context.Context, conn *pgxpool.Conn, f func(context.Context, *pgx.Conn) error,
) error {
	return s.run(ctx, time.Now().Add(s.timeout), conn, f)
}

func (s *Store) run(
	ctx context.Context, deadline time.Time, conn *pgxpool.Conn,
	f func(context.Context, *pgx.Conn) error,
) error {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	err := f(ctx, conn.Conn())
	if ctx.Err() != nil && err != nil && !errors.Is(err, tickets.ErrInvalid) { // which is an answer
		err = fmt.Errorf("no answer within %v: %w (%v)", s.timeout, context.DeadlineExceeded, err)
	}
	return err
}
