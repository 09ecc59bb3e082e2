package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

func openPostgres(ctx context.Context, url string) (shared, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return shared{}, fmt.Errorf("-postgres: %w", err)
	}
	store, err := pgstore.New(ctx, pool, &pgstore.Options{CreateTables: true})
	if err == nil {
		_, err = pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS ticketgate_demo_sessions `+
			`(id text PRIMARY KEY, session jsonb NOT NULL)`)
	}
	if err != nil {
		pool.Close()
		return shared{}, fmt.Errorf("-postgres: %w", err)
	}
	return shared{store, postgresSessions{pool}, pool.Close}, nil
}

type postgresSessions struct{ pool *pgxpool.Pool }

func (p postgresSessions) Put(ctx context.Context, s middleware.Session) error {
	_, err := p.pool.Exec(ctx, `INSERT INTO ticketgate_demo_sessions VALUES ($1, $2)`, s.ID, s)
	return err
}

func (p postgresSessions) Get(
	ctx context.Context, id string,
) (s middleware.Session, ok bool, err error) {
	const query = `SELECT session FROM ticketgate_demo_sessions WHERE id = $1`
	err = p.pool.QueryRow(ctx, query, id).Scan(&s)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, false, nil
	}
	return s, err == nil, err
}

func (p postgresSessions) Delete(ctx context.Context, id string) (bool, error) {
	done, err := p.pool.Exec(ctx, `DELETE FROM ticketgate_demo_sessions WHERE id = $1`, id)
	return done.RowsAffected() > 0, err
}

func (p postgresSessions) All(ctx context.Context) ([]middleware.Session, error) {
	rows, err := p.pool.Query(ctx, `SELECT session FROM ticketgate_demo_sessions`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[middleware.Session])
}
