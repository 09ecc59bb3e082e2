package faults

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// standby is a PostgreSQL with a standby, and two nodes that each reach one of them through a
// proxy: the primary, unless a fault says otherwise.
type standby struct {
	t                *testing.T
	primary, replica *servers.Postgres
	link             *servers.Proxy // from the standby to the primary
	west, east       *servers.Proxy // from the nodes
	stores           [2]tickets.Store
	h                *history
}

// An asynchronous commit stays in memory for as long as possible.
var lazyWriter = []string{"wal_writer_delay=10s", "wal_writer_flush_after=100MB"}

func newPostgres(t *testing.T) *servers.Postgres {
	t.Helper()
	p, err := servers.NewPostgres(t.TempDir(), lazyWriter...)
	t.Cleanup(p.Close)
	servers.Skip(t, err)
	return p
}

func newStandby(t *testing.T, open func(*testing.T, string) tickets.Store) *standby {
	p := &standby{t: t, primary: newPostgres(t)}
	t.Cleanup(func() { p.primary.Close(); p.replica.Close() }) // whichever they are by then
	p.link = newProxy(t, p.primary.Addr)
	p.west, p.east = newProxy(t, p.primary.Addr), newProxy(t, p.primary.Addr)
	p.stores = [2]tickets.Store{open(t, p.west.Addr()), open(t, p.east.Addr())}
	return p
}

func (p *standby) ok(err error) {
	p.t.Helper()
	require.NoError(p.t, err)
}

// follow makes a standby, where there is none.
func (p *standby) follow() {
	p.t.Helper()
	if p.replica != nil {
		return
	}
	dir, err := os.MkdirTemp(p.t.TempDir(), "") // of its own
	p.ok(err)
	p.link.Target(p.primary.Addr)
	p.link.Pass()
	p.replica, err = p.primary.Replica(dir, p.link.Addr(), lazyWriter...)
	p.ok(err)
}

// drop ends the standby: what has been promoted, or has lost its primary, is of no use.
func (p *standby) drop() {
	p.replica.Close()
	p.replica = nil
}

// promote makes the standby a primary. The old primary continues.
func (p *standby) promote() {
	p.t.Helper()
	p.link.Cut()
	p.ok(p.replica.Promote())
}

func (p *standby) swap() { p.primary, p.replica = p.replica, p.primary }

func (p *standby) point(r *servers.Postgres, proxies ...*servers.Proxy) {
	for _, proxy := range proxies {
		proxy.Target(r.Addr)
		proxy.Reset()
	}
}

// settle has the nodes at the primary, and everything pass.
func (p *standby) settle() {
	p.point(p.primary, p.west, p.east)
	p.west.Pass()
	p.east.Pass()
}

func (p *standby) nodes() []tickets.Store {
	return []tickets.Store{p.h.node(p.stores[0]), p.h.node(p.stores[1])}
}

// begin begins a history: of tickets, used ones and good ones, that are on disk, and at the
// standby.
func (p *standby) begin() {
	p.t.Helper()
	p.h = newHistory()
	p.load(300)
	p.h.stock(50, p.nodes()[0])
	p.do("CHECKPOINT")
	if p.replica != nil {
		p.ok(p.replica.CatchUp(p.primary))
	}
}

func (p *standby) load(n int) { p.h.load(n, p.nodes()...) }
func (p *standby) replay()    { p.h.replay(p.nodes()...) }

func (p *standby) do(sql string) {
	p.t.Helper()
	_, err := p.primary.Do(sql)
	p.ok(err)
}

type postgresFault struct {
	name   string
	bare   bool // a LOGGED table accepts twice
	follow bool // there is a standby
	strike func(p *standby)
}

