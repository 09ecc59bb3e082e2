package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/tickets"
)

// try runs everything that the store needs.
func (s *Store) try(ctx context.Context, client redis.UniversalClient) error {
	if c, ok := client.(*redis.ClusterClient); ok {
		err := c.ForEachMaster(ctx, s.tryMark)
		if err != nil {
			return s.explain(err)
		}
	}
	return s.explain(errors.Join(s.tryTicket(ctx), s.tryLog(ctx)))
}

// tryMark runs a script without a key, so that every node of a cluster accepts it.
func (s *Store) tryMark(ctx context.Context, node *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := bound(node, s.timeout).Eval(ctx, markSource+"return mark()", nil).Err(); err != nil {
		return fmt.Errorf("node %s: %w", node.Options().Addr, err)
	}
	return nil
}

// tryTicket puts a ticket of nobody and takes it.
func (s *Store) tryTicket(ctx context.Context) error {
	var secret [32]byte
	rand.Read(secret[:])
	key := tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:])).Key()
	now := time.Now()
	g := tickets.Grant{MintedAt: now, ExpiresAt: now.Add(s.timeout)}
	if err := s.Put(ctx, key, g); err != nil {
		return err
	}
	_, err := s.Take(ctx, key)
	if errors.Is(err, tickets.ErrInvalid) { // the server is slow, or has just failed over
		return nil
	}
	return err
}

// tryLog appends the entry for an opened store, and reads.
func (s *Store) tryLog(ctx context.Context) error {
	if _, err := s.append(ctx, nil); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if _, _, err := s.page(ctx, "-"); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if err := s.wait(ctx, cursor{id: "0-0"}); err != nil {
		return fmt.Errorf("wait for the log: %w", err)
	}
	return nil
}

// explain adds to an error what would be right.
func (s *Store) explain(err error) error {
	if err == nil {
		return nil
	}
	var hint string
	switch {
	case redis.IsPermissionError(err),
		strings.Contains(err.Error(), "user executing the script can't"):
		hint = "grant the user " + s.acl()
	case redis.IsReadOnlyError(err):
		hint = "this is a replica, want a client of the primary"
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}

// acl is all that a user of the server needs, in the words of ACL SETUSER.
func (s *Store) acl() string {
	return "~" + s.prefix + "* +eval +evalsha +info +get +set +pttl +del " +
		"+xadd +xrange +xrevrange +xtrim +xread"
}
