package pgstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// through returns a store whose pool goes through a proxy.
func through(
	t *testing.T,
	conns int32,
	timeout time.Duration,
) (*pgstore.Store, *servers.Proxy, *pgxpool.Pool) {
	t.Helper()
	s := server(t)
	proxy, err := servers.NewProxy(s.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	pool := newPool(
		t,
		servers.PostgresURL(proxy.Addr(), "postgres", "postgres"),
		maxConns(conns),
		parameter("application_name", t.Name()),
	)
	t.Cleanup(proxy.Pass) // first, so that the pool can be closed
	return newStoreWith(
		t,
		pool,
		&pgstore.Options{Schema: newSchema(), Timeout: timeout},
	), proxy, pool
}

// backends returns how many connections the server has of this test.
func backends(t *testing.T) int {
	n, err := strconv.Atoi(
		sql(
			t,
			server(t),
			"",
			fmt.Sprintf(
				"SELECT count(*) FROM pg_stat_activity WHERE application_name = '%s'",
				t.Name(),
			),
		),
	)
	require.NoError(t, err)
	return n
}

// The ticket was taken and the answer is lost: for the audit the store has failed, and the ticket
// is never accepted. Nothing is sent twice.
func TestTake_LostReplyIsAnError(t *testing.T) {
	store, proxy, _ := through(t, 1, patience)
	for range 5 {
		key := put(t, store)
		require.ErrorIs(
			t,
			take(store, newTicket().Key()),
			tickets.ErrUnknown,
		) // the connection is new
		proxy.LoseReplies(1)
		err := take(store, key)
		require.Error(t, err)
		require.NotErrorIs(t, err, tickets.ErrInvalid)
		require.ErrorIs(t, take(store, key), tickets.ErrUsed)

		key = newTicket().Key()
		proxy.LoseReplies(1)
		require.Error(t, store.Put(t.Context(), key, grant(time.Minute)))
	}
}

// A black hole: every call ends within the timeout, what piles up is bounded, and the first success
// is within a second of the return.
func TestStore_BlackHole(t *testing.T) {
	const conns, callers = 8, 100
	store, proxy, pool := through(t, conns, 2*time.Second)
	var keys []tickets.Key
	for range callers {
		keys = append(keys, put(t, store))
	}
	_, cursor := reasons(t, store, "")
	before := runtime.NumGoroutine()
	proxy.Stall()
	for range 3 {
		var wg sync.WaitGroup
		for n := range callers {
			wg.Go(func() {
				began := time.Now()
				var err error
				switch n % 3 {
				case 0:
					err = take(store, keys[n])
				case 1:
					err = store.Put(context.Background(), newTicket().Key(), grant(time.Minute))
				case 2:
					_, _, err = store.Next(context.Background(), cursor)
				}
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.NotErrorIs(t, err, tickets.ErrInvalid)
				assert.Less(t, time.Since(began), patience)
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, pool.Stat().TotalConns(), int32(conns))
		assert.LessOrEqual(t, runtime.NumGoroutine(), before+20*conns, "goroutines")
	}
	proxy.Pass()
	back := time.Now()
	for take(store, newTicket().Key()) == nil || store.Put(context.Background(), newTicket().Key(),
		grant(time.Minute)) != nil {
		require.Less(t, time.Since(back), patience)
	}
	t.Logf("the first success came %v after the return", time.Since(back))
	assert.Less(t, time.Since(back), 10*time.Second) // pgx closes lost connections after 15 s
	require.Eventually(
		t,
		func() bool { return backends(t) <= conns },
		patience,
		10*time.Millisecond,
	)
	for _, key := range keys {
		// Those that were asked for meanwhile may be used; none is good twice.
		if take(store, key) == nil {
			require.ErrorIs(t, take(store, key), tickets.ErrUsed)
		}
	}
}

// A server that is slow is waited for; one that is slower than the timeout is not.
func TestTake_SlowServer(t *testing.T) {
	store, proxy, _ := through(t, 2, 4*time.Second)
	key := put(t, store)
	proxy.Delay(100 * time.Millisecond)
	require.NoError(t, take(store, key))
	proxy.Delay(8 * time.Second)
	began := time.Now()
	require.ErrorIs(t, take(store, newTicket().Key()), context.DeadlineExceeded)
	assert.Less(t, time.Since(began), patience)
	proxy.Delay(0)
}

// Clients that go away must not cost the pool its connections: a query that is cancelled closes its
// own, and the next caller opens another (https://github.com/jackc/pgx/issues/2425).
func TestStore_CancelledCallersCostNoConnections(t *testing.T) {
	const conns = 4
	store, _, pool := through(t, conns, patience)
	made := pool.Stat().NewConnsCount()
	var wg sync.WaitGroup
	most := 0
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			default:
				most = max(most, backends(t))
			}
		}
	}()
	for range 32 {
		wg.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(
					context.Background(),
					time.Duration(rand.Int64N(int64(3*time.Millisecond))),
				)
				key := newTicket().Key()
				if store.Put(ctx, key, grant(time.Minute)) == nil {
					store.Take(ctx, key)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	close(stop)
	<-watched
	assert.LessOrEqual(t, most, conns)
	assert.LessOrEqual(t, pool.Stat().NewConnsCount()-made, int64(conns))
	require.NoError(t, take(store, put(t, store)))
}

func TestPut_ContextIsDone(t *testing.T) {
	store, _, pool := through(t, 1, patience)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, store.Put(ctx, newTicket().Key(), grant(time.Minute)), context.Canceled)
}

// Every connection is in use elsewhere: the answer is no, within the timeout.
func TestStore_PoolExhausted(t *testing.T) {
	store, _, pool := through(t, 2, time.Second)
	key := put(t, store)
	_, cursor := reasons(t, store, "")
	var held []*pgxpool.Conn
	for range 2 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	began := time.Now()
	assert.ErrorContains(t, take(store, key), "no connection")
	assert.ErrorIs(
		t,
		store.Put(t.Context(), newTicket().Key(), grant(time.Minute)),
		context.DeadlineExceeded,
	)
	assert.Error(t, store.Append(t.Context(), revocation("x")))
	_, _, err := store.Next(t.Context(), cursor)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), patience)
	for _, conn := range held {
		conn.Release()
	}
	assert.NoError(t, take(store, key), "it was not touched")
}

