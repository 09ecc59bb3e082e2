// Package redisstore keeps tickets, and the log of revocations, in Redis 6.2 or later or in Valkey,
// for applications that run on more than one server. It is handed the client that the application
// has: single, sentinel or cluster.
//
// No ticket is accepted twice, whatever fails: a ticket is good only at the very process that took it
// in, and only while that process is the primary that it was (see the README for what that covers).
// A store that fails over or restarts therefore loses the tickets that are on their way, which live
// for 30 s anyway: the page mints another.
//
// What is in Redis opens no door and names nobody. The key of a ticket is its SHA-256, the grant is
// sealed under a key that only the ticket itself gives, and a revocation is the hash of a session's id
// or of a person's name.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/tickets"
)

// What Options are unless they say otherwise.
const (
	DefaultPrefix          = "ticketgate:"
	DefaultTimeout         = 500 * time.Millisecond
	DefaultKeepRevocations = 65 * time.Minute
)

// Options are the options of a Store; nil is the defaults.
type Options struct {
	// Prefix is what every key begins with: "<Prefix>ticket:<64 hexadecimal digits>" for each
	// ticket, and "<Prefix>revocations". Stores with one prefix in one Redis are one store.
	// Default: DefaultPrefix, "ticketgate:".
	Prefix string
	// Timeout is how long Put, Take and Append may take, at least 10 ms. It holds whatever timeouts
	// and retries the client has; one that is inside of something else needs ContextTimeoutEnabled.
	// Default: DefaultTimeout, 500 ms.
	Timeout time.Duration
	// KeepRevocations is how long a revocation is in the log for nodes that start, or were cut off.
	// It is to be more than the issuers' RememberRevocations. Default: DefaultKeepRevocations, 65 min.
	KeepRevocations time.Duration
}

// An expired ticket is told from an unknown one for so long after its end: 5 s by the contract.
const expiredMemory = 6 * time.Second

// Store is a tickets.Store and a tickets.RevocationLog. It is safe for concurrent use, runs no
// goroutine, needs no Close, and does not close the client.
type Store struct {
	route           route
	prefix          string
	timeout         time.Duration
	keepRevocations time.Duration
}

var (
	_ tickets.Store         = (*Store)(nil)
	_ tickets.RevocationLog = (*Store)(nil)
)

var (
	errKnown   = errors.New("the key was put before")
	errForeign = fmt.Errorf("%w: the store has failed over or restarted since it was put", tickets.ErrUnknown)
)

// New returns a store over client, which must be a *redis.Client or a *redis.ClusterClient (as
// redis.NewUniversalClient returns), or something that embeds one. Nil options are the defaults.
//
// It tries everything that the store will need, at once and on every primary of a cluster, and says
// what is wrong: a server that can't be reached, a replica, scripts or INFO that the user may not run.
// What a user of the server must be granted stands in the error and in the README.
func New(ctx context.Context, client redis.UniversalClient, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.KeepRevocations == 0 {
		o.KeepRevocations = DefaultKeepRevocations
	}
	var errs []error
	if o.Timeout < minTimeout {
		errs = append(errs, fmt.Errorf("Options.Timeout is %v, want at least %v", o.Timeout, minTimeout))
	}
	if o.KeepRevocations < time.Millisecond {
		errs = append(errs, fmt.Errorf("Options.KeepRevocations is %v, want more than the issuers' RememberRevocations", o.KeepRevocations))
	}
	route, err := newRoute(client, o.Timeout)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("new redis store: %w", err)
	}
	s := &Store{route, o.Prefix, o.Timeout, o.KeepRevocations}
	if err := s.try(ctx, client); err != nil {
		return nil, fmt.Errorf("new redis store: %w", err)
	}
	return s, nil
}

const minTimeout = 10 * time.Millisecond

// Put keeps g, sealed, under key for as long as it was to live when it was minted: this machine's
// clock does not matter. The error is tickets.ErrFull where Redis is out of memory and may evict
// nothing.
func (s *Store) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	sealed := key.Seal(g)
	if sealed == nil {
		return errors.New("redis store: put: the key is of no ticket")
	}
	lifetime := g.ExpiresAt.Sub(g.MintedAt)
	if g.MintedAt.IsZero() {
		lifetime = time.Until(g.ExpiresAt)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.put(ctx, s.ticketKey(key), sealed, (max(lifetime, 0) + expiredMemory).Milliseconds())
	if err != nil && redis.IsOOMError(err) {
		err = fmt.Errorf("%w: %w", tickets.ErrFull, err)
	}
	if err != nil {
		return fmt.Errorf("redis store: put: %w", err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, sealed []byte, milliseconds int64) error {
	n, err := s.route(ctx, key)
	if err != nil {
		return s.late(ctx, err)
	}
	if mark := n.mark.get(); mark != "" {
		value := append(append(make([]byte, 0, markLength+len(sealed)), mark...), sealed...)
		err := n.client.Process(ctx, newOnce(ctx, "set", key, value, "px", milliseconds, "nx"))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, redis.Nil):
			return errKnown
		}
		n.mark.set("", time.Time{})
		if !moved(err) {
			return s.late(ctx, err)
		}
	}
	asked := time.Now()
	cmd, err := s.run(ctx, n, putScript, key, sealed, milliseconds)
	if err != nil {
		return err
	}
	mark, ok := cmd.Val().(string)
	switch {
	case mark == "known":
		return errKnown
	case !ok || len(mark) != markLength:
		return fmt.Errorf("unexpected reply %v", cmd.Val())
	case !cmd.sentOn: // else it is another server's
		n.mark.set(mark, asked)
	}
	return nil
}

// Take returns the grant under key to the first that asks. It is sent once: an answer that is lost
// or late is an error, and the ticket may be used then.
func (s *Store) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	reply, err := s.eval(ctx, takeScript, s.ticketKey(key), expiredMemory.Milliseconds())
	if err != nil {
		return tickets.Grant{}, fmt.Errorf("redis store: take: %w", err)
	}
	switch reply := reply.(type) {
	case []any:
		if len(reply) == 1 {
			if sealed, ok := reply[0].(string); ok {
				return s.open(key, sealed)
			}
		}
	case string:
		switch reply {
		case "unknown":
			return tickets.Grant{}, tickets.ErrUnknown
		case "used":
			return tickets.Grant{}, tickets.ErrUsed
		case "expired":
			return tickets.Grant{}, tickets.ErrExpired
		case "foreign":
			s.distrust(ctx, key)
			return tickets.Grant{}, errForeign
		}
	}
	return tickets.Grant{}, fmt.Errorf("redis store: take: unexpected reply of type %T", reply)
}

func (s *Store) distrust(ctx context.Context, key tickets.Key) {
	if n, err := s.route(ctx, s.ticketKey(key)); err == nil {
		n.mark.distrust()
	}
}

func (s *Store) open(key tickets.Key, sealed string) (tickets.Grant, error) {
	g, err := key.Open([]byte(sealed))
	if err != nil {
		return tickets.Grant{}, fmt.Errorf("redis store: take: %w", err)
	}
	return g, nil
}

func (s *Store) ticketKey(key tickets.Key) string { return s.prefix + "ticket:" + key.String() }

func (s *Store) logKey() string { return s.prefix + "revocations" }
