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

// go-redis sends a command again whose answer was lost, unless told otherwise. The ticket is used by
// then: the audit must hear that the store failed, and not that somebody replayed a ticket.
func TestLostReply(t *testing.T) {
	r := newRedis(t)
	proxy := newProxy(t, r.Addr)
	store := newStore(t, newClient(t, proxy.Addr(), func(o *redis.Options) { o.MaxRetries = 3 }), nil)
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

func TestSlowServer(t *testing.T) {
	r := newRedis(t)
	proxy := newProxy(t, r.Addr)
	store := newStore(t, newClient(t, proxy.Addr()), nil)
	proxy.Delay(100 * time.Millisecond)
	require.NoError(t, take(store, put(t, store)))
}

// blackHoles are what becomes of packets, and of the connections that they belonged to.
var blackHoles = map[string]func(*servers.Proxy){
	"held up": (*servers.Proxy).Stall,
	"lost":    (*servers.Proxy).SwallowReplies,
}

// A client waits as long as its ReadTimeout for a server that does not answer, and its connections are
// all in use until then. The store does not wait for them: with its own Timeout all of this ends
// within limit, with the client's it does not.
func TestBlackHole(t *testing.T) {
	const callers, poolSize, limit = 100, 8, time.Minute
	r := newRedis(t)
	for name, begin := range blackHoles {
		t.Run(name, func(t *testing.T) {
			proxy := newProxy(t, r.Addr)
			client := newClient(t, proxy.Addr(), func(o *redis.Options) {
				o.PoolSize, o.ReadTimeout = poolSize, 2*limit
			})
			store := newStore(t, client, &redisstore.Options{Timeout: 200 * time.Millisecond})
			issuer, err := tickets.NewIssuer(store, nil)
			require.NoError(t, err)
			defer issuer.Close()
			require.Eventually(t, func() bool { return issuer.Health() == nil }, limit, time.Millisecond)

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
			assert.Less(t, time.Duration(slowest.Load()), limit)
			assert.LessOrEqual(t, goroutinesOfClients(), 10*poolSize)
			assert.LessOrEqual(t, client.PoolStats().TotalConns, uint32(poolSize))
			proxy.Pass()
			back := time.Now()
			require.Eventually(t, func() bool {
				ticket, g := newTicket()
				return store.Put(ctx, ticket.Key(), g) == nil
			}, limit, time.Millisecond)
			first := time.Since(back)
			require.Eventually(t, func() bool { return issuer.Health() == nil }, limit, time.Millisecond)
			t.Logf("the slowest call took %v, the first success came after %v, the log was read after %v",
				time.Duration(slowest.Load()), first, time.Since(back))
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
func TestDeadlines(t *testing.T) {
	const timeout = patient
	var longest atomic.Int64
	client := newClient(t, newRedis(t).Addr, func(o *redis.Options) {
		o.ReadTimeout, o.WriteTimeout = 6*timeout, 6*timeout
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

// deadlines notes how far away the farthest deadline was.
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

// Who finds no connection hears of it within the timeout, and queues up no longer.
func TestPoolExhausted(t *testing.T) {
	client := newClient(t, newRedis(t).Addr, func(o *redis.Options) { o.PoolSize = 1 })
	store := newStore(t, client, &redisstore.Options{Timeout: 50 * time.Millisecond})
	patient := newStore(t, client, nil)
	key := put(t, patient)
	hold := client.Conn() // the only one there is
	require.NoError(t, hold.Ping(ctx).Err())
	for range 3 {
		err := take(store, key)
		requireFailed(t, err)
		require.ErrorContains(t, err, "no answer within 50ms")
	}
	require.NoError(t, hold.Close())
	require.NoError(t, take(patient, key))
}

// A server that was killed and comes back, with what it had on disk, honours no ticket of before.
func TestRestart(t *testing.T) {
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
func TestWritableReplica(t *testing.T) {
	primary, replica := newRedis(t), newRedis(t, "--replica-read-only", "no")
	require.NoError(t, replica.Follow(primary.Addr))
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
