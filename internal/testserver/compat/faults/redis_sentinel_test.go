package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

// A sentinel, not the test, finds the primary dead, and go-redis finds the new one.
func TestRedisSentinel(t *testing.T) {
	silenceRedis()
	a, b := newRedis(t), newRedis(t)
	require.NoError(t, b.Follow(a.Addr))
	require.NoError(t, b.CatchUp(a))
	sentinel, err := servers.NewSentinel(t.TempDir(), a)
	t.Cleanup(sentinel.Close)
	servers.Skip(t, err)
	require.NoError(t, sentinel.Await(20*time.Second, func() error {
		replicas, err := sentinel.Do("SENTINEL", "REPLICAS", servers.SentinelMaster)
		if list, _ := replicas.([]any); err == nil && len(list) != 1 {
			return fmt.Errorf("the sentinel knows %d replicas, want 1", len(list))
		}
		return err
	}))
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: servers.SentinelMaster, SentinelAddrs: []string{sentinel.Addr},
	})
	t.Cleanup(func() { client.Close() })
	store, err := redisstore.New(context.Background(), client, nil)
	require.NoError(t, err)
	issuer, err := tickets.NewIssuer(store, nil)
	require.NoError(t, err)
	t.Cleanup(func() { issuer.Close() })
	gaps := make(chan error, 10)
	issuer.OnGap(func(err error) { gaps <- err })

	h := newHistory()
	node := h.node(store)
	h.load(300, node)
	h.stock(50, node)
	require.NoError(t, b.CatchUp(a))
	require.NoError(
		t,
		issuer.Revoke(
			context.Background(),
			tickets.Revocation{SessionID: "revoked", Reason: "logout"},
		),
	)
	a.Kill()
	back := h.accepted
	require.Eventually(t, func() bool {
		h.load(20, node)
		return h.accepted > back
	}, 60*time.Second, 10*time.Millisecond)
	h.replay(node)
	t.Log(h.end(t))

	select {
	case err := <-gaps:
		require.ErrorIs(t, err, tickets.ErrGap)
	case <-time.After(20 * time.Second):
		require.Fail(t, "the issuer has not noticed")
	}
	require.Eventually(
		t,
		func() bool { return issuer.Health() == nil },
		20*time.Second,
		10*time.Millisecond,
	)
	// Had the replica lagged, this would be all that the others can know of it.
	rs, _, err := store.Next(context.Background(), "")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(rs), 1)
	for _, r := range rs {
		require.Equal(t, tickets.HashSession("revoked"), r.SessionHash)
	}
}
