// Package redisstore keeps tickets and the revocation log in Redis 6.2 or later, or in Valkey, for
// applications on more than one server. It uses the client that the application has: single,
// sentinel or cluster.
//
// No ticket is accepted twice, whatever fails: a ticket is valid only in the process that stored
// it, and only while that process has been the primary without interruption (see the README). So a
// failover or a restart loses the outstanding tickets, which live for 30 s: the page mints another.
//
// The contents of Redis cannot be used to open a socket, and have no names. The key of a ticket is
// its SHA-256, the grant is sealed under a key that only the ticket gives, and a revocation is the
// hash of a session's id or of a user.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/tickets"
)

// The defaults of Options.
const (
	DefaultPrefix          = "ticketgate:"
	DefaultTimeout         = 500 * time.Millisecond
	DefaultKeepRevocations = 65 * time.Minute
)

// Options are the options of a Store; nil is the defaults.
type Options struct {
	// Prefix begins every key: "<Prefix>ticket:<64 hexadecimal digits>" for each ticket, and
	// "<Prefix>revocations". Stores with the same prefix in one Redis are one store.
	// Default: DefaultPrefix, "ticketgate:".
	Prefix string
	// Timeout is how long Put, Take and Append may take, at least 10 ms, whatever timeouts and
	// retries the client has. A client that is embedded in another type needs
	// ContextTimeoutEnabled. Default: DefaultTimeout, 500 ms.
	Timeout time.Duration
	// KeepRevocations is how long a revocation stays in the log for nodes that start or were cut
	// off: more than the issuers' RememberRevocations. Default: DefaultKeepRevocations, 65 min.
	KeepRevocations time.Duration
}

// An expired ticket is remembered as expired for this long: 5 s by the contract.
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
	errForeign = fmt.Errorf("%w: the store has failed over or restarted since it was put",
		tickets.ErrUnknown)
)

// New returns a store over client, which must be a *redis.Client or a *redis.ClusterClient (as
// redis.NewUniversalClient returns), or something that embeds one. Nil options are the defaults.
//
// It tries everything that the store needs, on every primary of a cluster. The error says what is
// wrong: a server that cannot be reached, a replica, or scripts or INFO that the user may not run.
// The error and the README say what to grant.
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
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Timeout < minTimeout {
		wrong("Timeout is %v, want at least %v", o.Timeout, minTimeout)
	}
	if o.KeepRevocations < time.Millisecond {
		wrong("KeepRevocations is %v, want more than the issuers' RememberRevocations",
			o.KeepRevocations)
	}
	route, err := newRoute(client, o.Timeout)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("redisstore.New: %w", err)
	}
	s := &Store{route, o.Prefix, o.Timeout, o.KeepRevocations}
	if err := s.try(ctx, client); err != nil {
		return nil, fmt.Errorf("redisstore.New: %w", err)
	}
	return s, nil
}

const minTimeout = 10 * time.Millisecond

// Put keeps g, sealed, under key for g.ExpiresAt.Sub(g.MintedAt): this machine's clock does not
// matter. The error is tickets.ErrFull if Redis is out of memory and may evict nothing.
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
	case !cmd.redirected: // else it is the mark of another server
		n.mark.set(mark, asked)
	}
	return nil
}

// Take returns the grant under key to the first caller. It is sent once: a lost or late answer is
// an error, and the ticket may be used then.
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