// postgresFaults are made one after another. The bare ones make a LOGGED table accept tickets
// twice, and a test shows that they do: else they might not be faults.
var postgresFaults = []postgresFault{
	{"the primary is killed, a standby that lags takes over", true, true, func(p *standby) {
		p.link.Stall()
		p.load(300)
		p.replay()
		p.primary.Kill()
		p.promote()
		p.swap()
		p.settle()
		p.replay()
		p.load(400)
		p.drop()
	}},
	{"crash with synchronous_commit=off", true, false, func(p *standby) {
		p.load(300)
		p.replay()
		p.primary.Crash()
		p.load(20)
		p.ok(p.primary.Start())
		p.replay()
		p.load(400)
	}},
	{"partition, both sides serve", true, true, func(p *standby) {
		p.promote()
		p.point(p.replica, p.east)
		p.load(500)
		p.replay()
		p.load(400)
		p.swap() // the new one is the right one
		p.drop()
	}},
	{"a process of the server is killed", true, false, func(p *standby) {
		p.load(300)
		p.replay()
		p.primary.Do(
			"COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'",
		) // which ends all others, and recovers
		p.load(20)
		p.ok(
			p.primary.Await(
				20*time.Second,
				func() error { _, err := p.primary.Do("SELECT 1"); return err },
			),
		)
		p.replay()
		p.load(400)
	}},
	{"failover, and back to a server that never stopped", true, true, func(p *standby) {
		p.promote()
		p.point(p.replica, p.west, p.east)
		p.load(500)
		p.replay()
		p.drop() // the old one is the right one
		p.settle()
		p.replay()
		p.load(400)
	}},
	{"restored from a copy of its files", true, false, func(p *standby) {
		p.ok(p.primary.Snapshot())
		p.h.stock(50, p.nodes()[1])
		p.replay()
		p.load(500)
		p.ok(p.primary.Restore())
		p.replay()
		p.load(400)
	}},
	{"kill -9 and restart", false, false, func(p *standby) {
		p.load(500)
		p.primary.Kill()
		p.load(20)
		p.ok(p.primary.Start())
		p.replay()
		p.load(400)
	}},
	{"answers are lost", false, false, func(p *standby) {
		end := every(2*time.Millisecond, func() { p.west.LoseReplies(1) })
		p.load(400)
		end()
		p.west.Pass()
		p.replay()
		p.load(400)
	}},
	{"a black hole, and what was in it arrives late", false, false, func(p *standby) {
		p.load(400)
		p.west.Stall()
		p.load(10)
		p.west.Pass()
		p.load(300)
		p.east.SwallowReplies()
		p.load(10)
		p.east.Pass()
		p.east.Reset()
		p.replay()
		p.load(400)
	}},
	{"the table is emptied", false, false, func(p *standby) {
		end := every(20*time.Millisecond, func() { p.do("TRUNCATE ticketgate.tickets") })
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"connections are reset", false, false, func(p *standby) {
		end := every(3*time.Millisecond, p.west.Reset)
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"an administrator ends the connections", false, false, func(p *standby) {
		end := every(5*time.Millisecond, func() {
			p.do(
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity " +
					"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
			)
		})
		p.load(400)
		end()
		p.replay()
		p.load(400)
	}},
	{"every connection is taken", false, false, func(p *standby) {
		pool := newPostgresPool(p.t, p.primary.Addr, "pool_max_conns=1")
		store := opened(p.t, func() (tickets.Store, error) {
			return pgstore.New(
				context.Background(),
				pool,
				&pgstore.Options{Timeout: 10 * time.Millisecond},
			)
		})
		end := every(
			5*time.Millisecond,
			func() { pool.Exec(context.Background(), "SELECT pg_sleep(0.05)") },
		)
		p.h.load(400, p.h.node(store), p.h.node(p.stores[0]))
		end()
		p.load(400)
		p.replay()
		pool.Close()
	}},
}

// strike lets one fault happen, in a history of its own.
func (p *standby) strike(fault postgresFault) {
	p.t.Helper()
	if fault.follow {
		p.follow()
	} else if p.replica != nil {
		p.drop()
	}
	p.begin()
	fault.strike(p)
	p.settle()
	p.replay()
}

// every does something again and again until end is called, which returns when nothing is left of
// it.
func every(d time.Duration, f func()) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			f()
			select {
			case <-time.After(d):
			case <-stop:
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-done
	}
}

func TestPostgresFaults(t *testing.T) {
	p := newStandby(t, openPostgres)
	var all counts
	n := cycles(t, len(postgresFaults))
	for i := range n {
		fault := postgresFaults[i%len(postgresFaults)]
		p.strike(fault)
		c := p.h.end(t)
		t.Logf("%s: %v", fault.name, c)
		all.add(c)
	}
	t.Logf("%d faults, %v, none twice", n, all)
}

func init() {
	racers["postgres"] = func(addr string) (tickets.Store, func(), error) {
		pool, err := pgxpool.New(
			context.Background(),
			servers.PostgresURL(addr, "postgres", "postgres"),
		)
		if err != nil {
			return nil, nil, err
		}
		store, err := pgstore.New(context.Background(), pool, nil)
		return store, pool.Close, err
	}
}