// Somebody locks the table (a migration, a VACUUM FULL): no, within the timeout, and the backends
// that wait for it do not add up.
func TestTake_LockedTable(t *testing.T) {
	s := server(t)
	pool := newPool(t, s.URL("postgres"), maxConns(3), parameter("application_name", t.Name()))
	schema := newSchema()
	store := newStoreWith(t, pool, &pgstore.Options{Schema: schema, Timeout: time.Second})
	key := put(t, store)
	other, err := newPool(t, s.URL("postgres")).Begin(t.Context())
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), fmt.Sprintf("LOCK TABLE %q.tickets", schema))
	require.NoError(t, err)
	for range 4 {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() { assert.Error(t, take(store, key)) })
		}
		wg.Wait()
		assert.LessOrEqual(t, backends(t), 3)
	}
	require.NoError(t, other.Rollback(t.Context()))
	require.Eventually(
		t,
		func() bool { return take(store, put(t, store)) == nil },
		patience,
		time.Millisecond,
	)
}

// The server ends our connections (an administrator does, SQLSTATE 57P01) or takes no more of them
// (53300): no, and then as before.
func TestStore_ConnectionsEndedByTheServer(t *testing.T) {
	store, _, pool := through(t, 4, patience)
	for range 5 {
		key := put(t, store)
		sql(
			t,
			server(t),
			"",
			fmt.Sprintf(
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
					"WHERE application_name = '%s'",
				t.Name(),
			),
		)
		if err := take(store, key); err != nil {
			require.NotErrorIs(t, err, tickets.ErrInvalid)
		}
		require.Eventually(
			t,
			func() bool {
				return take(store, newTicket().Key()) != nil && take(store,
					put(t, store)) == nil
			},
			patience,
			time.Millisecond,
		)
	}
	sql(t, server(t), "", "ALTER DATABASE postgres CONNECTION LIMIT 0; CREATE ROLE limited LOGIN")
	defer sql(t, server(t), "", "ALTER DATABASE postgres CONNECTION LIMIT -1; DROP ROLE limited")
	_, err := pgstore.New(
		t.Context(),
		newPool(t, servers.PostgresURL(server(t).Addr, "limited", "postgres")),
		nil,
	)
	assert.ErrorContains(t, err, "SQLSTATE 53300")
	_ = pool
}
