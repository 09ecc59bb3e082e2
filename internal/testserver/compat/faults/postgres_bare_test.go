package faults

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// What the store promises, a LOGGED table does not: the faults are real.
func TestPostgresFaultsAreReal(t *testing.T) {
	p := newStandby(t, func(t *testing.T, addr string) tickets.Store {
		pool := newPostgresPool(t, addr, "synchronous_commit=off")
		_, err := pool.Exec(
			context.Background(),
			"CREATE TABLE IF NOT EXISTS bare (id bytea PRIMARY KEY, sealed bytea)",
		)
		require.NoError(t, err)
		return logged{pool}
	})
	for _, fault := range postgresFaults {
		if !fault.bare {
			continue
		}
		// This may need several tries: an asynchronous commit may be on disk when the server dies.
		legal := true
		for try := 0; legal && try < 5; try++ {
			p.strike(fault)
			legal, _ = p.h.legal()
		}
		require.False(t, legal, "%s: nothing was accepted twice", fault.name)
	}
}

// logged is a store such as many have written.
type logged struct{ pool *pgxpool.Pool }

func (l logged) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	id := key.ID()
	_, err := l.pool.Exec(ctx, "INSERT INTO bare VALUES ($1, $2)", id[:], key.Seal(g))
	return err
}

func (l logged) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	id := key.ID()
	var sealed []byte
	err := l.pool.QueryRow(ctx, "DELETE FROM bare WHERE id = $1 RETURNING sealed", id[:]).
		Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return tickets.Grant{}, tickets.ErrUnknown
	}
	if err != nil {
		return tickets.Grant{}, err
	}
	return key.Open(sealed)
}

// The standby did not have a revocation when it took over: the node that made it publishes it
// again.
func TestPostgres_RevocationIsPublishedAgain(t *testing.T) {
	p := newStandby(t, openPostgres)
	p.follow()
	var issuers [2]*tickets.Issuer
	gaps := make(chan error, 10)
	for k, store := range p.stores {
		issuer, err := tickets.NewIssuer(store, nil)
		require.NoError(t, err)
		t.Cleanup(func() { issuer.Close() })
		issuer.OnGap(func(err error) { gaps <- err })
		issuers[k] = issuer
	}
	healthy := func() bool { return issuers[0].Health() == nil && issuers[1].Health() == nil }
	require.Eventually(t, healthy, 20*time.Second, 5*time.Millisecond)
	p.ok(p.replica.CatchUp(p.primary))
	p.link.Stall()
	p.east.Stall() // the other node does not receive it from the old primary
	logout := tickets.Revocation{SessionID: "s1", Reason: "logout"}
	require.Eventually(t, func() bool { // a busy machine may be slower than the store's Timeout
		return issuers[0].Revoke(context.Background(), logout) == nil
	}, 20*time.Second, 5*time.Millisecond)
	p.primary.Kill()
	p.promote()
	p.swap()
	p.settle()
	for range issuers {
		select {
		case err := <-gaps:
			require.ErrorIs(t, err, tickets.ErrGap)
		case <-time.After(20 * time.Second):
			require.Fail(t, "an issuer has not noticed the gap")
		}
	}
	require.Eventually(t, func() bool {
		return errors.Is(issuers[1].Revoked(tickets.Grant{SessionID: "s1"}), tickets.ErrRevoked) &&
			healthy()
	}, 20*time.Second, 5*time.Millisecond)
	last, err := p.primary.Do(
		"SELECT convert_from(reason, 'UTF8') FROM ticketgate.revocations ORDER BY position",
	)
	require.NoError(t, err)
	require.Equal(t, "logout", last, "what the new primary has last")
}

func TestPostgresProcesses(t *testing.T) {
	p := newPostgres(t)
	began := time.Now()
	raceProcesses(t, openPostgres(t, p.Addr), "postgres", p.Addr)
	require.Less(t, time.Since(began), lifetime) // else tickets have expired, and nothing is known
}

func newPostgresPool(t *testing.T, addr, settings string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(
		context.Background(),
		servers.PostgresURL(addr, "postgres", "postgres")+"&connect_timeout=2&"+settings,
	)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// openPostgres returns what a node has, under a role that does not wait for its commits.
func openPostgres(t *testing.T, addr string) tickets.Store {
	pool := newPostgresPool(t, addr, "synchronous_commit=off")
	store, err := pgstore.New(
		context.Background(),
		pool,
		&pgstore.Options{CreateTables: true, Timeout: 200 * time.Millisecond},
	)
	require.NoError(t, err)
	return store
}
