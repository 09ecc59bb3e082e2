package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// process sends a command to the primary that has the key, and waits no longer than ctx says.
type process func(ctx context.Context, key string, cmd redis.Cmder) error

// once is a command that go-redis does not send again when the answer is lost, whatever MaxRetries
// the client has. The first one may have been carried out: the second would find the ticket used.
type once struct{ *redis.Cmd }

// NoRetry returns true.
func (once) NoRetry() bool { return true }

func newProcess(client redis.UniversalClient, timeout time.Duration) (process, error) {
	switch client := client.(type) {
	case *redis.Client:
		if client != nil {
			bounded := bound(client, timeout)
			return func(ctx context.Context, _ string, cmd redis.Cmder) error {
				return bounded.Process(ctx, cmd)
			}, nil
		}
	case *redis.ClusterClient:
		if client != nil {
			return (&cluster{client: client, timeout: timeout}).process, nil
		}
	case *redis.Ring:
		// Its nodes need not agree on where a key is: revocations would go where nobody listens.
		return nil, errors.New("the client is a *redis.Ring, want a *redis.Client or a *redis.ClusterClient")
	case nil:
	default:
		return func(ctx context.Context, _ string, cmd redis.Cmder) error {
			return client.Process(ctx, cmd)
		}, nil
	}
	return nil, errors.New("the client is nil, want one such as redis.NewClient returns")
}

// bound returns a client over the same connections that gives up when ctx says so. By default
// go-redis looks at no deadline while it reads, and a pool of connections that wait 3 s for a server
// that does not answer is a pool that is empty when the server is back.
func bound(client *redis.Client, timeout time.Duration) *redis.Client {
	bounded := client.WithTimeout(timeout + blockFor)
	bounded.Options().ContextTimeoutEnabled = true // a copy, that nobody else has yet
	return bounded
}

// cluster finds the node for each key by itself, because only a node's client can be bounded.
type cluster struct {
	client  *redis.ClusterClient
	timeout time.Duration
	mu      sync.RWMutex
	bounded map[*redis.Client]*redis.Client
}

func (c *cluster) process(ctx context.Context, key string, cmd redis.Cmder) error {
	node, err := c.client.MasterForKey(ctx, key)
	if err != nil {
		return err
	}
	err = c.bound(node).Process(ctx, cmd)
	if moved(err) {
		// That node did nothing. The cluster's client knows the way, and learns the new one.
		cmd.SetErr(nil)
		err = c.client.Process(ctx, cmd)
	}
	if err != nil && !errors.As(err, new(redis.Error)) {
		c.client.ReloadState(ctx) // the node may be gone
	}
	return err
}

func moved(err error) bool {
	return redis.HasErrorPrefix(err, "MOVED ") || redis.HasErrorPrefix(err, "ASK ") ||
		redis.HasErrorPrefix(err, "READONLY ") || errors.Is(err, redis.ErrClosed)
}

func (c *cluster) bound(node *redis.Client) *redis.Client {
	c.mu.RLock()
	bounded := c.bounded[node]
	c.mu.RUnlock()
	if bounded != nil {
		return bounded
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bounded == nil || len(c.bounded) >= maxBounded {
		c.bounded = make(map[*redis.Client]*redis.Client) // most of those nodes are gone
	}
	bounded = bound(node, c.timeout)
	c.bounded[node] = bounded
	return bounded
}

// A cluster has at most 1000 nodes.
const maxBounded = 1 << 10

// try runs what the store will run.
func (s *Store) try(ctx context.Context, client redis.UniversalClient) error {
	if c, ok := client.(*redis.ClusterClient); ok {
		err := c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return s.tryMark(ctx, node)
		})
		if err != nil {
			return s.explain(err)
		}
	}
	return s.explain(errors.Join(s.tryTicket(ctx), s.tryLog(ctx)))
}

// tryMark runs a script without a key: on any node of a cluster it may.
func (s *Store) tryMark(ctx context.Context, node *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := bound(node, s.timeout).Eval(ctx, markScript.source, nil).Err(); err != nil {
		return fmt.Errorf("%s: %w", node.Options().Addr, err)
	}
	return nil
}
