package redisstore_test

import (
	"context"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

// By default go-redis sends a command again if its answer was lost. The ticket is used by then: the
// audit must say that the store failed, and not that a ticket was replayed.
func TestTake_LostReplyIsAnError(t *testing.T) {
	r := newRedis(t)
	proxy := newProxy(t, r.Addr)
	store := newStore(
		t,
		newClient(t, proxy.Addr(), func(o *redis.Options) { o.MaxRetries = 3 }),
		nil,
	)
	direct := newStore(t, newClient(t, r.Addr), nil)
	for range 20 {
		key := put(t, store)
		proxy.LoseReplies(1)
		requireFailed(t, take(store, key))
		proxy.Pass()
		require.ErrorIs(t, take(direct, key), tickets.ErrUsed)
		require.ErrorIs(t, take(store, key), tickets.ErrUsed)
	}
	require.Equal(t, 20, proxy.Lost())

	// A Put whose answer was lost is an error: Mint gives no ticket out.
	ticket, g := newTicket()
	proxy.LoseReplies(1)
	require.Error(t, store.Put(ctx, ticket.Key(), g))
}

func TestTake_SlowServer(t *testing.T) {
	r := newRedis(t)
	proxy := newProxy(t, r.Addr)
	store := newStore(t, newClient(t, proxy.Addr()), nil)
	proxy.Delay(100 * time.Millisecond)
	require.NoError(t, take(store, put(t, store)))
}

// blackHoles are what happens to packets, and to their connections.
var blackHoles = map[string]func(*servers.Proxy){
	"held up": (*servers.Proxy).Stall,
	"lost":    (*servers.Proxy).SwallowReplies,
}

// With go-redis's defaults a client waits 3 s for a server that does not answer, and its
// connections are all in use until then.
func TestStore_BlackHole(t *testing.T) {
	const callers, poolSize, bound = 100, 8, 2500 * time.Millisecond
	r := newRedis(t)
	for name, begin := range blackHoles {
		t.Run(name, func(t *testing.T) {
			proxy := newProxy(t, r.Addr)
			client := newClient(t, proxy.Addr(), func(o *redis.Options) { o.PoolSize = poolSize })
			store := newStore(t, client, &redisstore.Options{Timeout: 200 * time.Millisecond})
			issuer, err := tickets.NewIssuer(store, nil)
			require.NoError(t, err)
			defer issuer.Close()
			require.Eventually(
				t,
				func() bool { return issuer.Health() == nil },
				10*time.Second,
				time.Millisecond,
			)

			quick := false
			for n := 0; n < 3 && !quick; n++ { // a busy machine is slow once, not always
				begin(proxy)
				var slowest atomic.Int64
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for range 3 {
							ticket, g := newTicket()
							start := time.Now()
							err := store.Put(ctx, ticket.Key(), g)
							slowest.Store(max(slowest.Load(), int64(time.Since(start))))
							assert.Error(t, err)
						}
					})
				}
				wg.Wait()
				assert.LessOrEqual(t, goroutinesOfClients(), 10*poolSize)
				assert.LessOrEqual(t, client.PoolStats().TotalConns, uint32(poolSize))
				proxy.Pass()
				back := time.Now()
				require.Eventually(t, func() bool {
					ticket, g := newTicket()
					return store.Put(ctx, ticket.Key(), g) == nil
				}, 20*time.Second, time.Millisecond)
				first := time.Since(back)
				require.Eventually(
					t,
					func() bool { return issuer.Health() == nil },
					20*time.Second,
					time.Millisecond,
				)
				received := time.Since(back)
				t.Logf(
					"slowest call: %v, first success after %v, log read after %v",
					time.Duration(slowest.Load()),
					first,
					received,
				)
				// The client's own timeout is 3 s, and it tries four times.
				quick = max(first, received) < bound && slowest.Load() < int64(bound)
			}
			assert.True(t, quick, "it took too long three times")
		})
	}
}

// goroutinesOfClients returns how many goroutines have go-redis in their stack.
func goroutinesOfClients() int {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "redis/go-redis") {
			n++
		}
	}
	return n
}

// Every wait for an answer ends with the store's timeout, and not with that of the client.
func TestStore_DeadlinesAreTheTimeout(t *testing.T) {
	const timeout = 2 * time.Second // less than the 3 s of the client
	var longest atomic.Int64
	client := newClient(t, newRedis(t).Addr, func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, addr)
			return deadlines{conn, &longest}, err
		}
	})
	store := newStore(t, client, &redisstore.Options{Timeout: timeout})
	longest.Store(0)
	key := put(t, store)
	require.NoError(t, take(store, key))
	require.NoError(t, store.Append(ctx, tickets.Revocation{SessionID: "s1"}))
	require.NotZero(t, longest.Load())
	require.LessOrEqual(t, time.Duration(longest.Load()), timeout)
}

// deadlines records the farthest deadline.
type deadlines struct {
	net.Conn
	longest *atomic.Int64
}

func (d deadlines) SetReadDeadline(t time.Time) error {
	d.longest.Store(max(d.longest.Load(), int64(time.Until(t))))
	return d.Conn.SetReadDeadline(t)
}

func (d deadlines) SetDeadline(t time.Time) error {
	d.longest.Store(max(d.longest.Load(), int64(time.Until(t))))
	return d.Conn.SetDeadline(t)
}

// A call that finds no connection fails within the timeout.
func TestStore_PoolExhausted(t *testing.T) {
	client := newClient(t, newRedis(t).Addr, func(o *redis.Options) { o.PoolSize = 1 })
	store := newStore(t, client, &redisstore.Options{Timeout: time.Second})
	key := put(t, store)
	hold := client.Conn() // the only one there is
	require.NoError(t, hold.Ping(ctx).Err())
	for range 3 {
		err := take(store, key)
		requireFailed(t, err)
		require.ErrorContains(t, err, "no answer within 1s")
	}
	require.NoError(t, hold.Close())
	require.NoError(t, take(store, key))
}

// A server that was killed and restarts with its files refuses all tickets of before.
func TestTake_RefusesTicketsOfBeforeARestart(t *testing.T) {
	r := newRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	store := newStore(t, newClient(t, r.Addr), nil)
	fresh, used := put(t, store), put(t, store)
	require.NoError(t, take(store, used))
	r.Kill()
	requireFailed(t, take(store, fresh))
	require.NoError(t, r.Start())
	require.Eventually(t, func() bool {
		ticket, g := newTicket()
		return store.Put(ctx, ticket.Key(), g) == nil
	}, 20*time.Second, time.Millisecond)
	require.ErrorIs(t, take(store, fresh), tickets.ErrUnknown)
	require.ErrorIs(t, take(store, used), tickets.ErrUsed)
	require.NoError(t, take(store, put(t, store)))
}

// A replica that takes writes has the primary's replication id, and not its run_id.
func TestTake_WritableReplicaRefuses(t *testing.T) {
	primary, replica := newRedis(t), newRedis(t, "--replica-read-only", "no")
	require.NoError(t, replica.Follow(primary.Addr))
	require.NoError(t, replica.CatchUp(primary)) // the first replica changes the replication id
	store := newStore(t, newClient(t, primary.Addr), nil)
	key := put(t, store)
	require.NoError(t, replica.CatchUp(primary))
	other := newStore(t, newClient(t, replica.Addr), nil)
	require.NoError(t, take(store, key))
	require.ErrorIs(t, take(other, key), tickets.ErrInvalid)

	key = put(t, store)
	require.NoError(t, replica.CatchUp(primary))
	require.ErrorIs(t, take(other, key), tickets.ErrUnknown)
	require.NoError(t, take(store, key))
}
