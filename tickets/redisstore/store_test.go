package redisstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

func TestStore_Contract(t *testing.T) {
	client := newClient(t, newRedis(t).Addr)
	newNode := func() (tickets.Store, error) { return redisstore.New(ctx, client, patient) }
	t.Run("alone", func(t *testing.T) { storetest.Run(t, newNode) })
	t.Run("shared", func(t *testing.T) { storetest.RunShared(t, newNode) })
}

// RESP 2, what a proxy or an old server speaks, and a client inside something else.
func TestStore_ContractOfOtherClients(t *testing.T) {
	addr := newRedis(t).Addr
	for name, client := range map[string]redis.UniversalClient{
		"RESP 2":  newClient(t, addr, func(o *redis.Options) { o.Protocol = 2 }),
		"wrapped": struct{ redis.UniversalClient }{newClient(t, addr)},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t, client, &redisstore.Options{Prefix: name})
			key := put(t, store)
			require.NoError(t, take(store, key))
			require.ErrorIs(t, take(store, key), tickets.ErrUsed)
			require.NoError(
				t,
				store.Append(ctx, tickets.Revocation{SessionID: "s1", Reason: "logout"}),
			)
			rs, cursor, err := store.Next(ctx, "")
			require.NoError(t, err)
			require.Len(t, rs, 1)
			rs, _, err = store.Next(ctx, cursor)
			require.NoError(t, err)
			require.Empty(t, rs)
		})
	}
}

// The contents of Redis, byte by byte, have no secret and no name.
func TestStore_HoldsNoSecretsAndNoNames(t *testing.T) {
	r := newRedis(t, "--rdbcompression", "no")
	store := newStore(t, newClient(t, r.Addr), nil)
	canaries := []string{
		"session-canary",
		"provider-canary",
		"user-canary",
		"data-canary",
		"/endpoint-canary",
	}
	for used := range 2 {
		ticket, g := newTicket()
		canaries = append(canaries, string(ticket))
		g.SessionID, g.Provider, g.UserID, g.Data, g.Endpoint = canaries[0], canaries[1],
			canaries[2], canaries[3], canaries[4]
		require.NoError(t, store.Put(ctx, ticket.Key(), g))
		if used == 1 {
			require.NoError(t, take(store, ticket.Key()))
		}
	}
	require.NoError(
		t,
		store.Append(ctx, tickets.Revocation{SessionID: canaries[0], Reason: "logout"}),
	)
	require.NoError(
		t,
		store.Append(
			ctx,
			tickets.Revocation{Provider: canaries[1], UserID: canaries[2], Reason: "banned"},
		),
	)

	keys, err := r.Do("KEYS", "*")
	require.NoError(t, err)
	require.Len(t, keys, 4) // one more ticket is New's own, used up
	for _, key := range keys.([]any) {
		assert.Regexp(t, `^ticketgate:(ticket:[0-9a-f]{64}|revocations)$`, key)
	}
	_, err = r.Do("SAVE")
	require.NoError(t, err)
	dir, err := r.Do("CONFIG", "GET", "dir")
	require.NoError(t, err)
	dump, err := os.ReadFile(filepath.Join(dir.([]any)[1].(string), "dump.rdb"))
	require.NoError(t, err)
	require.Contains(t, string(dump), "banned") // what is there in the clear is found this way
	for _, canary := range canaries {
		assert.False(t, bytes.Contains(dump, []byte(canary)), "%q is in Redis", canary)
	}
}

func TestStore_KeysHaveThePrefix(t *testing.T) {
	r := newRedis(t)
	client := newClient(t, r.Addr)
	one, other := newStore(
		t,
		client,
		&redisstore.Options{Prefix: "{one}"},
	), newStore(
		t,
		client,
		nil,
	)
	key := put(t, one)
	require.ErrorIs(t, take(other, key), tickets.ErrUnknown)
	require.NoError(t, take(one, key))
	require.Equal(t, int64(1), client.Exists(ctx, "{one}revocations").Val())
	require.Equal(t, int64(1), client.Exists(ctx, "{one}ticket:"+key.String()).Val())
}

// At maxmemory, outstanding tickets are still valid.
func TestPut_OutOfMemoryIsErrFull(t *testing.T) {
	r := newRedis(t)
	store := newStore(t, newClient(t, r.Addr), nil)
	key := put(t, store)
	_, err := r.Do("CONFIG", "SET", "maxmemory", "1")
	require.NoError(t, err)
	for range 2 { // with the mark known, and not
		ticket, g := newTicket()
		err = store.Put(ctx, ticket.Key(), g)
		require.ErrorIs(t, err, tickets.ErrFull)
		require.NotErrorIs(t, err, tickets.ErrInvalid)
	}
	require.NoError(t, take(store, key))
	require.ErrorIs(t, take(store, key), tickets.ErrUsed)
	require.Error(t, store.Append(ctx, tickets.Revocation{SessionID: "s1"}))
}

func TestStore_ForeignValuesAreRefused(t *testing.T) {
	client := newClient(t, newRedis(t).Addr)
	store := newStore(t, client, nil)
	ticket, g := newTicket()
	key := "ticketgate:ticket:" + ticket.Key().String()
	require.NoError(t, client.LPush(ctx, key, "x").Err())
	requireFailed(t, take(store, ticket.Key()))
	require.Error(t, store.Put(ctx, ticket.Key(), g))

	// What somebody wrote by hand is no ticket, and neither is one that was moved to another's key.
	for _, value := range []string{"", "x", "used", strings.Repeat("0", 80)} {
		require.NoError(t, client.Set(ctx, key, value, time.Minute).Err())
		require.ErrorIs(t, take(store, ticket.Key()), tickets.ErrInvalid, "%q", value)
	}
	other := put(t, store)
	require.NoError(t, client.Copy(ctx, "ticketgate:ticket:"+other.String(), key, 0, true).Err())
	requireFailed(t, take(store, ticket.Key()))

	require.NoError(t, client.Set(ctx, "ticketgate:revocations", "x", 0).Err())
	_, _, err := store.Next(ctx, "")
	require.ErrorContains(t, err, "WRONGTYPE")
	require.Error(t, store.Append(ctx, tickets.Revocation{SessionID: "s1"}))
}

