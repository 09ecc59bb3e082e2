package redisstore_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

var ctx = context.Background() // the store bounds its own waiting

func TestMain(m *testing.M) {
	// Tests skip by themselves. An example can't.
	if _, err := servers.Find("redis-server", "redis-server"); err != nil && os.Getenv("CI") == "" {
		fmt.Println("examples are skipped:", err)
		flag.Parse()
		flag.Set("test.skip", "^Example")
	}
	// A client of go-redis that could not dial sleeps for a second before it finds that it was
	// closed.
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	)
}

// newRedis starts a server of its own for the test.
func newRedis(t testing.TB, args ...string) *servers.Redis {
	t.Helper()
	r, err := servers.NewRedis(t.TempDir(), args...)
	t.Cleanup(r.Close)
	servers.Skip(t, err)
	return r
}

func newProxy(t testing.TB, target string) *servers.Proxy {
	t.Helper()
	p, err := servers.NewProxy(target)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// newClient returns a client with go-redis's defaults, which are what most have.
func newClient(t testing.TB, addr string, options ...func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: addr}
	for _, option := range options {
		option(o)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { client.Close() })
	return client
}

// Longer than any machine is busy.
const patience = 20 * time.Second

// patient are options of a store for a busy machine.
var patient = &redisstore.Options{Timeout: patience}

// newStore returns a store. A short Timeout in opts may be too short for New on a busy machine:
// then it tries again. Without a Timeout the store is patient.
func newStore(
	t testing.TB, client redis.UniversalClient, opts *redisstore.Options,
) *redisstore.Store {
	t.Helper()
	o := *patient
	if opts != nil {
		o = *opts
		o.Timeout = cmp.Or(o.Timeout, patience)
	}
	store, err := redisstore.New(ctx, client, &o)
	for began := time.Now(); err != nil && time.Since(began) < patience; {
		store, err = redisstore.New(ctx, client, &o)
	}
	require.NoError(t, err)
	return store
}

// newTicket returns one that no store knows, and a grant that lives for a minute.
func newTicket() (tickets.Ticket, tickets.Grant) {
	var secret [32]byte
	rand.Read(secret[:])
	now := time.Now()
	return tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:])),
		tickets.Grant{
			SessionID: "s1",
			Provider:  "oidc",
			UserID:    "u1",
			MintedAt:  now,
			ExpiresAt: now.Add(time.Minute),
		}
}

// put puts a fresh ticket and returns its key.
func put(t testing.TB, s tickets.Store) tickets.Key {
	t.Helper()
	ticket, g := newTicket()
	require.NoError(t, s.Put(ctx, ticket.Key(), g))
	return ticket.Key()
}

func take(s tickets.Store, key tickets.Key) error {
	_, err := s.Take(ctx, key)
	return err
}

// requireFailed asserts that the store failed: an answer that is neither yes nor no.
func requireFailed(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.False(t, errors.Is(err, tickets.ErrInvalid), "%v", err)
}
