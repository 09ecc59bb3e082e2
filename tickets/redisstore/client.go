package redisstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// once is a command that go-redis does not send again if the answer is lost, whatever MaxRetries
// the client has. The first one may have been executed: the second would find the ticket used.
type once struct {
	*redis.Cmd
	redirected bool // to another server of the cluster
}

func newOnce(ctx context.Context, words ...any) *once {
	return &once{Cmd: redis.NewCmd(ctx, words...)}
}

// NoRetry returns true.
func (*once) NoRetry() bool { return true }

// server has some of the keys, or all. It waits no longer than the context says.
type server struct {
	client interface {
		Process(ctx context.Context, cmd redis.Cmder) error
	}
	cluster *redis.ClusterClient // that it is part of, or nil
	mark    mark
}

// process sends cmd to the server, and follows one redirection of a cluster.
func (n *server) process(ctx context.Context, cmd *once) error {
	err := n.client.Process(ctx, cmd)
	if n.cluster == nil || err == nil {
		return err
	}
	if moved(err) {
		// That server did nothing. The cluster's client finds the right one, and remembers it.
		cmd.SetErr(nil)
		cmd.redirected = true
		err = n.cluster.Process(ctx, cmd)
	}
	if err != nil && !errors.As(err, new(redis.Error)) {
		n.cluster.ReloadState(ctx) // the server may be gone
	}
	return err
}

func moved(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "MOVED ") ||
		redis.HasErrorPrefix(err, "ASK ") || redis.HasErrorPrefix(err, "READONLY ") ||
		errors.Is(err, redis.ErrClosed))
}

// route returns the server that has the key.
type route func(ctx context.Context, key string) (*server, error)

func newRoute(client redis.UniversalClient, timeout time.Duration) (route, error) {
	switch client := client.(type) {
	case *redis.Client:
		if client != nil {
			n := &server{client: bound(client, timeout)}
			return func(context.Context, string) (*server, error) { return n, nil }, nil
		}
	case *redis.ClusterClient:
		if client != nil {
			return (&cluster{client: client, timeout: timeout}).server, nil
		}
	case *redis.Ring:
		// Its nodes need not agree on where a key is: revocations could be appended where no node
		// reads.
		return nil, errors.New("the client is a *redis.Ring, " +
			"want a *redis.Client or a *redis.ClusterClient")
	case nil:
	default:
		n := &server{client: client}
		n.mark.distrust() // there may be a cluster in it
		return func(context.Context, string) (*server, error) { return n, nil }, nil
	}
	return nil, errors.New("the client is nil, want one such as redis.NewClient returns")
}

// bound returns a client over the same connections that respects the deadline of ctx. By default
// go-redis ignores it while it reads, and if all connections wait 3 s for a server that does not
// answer, the pool is empty when the server is back.
func bound(client *redis.Client, timeout time.Duration) *redis.Client {
	bounded := client.WithTimeout(timeout + blockFor)
	bounded.Options().ContextTimeoutEnabled = true // a copy
	return bounded
}

// cluster finds the server for each key itself, because only the client of one server can be bound.
type cluster struct {
	client  *redis.ClusterClient
	timeout time.Duration
	mu      sync.RWMutex
	servers map[*redis.Client]*server
}

func (c *cluster) server(ctx context.Context, key string) (*server, error) {
	client, err := c.client.MasterForKey(ctx, key)
	if err != nil {
		return nil, err
	}
	c.mu.RLock()
	n := c.servers[client]
	c.mu.RUnlock()
	if n != nil {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers == nil || len(c.servers) >= maxServers {
		c.servers = make(map[*redis.Client]*server) // most of them are stopped
	}
	n = &server{client: bound(client, c.timeout), cluster: c.client}
	c.servers[client] = n
	return n, nil
}

// A cluster has at most 1000 servers.
const maxServers = 1 << 10

// mark identifies the life of a server's process, as it was a moment ago: see lua/mark.lua.
//
// A ticket is valid if the mark that was put with it is the process's own mark when it is taken. So
// Put may use a mark that it remembers: if it is out of date, the ticket is refused, and never
// accepted twice.
type mark struct {
	known     atomic.Pointer[knownMark]
	distrusts atomic.Bool
}

type knownMark struct {
	mark string
	at   time.Time
}

const (
	markLength = 80
	// The tickets of this time after a failover may be refused, in addition to all that were put
	// before it. Reading the mark costs a server more than putting a ticket.
	markFor = 100 * time.Millisecond
)

// get returns the mark, or "" if it is unknown.
func (m *mark) get() string {
	if k := m.known.Load(); k != nil && time.Since(k.at) < markFor {
		return k.mark
	}
	return ""
}

// set remembers what the server answered when it was asked at that time, or "" for no answer.
func (m *mark) set(mark string, at time.Time) {
	if mark == "" || m.distrusts.Load() {
		m.known.Store(nil)
	} else {
		m.known.Store(&knownMark{mark, at})
	}
}

// distrust makes every Put read the mark from now on: there seem to be several servers behind one
// client, as with some proxies, or one has failed over.
func (m *mark) distrust() {
	m.distrusts.Store(true)
	m.known.Store(nil)
}