func TestPut_ZeroKeyIsAnError(t *testing.T) {
	store := newStore(t, newClient(t, newRedis(t).Addr), nil)
	require.Error(t, store.Put(ctx, tickets.Key{}, tickets.Grant{}))
	require.ErrorIs(t, take(store, tickets.Key{}), tickets.ErrUnknown)
}

// A server that has lost its scripts, as after a restart, is sent them again.
func TestTake_AfterScriptFlush(t *testing.T) {
	r := newRedis(t)
	store := newStore(t, newClient(t, r.Addr), nil)
	for range 3 {
		key := put(t, store)
		_, err := r.Do("SCRIPT", "FLUSH")
		require.NoError(t, err)
		require.NoError(t, take(store, key))
		require.ErrorIs(t, take(store, key), tickets.ErrUsed)
	}
}

// A ticket that is put with an old mark is refused, and never accepted twice.
func TestTake_MarkOutOfDate(t *testing.T) {
	r := newRedis(t, "--enable-debug-command", "yes")
	one, other := newStore(t, newClient(t, r.Addr), nil), newStore(t, newClient(t, r.Addr), nil)
	for range 20 {
		put(t, one)
	}
	before := put(t, one)
	_, err := r.Do("DEBUG", "CHANGE-REPL-ID") // what a promotion does
	require.NoError(t, err)
	after := put(t, one) // within 100 ms or not
	require.ErrorIs(t, take(other, before), tickets.ErrUnknown)
	if err := take(other, after); err != nil {
		require.ErrorIs(t, err, tickets.ErrUnknown)
	}
	require.Error(t, take(other, after))
	require.ErrorIs(
		t,
		take(one, before),
		tickets.ErrUnknown,
	) // from now on it does not trust its own
	require.NoError(t, take(other, put(t, one)))
	require.NoError(t, take(one, put(t, other)))
}

func TestStore_AfterFlushAll(t *testing.T) {
	r := newRedis(t)
	store := newStore(t, newClient(t, r.Addr), nil)
	_, cursor, err := store.Next(ctx, "")
	require.NoError(t, err)
	key := put(t, store)
	_, err = r.Do("FLUSHALL")
	require.NoError(t, err)
	require.ErrorIs(t, take(store, key), tickets.ErrUnknown)
	_, _, err = store.Next(ctx, cursor)
	require.ErrorIs(t, err, tickets.ErrGap)
	_, cursor, err = store.Next(ctx, "")
	require.NoError(t, err)
	_, _, err = store.Next(ctx, cursor)
	require.NoError(t, err)
}

func TestNew_RefusesBadOptions(t *testing.T) {
	_, err := redisstore.New(ctx, nil, &redisstore.Options{Timeout: -1, KeepRevocations: -1})
	for _, want := range []string{
		"client is nil", "Timeout is -1ns, want at least 10ms", "KeepRevocations is -1ns",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = redisstore.New(ctx, (*redis.Client)(nil), nil)
	require.ErrorContains(t, err, "client is nil")
	_, err = redisstore.New(ctx, (*redis.ClusterClient)(nil), nil)
	require.ErrorContains(t, err, "client is nil")
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	_, err = redisstore.New(ctx, ring, nil)
	require.ErrorContains(t, err, "*redis.Ring")
}

// A replica takes no ticket, and New says so.
func TestNew_RefusesAReplica(t *testing.T) {
	primary, replica := newRedis(t), newRedis(t)
	require.NoError(t, replica.Follow(primary.Addr))
	require.NoError(t, replica.CatchUp(primary))
	_, err := redisstore.New(ctx, newClient(t, replica.Addr), patient)
	require.ErrorContains(t, err, "READONLY")
	require.ErrorContains(t, err, "want a client of the primary")
}

func TestNew_UnreachableServer(t *testing.T) {
	r := newRedis(t)
	r.Kill()
	_, err := redisstore.New(ctx, newClient(t, r.Addr), patient)
	require.ErrorContains(t, err, "connection refused")
}

// The user's own client is as it was.
func TestNew_LeavesTheClientAlone(t *testing.T) {
	client := newClient(t, newRedis(t).Addr)
	before := *client.Options()
	newStore(t, client, nil)
	after := client.Options()
	require.Equal(t, before.ContextTimeoutEnabled, after.ContextTimeoutEnabled)
	require.Equal(t, before.ReadTimeout, after.ReadTimeout)
	require.Equal(t, before.MaxRetries, after.MaxRetries)
}

func TestStore_ContextIsDone(t *testing.T) {
	store := newStore(t, newClient(t, newRedis(t).Addr), nil)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	ticket, g := newTicket()
	require.ErrorIs(t, store.Put(gone, ticket.Key(), g), context.Canceled)
	_, err := store.Take(gone, ticket.Key())
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, store.Append(gone, tickets.Revocation{SessionID: "s1"}), context.Canceled)
	_, _, err = store.Next(gone, "")
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, errors.Is(take(store, ticket.Key()), tickets.ErrUnknown))
}
