package model

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// The stores and issuers below break one promise each, now and then. The checks must notice.
var broken = map[string]struct {
	store  func(tickets.Store) tickets.Store
	forget func() bool
}{
	"a ticket is good twice": {
		store: func(s tickets.Store) tickets.Store {
			return &twice{Store: s,
				taken: map[string]tickets.Grant{}}
		},
	},
	"a ticket lives too long": {
		store: func(s tickets.Store) tickets.Store { return longer{s} },
	},
	"a ticket is lost": {
		store: func(s tickets.Store) tickets.Store { return &loses{Store: s} },
	},
	"a ticket is another's": {
		store: func(s tickets.Store) tickets.Store { return &mixes{Store: s} },
	},
	"a revocation has no effect yet": {forget: every(3)},
}

// every returns true every n-th time.
func every(n int64) func() bool {
	var calls atomic.Int64
	return func() bool { return calls.Add(1)%n == 0 }
}

type twice struct {
	tickets.Store
	mu    sync.Mutex
	taken map[string]tickets.Grant
}

func (s *twice) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	g, err := s.Store.Take(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.taken[key.String()] = g
	} else if g, ok := s.taken[key.String()]; ok && errors.Is(err, tickets.ErrUsed) {
		delete(s.taken, key.String())
		return g, nil
	}
	return g, err
}

type longer struct{ tickets.Store }

func (s longer) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	g.ExpiresAt = g.ExpiresAt.Add(10 * time.Second)
	return s.Store.Put(ctx, key, g)
}

type loses struct {
	tickets.Store
	puts atomic.Int64
}

func (s *loses) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	if s.puts.Add(1)%5 == 0 {
		return nil
	}
	return s.Store.Put(ctx, key, g)
}

type mixes struct {
	tickets.Store
	mu   sync.Mutex
	last tickets.Grant
}

func (s *mixes) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	g, err := s.Store.Take(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		g, s.last = s.last, g
		if g.ExpiresAt.IsZero() {
			g = s.last
		}
	}
	return g, err
}
