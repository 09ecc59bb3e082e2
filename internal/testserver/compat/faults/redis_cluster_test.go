package faults

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// What the store needs, and what go-redis needs besides to find its way in a cluster.
const granted = "~ticketgate:* +eval +evalsha +info +get +set +pttl +del " +
	"+xadd +xrange +xrevrange +xtrim +xread" +
	" +cluster|slots"

func newCluster(t *testing.T) *servers.RedisCluster {
	t.Helper()
	silenceRedis()
	c, err := servers.NewRedisCluster(t.TempDir())
	t.Cleanup(c.Close)
	servers.Skip(t, err)
	return c
}

func openCluster(t *testing.T, c *servers.RedisCluster, prefix string) tickets.Store {
	t.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	t.Cleanup(func() { client.Close() })
	// Long, as a busy machine is slow, and no fault is being waited for.
	opts := &redisstore.Options{Prefix: prefix, Timeout: 10 * time.Second}
	store, err := redisstore.New(context.Background(), client, opts)
	require.NoError(t, err)
	return store
}

func TestRedisCluster(t *testing.T) {
	c := newCluster(t)
	t.Run("contract", func(t *testing.T) {
		newNode := func() (tickets.Store, error) { return openCluster(t, c, ""), nil }
		storetest.Run(t, newNode)
		storetest.RunShared(t, newNode)
	})
	t.Run("a slot moves", func(t *testing.T) { moveSlots(t, c) })
	t.Run("a slot begins to move", func(t *testing.T) { beginMove(t, c) })
	t.Run("a server that may not run INFO", func(t *testing.T) {
		for _, n := range c.Nodes { // any of them will do
			_, err := n.Do("ACL", "SETUSER", "default", "-info")
			require.NoError(t, err)
			client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
			_, err = redisstore.New(context.Background(), client, nil)
			require.ErrorContains(t, err, n.Addr)
			require.ErrorContains(t, err, "+info")
			client.Close()
			_, err = n.Do("ACL", "SETUSER", "default", "+info")
			require.NoError(t, err)
		}
	})
	t.Run("a user who may do what the README says", func(t *testing.T) {
		for _, n := range c.Nodes {
			_, err := n.Do(
				append(
					[]string{"ACL", "SETUSER", "app", "on", ">secret"},
					strings.Fields(granted)...)...)
			require.NoError(t, err)
		}
		client := redis.NewClusterClient(
			&redis.ClusterOptions{Addrs: c.Addrs(), Username: "app", Password: "secret"},
		)
		defer client.Close()
		store, err := redisstore.New(context.Background(), client, nil)
		require.NoError(t, err)
		h := newHistory()
		h.load(300, h.node(store))
		h.end(t)
		require.Zero(t, h.failed)
	})
	t.Run("a server is gone", func(t *testing.T) {
		for _, n := range c.Nodes { // the rest goes on with the slots that it has
			_, err := n.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
			require.NoError(t, err)
		}
		store := openCluster(t, c, "")
		c.Nodes[2].Kill()
		h := newHistory()
		h.load(300, h.node(store))
		h.end(t)
		require.NotZero(t, h.failed)
	})
}

// moveSlots moves the slot of all keys round the cluster, while nodes put and take. Moved tickets
// are refused, and new ones go where the slot goes.
func moveSlots(t *testing.T, c *servers.RedisCluster) {
	const prefix = "{moving}"
	one, other := openCluster(t, c, prefix), openCluster(t, c, prefix)
	log := one.(tickets.RevocationLog)
	_, cursor, err := log.Next(context.Background(), "")
	require.NoError(t, err)
	at, err := c.Owner(prefix)
	require.NoError(t, err)

	var all counts
	moves := max(8, cycles(t, 0)/20)
	for range moves {
		h := newHistory()
		nodes := []tickets.Store{h.node(one), h.node(other)}
		h.load(100, nodes...)
		h.stock(20, nodes[0])
		before := h.accepted
		var moved atomic.Bool
		done := make(chan error)
		go func() {
			to := (at + 1) % 3
			err := c.Move(prefix, at, to)
			at = to
			moved.Store(true)
			done <- err
		}()
		for !moved.Load() {
			h.load(50, nodes...)
		}
		require.NoError(t, <-done)
		h.load(150, nodes...)
		h.replay(nodes...)
		require.Greater(t, h.accepted, before, "nothing was accepted after the slot had moved")
		all.add(h.end(t))

		_, _, err := log.Next(context.Background(), cursor)
		require.ErrorIs(t, err, tickets.ErrGap)
		_, cursor, err = log.Next(context.Background(), "")
		require.NoError(t, err)
	}
	t.Logf("%d moves, %v, none twice", moves, all)
}

// beginMove puts tickets whose slot is about to move between others of the same server.
func beginMove(t *testing.T, c *servers.RedisCluster) {
	store := openCluster(t, c, "")
	ctx := context.Background()
	ticketOf := func(owner int) (tickets.Ticket, tickets.Grant, string) {
		for {
			ticket, g := newTicket()
			key := "ticketgate:ticket:" + ticket.Key().String()
			at, err := c.Owner(key)
			require.NoError(t, err)
			if at == owner {
				return ticket, g, key
			}
		}
	}
	for range 5 {
		moving, g, key := ticketOf(0)
		_, err := c.BeginMove(key, 0, 1)
		require.NoError(t, err)
		require.NoError(t, store.Put(ctx, moving.Key(), g)) // at the one where the slot goes
		staying, g, _ := ticketOf(0)
		require.NoError(t, store.Put(ctx, staying.Key(), g))
		for _, ticket := range []tickets.Ticket{moving, staying} {
			_, err = store.Take(ctx, ticket.Key())
			require.NoError(t, err)
			_, err = store.Take(ctx, ticket.Key())
			require.ErrorIs(t, err, tickets.ErrUsed)
		}
		require.NoError(t, c.Move(key, 0, 1))
	}
}
