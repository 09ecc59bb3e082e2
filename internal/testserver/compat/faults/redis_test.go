package faults

import (
	"context"
	"errors"
	"io"
	"log"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

// quietly drops the messages of go-redis about lost connections.
type quietly struct{ *log.Logger }

func (q quietly) Printf(
	_ context.Context,
	format string,
	v ...any,
) {
	q.Logger.Printf(format, v...)
}

func silenceRedis() { redis.SetLogger(quietly{log.New(io.Discard, "", 0)}) }

// pair is a Redis with a replica, and two nodes that each reach one of them through a proxy: the
// primary, unless a fault says otherwise.
type pair struct {
	t                *testing.T
	primary, replica *servers.Redis
	link             *servers.Proxy // from the replica to the primary
	west, east       *servers.Proxy // from the nodes
	stores           [2]tickets.Store
	h                *history
}

func newRedis(t *testing.T, args ...string) *servers.Redis {
	t.Helper()
	r, err := servers.NewRedis(t.TempDir(), args...)
	t.Cleanup(r.Close)
	servers.Skip(t, err)
	return r
}

func newProxy(t *testing.T, target string) *servers.Proxy {
	t.Helper()
	p, err := servers.NewProxy(target)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func newPair(t *testing.T, open func(*testing.T, string) tickets.Store) *pair {
	silenceRedis()
	p := &pair{t: t, primary: newRedis(t), replica: newRedis(t)}
	p.link = newProxy(t, p.primary.Addr)
	p.west, p.east = newProxy(t, p.primary.Addr), newProxy(t, p.primary.Addr)
	p.stores = [2]tickets.Store{open(t, p.west.Addr()), open(t, p.east.Addr())}
	p.settle()
	return p
}

func (p *pair) ok(err error) {
	p.t.Helper()
	require.NoError(p.t, err)
}

// settle makes one replicate the other, and everything pass.
func (p *pair) settle() {
	p.t.Helper()
	p.link.Target(p.primary.Addr)
	p.link.Pass()
	p.point(p.primary, p.west, p.east)
	p.west.Pass()
	p.east.Pass()
	p.ok(p.replica.Follow(p.link.Addr()))
	p.ok(p.replica.CatchUp(p.primary))
}

// point sends what comes through the proxies to r from now on.
func (p *pair) point(r *servers.Redis, proxies ...*servers.Proxy) {
	for _, proxy := range proxies {
		proxy.Target(r.Addr)
		proxy.Reset()
	}
}

func (p *pair) swap() { p.primary, p.replica = p.replica, p.primary }

func (p *pair) nodes() []tickets.Store {
	return []tickets.Store{p.h.node(p.stores[0]), p.h.node(p.stores[1])}
}

// begin begins a history: of tickets that both servers have, used ones and good ones.
func (p *pair) begin() {
	p.t.Helper()
	p.h = newHistory()
	p.load(400)
	p.h.stock(50, p.nodes()[0])
	p.ok(p.replica.CatchUp(p.primary))
}

func (p *pair) load(n int) { p.h.load(n, p.nodes()...) }
func (p *pair) replay()    { p.h.replay(p.nodes()...) }

func (p *pair) do(r *servers.Redis, args ...string) {
	p.t.Helper()
	_, err := r.Do(args...)
	p.ok(err)
}

// info returns a number from the INFO of the primary.
func (p *pair) info(field string) int {
	p.t.Helper()
	text, err := p.primary.Do("INFO")
	p.ok(err)
	_, rest, _ := strings.Cut(text.(string), "\n"+field+":")
	value, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.Atoi(value)
	p.ok(err)
	return n
}

// redisFaults are made one after another on the same pair. The bare ones make plain commands accept
// tickets twice, and a test shows that they do: else they might not be faults.
var redisFaults = []struct {
	name   string
	bare   bool // SET and GETDEL accept twice
	strike func(p *pair)
}{
	{"the primary is killed, a replica that lags takes over", true, func(p *pair) {
		p.link.Stall()
		p.load(200)
		p.replay()
		p.primary.Kill()
		p.link.Cut()
		p.ok(p.replica.Promote())
		p.point(p.replica, p.west, p.east)
		p.replay()
		p.load(400)
		p.ok(p.primary.Start())
		p.swap()
	}},
	{"partition, both sides serve", true, func(p *pair) {
		p.link.Cut()
		p.ok(p.replica.Promote())
		p.point(p.replica, p.east)
		p.load(200)
		p.replay()
		p.load(300)
		p.swap() // the old primary follows the new one, and its nodes come over
	}},
	{"failover, and back to a process that never restarted", true, func(p *pair) {
		p.link.Stall()
		p.load(200)
		p.replay()
		p.link.Cut()
		p.ok(p.replica.Promote())
		p.swap()
		p.settle()
		p.ok(p.replica.Promote())
		p.swap()
		p.point(p.primary, p.west, p.east)
		p.replay()
		p.load(400)
	}},
	{"restart from an RDB file", true, func(p *pair) {
		p.ok(p.primary.Await(time.Minute, func() error { // one may be in progress
			_, err := p.primary.Do("SAVE")
			return err
		}))
		p.load(200)
		p.replay()
		p.primary.Kill()
		p.load(20)
		p.ok(p.primary.Start())
		p.replay()
		p.load(400)
	}},
	{"the primary freezes, and goes on after another took over", true, func(p *pair) {
		p.link.Stall()
		p.load(200)
		p.replay()
		p.ok(p.primary.Freeze())
		p.load(10)
		p.link.Cut()
		p.ok(p.replica.Promote())
		p.point(p.replica, p.east)
		p.ok(p.primary.Thaw())
		p.replay()
		p.load(400)
		p.swap()
	}},
	{"answers are lost", false, func(p *pair) {
		end := p.every(2*time.Millisecond, func() { p.west.LoseReplies(1) })
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"a black hole, and what was in it arrives late", false, func(p *pair) {
		p.load(400)
		p.west.Stall()
		p.load(10)
		p.west.Pass()
		p.load(200)
		p.east.SwallowReplies()
		p.load(10)
		p.east.Pass()
		p.replay()
		p.load(400)
	}},
	{"FLUSHALL", false, func(p *pair) {
		end := p.every(20*time.Millisecond, func() { p.do(p.primary, "FLUSHALL") })
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"allkeys-lru evicts under load", false, func(p *pair) {
		before := p.info("evicted_keys")
		p.do(p.primary, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
		p.do(p.primary, "CONFIG", "SET", "maxmemory", strconv.Itoa(p.info("used_memory")+64<<10))
		p.load(400)
		for n := 0; p.info("evicted_keys") < before+100 && n < 100; n++ {
			p.h.stock(20, p.nodes()[0])
			p.load(50)
		}
		require.GreaterOrEqual(p.t, p.info("evicted_keys"), before+100, "evicted too few keys")
		p.replay()
		p.do(p.primary, "CONFIG", "SET", "maxmemory", "0")
		p.do(p.primary, "CONFIG", "SET", "maxmemory-policy", "noeviction")
		p.replay()
		p.load(400)
	}},
	{"connections are reset", false, func(p *pair) {
		end := p.every(3*time.Millisecond, p.west.Reset)
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"every connection is taken", false, func(p *pair) {
		narrow := redis.NewClient(&redis.Options{Addr: p.primary.Addr, PoolSize: 1})
		defer narrow.Close()
		store := opened(p.t, func() (tickets.Store, error) {
			return redisstore.New(
				context.Background(),
				narrow,
				&redisstore.Options{Timeout: 10 * time.Millisecond},
			)
		})
		end := p.every(5*time.Millisecond, func() {
			narrow.BLPop(context.Background(), 50*time.Millisecond, "nothing")
		})
		p.h.load(300, p.h.node(store), p.h.node(p.stores[0]))
		end()
		p.load(300)
		p.replay()
	}},
}

// every is as the other, and ends what f has made of the connection.
func (p *pair) every(d time.Duration, f func()) (end func()) {
	stop := every(d, f)
	return func() {
		stop()
		p.west.Pass()
	}
}

func TestRedisFaults(t *testing.T) {
	p := newPair(t, openRedis)
	var all counts
	n := cycles(t, 2*len(redisFaults))
	for i := range n {
		fault := redisFaults[i%len(redisFaults)]
		p.begin()
		fault.strike(p)
		p.settle()
		p.replay()
		if t.Failed() {
			return
		}
		all.add(p.h.end(t))
	}
	t.Logf("%d faults, %v, none twice", n, all)
}

// What the store promises, bare commands do not: the faults are real.
func TestRedisFaultsAreReal(t *testing.T) {
	for _, fault := range redisFaults {
		if !fault.bare {
			continue
		}
		t.Run(fault.name, func(t *testing.T) {
			p := newPair(t, func(t *testing.T, addr string) tickets.Store {
				client := redis.NewClient(
					&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: 200 * time.Millisecond},
				)
				t.Cleanup(func() { client.Close() })
				return bare{client}
			})
			p.begin()
			fault.strike(p)
			p.settle()
			p.replay()
			legal, _ := p.h.legal()
			require.False(t, legal, "nothing was accepted twice")
		})
	}
}

// openRedis returns what a node has: a client with go-redis's defaults, and a store over it.
func openRedis(t *testing.T, addr string) tickets.Store {
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { client.Close() })
	store, err := redisstore.New(
		context.Background(),
		client,
		&redisstore.Options{Timeout: 200 * time.Millisecond},
	)
	require.NoError(t, err)
	return store
}

// bare is a store such as many have written.
type bare struct{ client *redis.Client }

func (b bare) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	return b.client.Set(ctx, key.String(), key.Seal(g), g.ExpiresAt.Sub(g.MintedAt)).Err()
}

func (b bare) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	sealed, err := b.client.GetDel(ctx, key.String()).Bytes()
	if errors.Is(err, redis.Nil) {
		return tickets.Grant{}, tickets.ErrUnknown
	}
	if err != nil {
		return tickets.Grant{}, err
	}
	return key.Open(sealed)
}
