package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"github.com/ticketgate/ticketgate/tickets"
)

// store keeps the contract in the simplest way, except for its fault.
type store struct {
	fault string
	max   int
	mu    sync.Mutex
	m     map[[32]byte]*entry
	keys  map[[unsafe.Sizeof(tickets.Key{})]byte]tickets.Key
	order [][32]byte
	last  tickets.Grant
}

type entry struct {
	g      tickets.Grant
	used   bool
	usedAt time.Time
}

// identity is what == would compare if it could compare Keys: it differs between two Keys of one
// ticket.
func identity(key tickets.Key) [unsafe.Sizeof(tickets.Key{})]byte {
	return *(*[unsafe.Sizeof(tickets.Key{})]byte)(unsafe.Pointer(&key))
}

func newStore(fault string) *store {
	return &store{
		fault: fault, max: 300, m: map[[32]byte]*entry{},
		keys: map[[unsafe.Sizeof(tickets.Key{})]byte]tickets.Key{},
	}
}

func (s *store) Put(_ context.Context, key tickets.Key, g tickets.Grant) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.m[key.ID()]; e != nil {
		switch {
		case s.fault == "Put overwrites":
		case s.fault == "Put overwrites a used key" && e.used:
		case s.fault == "Put overwrites and complains":
			e.g = g
			return errors.New("known")
		default:
			return errors.New("known")
		}
	}
	if s.full() {
		switch s.fault {
		case "evicts when full":
			delete(s.m, s.order[0])
			s.order = s.order[1:]
		case "evicts a used one, then any":
			s.evict()
		case "full is ErrInvalid":
			return fmt.Errorf("%w: %w", tickets.ErrFull, tickets.ErrInvalid)
		case "full is some error":
			return errors.New("OOM command not allowed")
		default:
			return tickets.ErrFull
		}
	}
	g = s.damage(g)
	s.m[key.ID()] = &entry{g: g}
	s.keys[identity(key)] = key
	s.order = append(s.order, key.ID())
	s.last = g
	return nil
}

func (s *store) full() bool {
	n := 0
	for _, e := range s.m {
		if s.fault == "expired ones count" || !time.Now().After(e.g.ExpiresAt) {
			n++
		}
	}
	return n >= s.max
}

func (s *store) evict() {
	for id, e := range s.m {
		if e.used {
			delete(s.m, id)
			return
		}
	}
	for id := range s.m {
		delete(s.m, id)
		return
	}
}

// damage loses something of a grant.
func (s *store) damage(g tickets.Grant) tickets.Grant {
	switch s.fault {
	case "loses Data":
		g.Data = ""
	case "loses the endpoint":
		g.Endpoint = ""
	case "loses microseconds":
		g.StartedAt = g.StartedAt.Truncate(time.Microsecond)
	case "swaps provider and user":
		g.Provider, g.UserID = g.UserID, g.Provider
	case "has UnixNano":
		g.SessionExpiresAt = time.Unix(0, g.SessionExpiresAt.UnixNano())
	case "has Unix for unknown times":
		g.StartedAt = time.Unix(0, max(0, g.StartedAt.Sub(time.Unix(0, 0)).Nanoseconds()))
	case "cuts long ids":
		g.SessionID = g.SessionID[:min(255, len(g.SessionID))]
	}
	return g
}

func (s *store) Take(_ context.Context, key tickets.Key) (tickets.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.take(key)
	if err != nil && s.fault != "a grant beside the error" {
		return tickets.Grant{}, err
	}
	return g, err
}

func (s *store) take(key tickets.Key) (tickets.Grant, error) {
	now := time.Now()
	e := s.m[key.ID()]
	_, same := s.keys[identity(key)]
	if e == nil || s.fault == "compares Keys" && !same {
		if s.fault == "an error of its own for unknown" {
			return tickets.Grant{}, errors.New("not found")
		}
		return s.last, tickets.ErrUnknown
	}
	if s.fault == "drops all when one expires" && !now.After(e.g.ExpiresAt) {
		for _, other := range s.m {
			if now.After(other.g.ExpiresAt) {
				delete(s.m, key.ID())
				return tickets.Grant{}, tickets.ErrUnknown
			}
		}
	}
	if e.used {
		return e.g, s.usedError(e, now, key)
	}
	if s.expired(e, now) {
		return e.g, s.expiredError(e, now, key)
	}
	if s.fault == "get, then delete" {
		s.mu.Unlock()
		time.Sleep(time.Millisecond) // a round trip
		s.mu.Lock()
	}
	e.used, e.usedAt = true, now
	if s.fault == "forgets what was used" {
		delete(s.m, key.ID())
	}
	if s.fault == "returns another's grant" {
		return s.last, nil
	}
	return e.g, nil
}

func (s *store) usedError(e *entry, now time.Time, key tickets.Key) error {
	switch {
	case s.fault == "good twice" && !now.After(e.usedAt),
		s.fault == "good again after its end" && now.After(e.g.ExpiresAt):
		return nil
	case s.fault == "used is unknown",
		s.fault == "forgets used after half a second" && now.Sub(e.usedAt) > time.Second/2,
		s.fault == "forgets used at the end" && !now.Before(e.g.ExpiresAt):
		return tickets.ErrUnknown
	case s.fault == "an error of its own for used":
		return errors.New("used")
	}
	return tickets.ErrUsed
}

func (s *store) expired(e *entry, now time.Time) bool {
	end := e.g.ExpiresAt
	switch s.fault {
	case "no expiry":
		return false
	case "ends at its end":
		return !now.Before(end)
	case "ends 1 ns late":
		end = end.Add(1)
	case "always lives 30 s":
		end = e.g.MintedAt.Add(30 * time.Second)
	case "whole seconds":
		end = end.Truncate(time.Second).Add(time.Second - 1)
	case "expires in the order of minting":
		if first := s.m[s.order[0]]; first.g.ExpiresAt.After(end) {
			end = first.g.ExpiresAt
		}
	}
	return now.After(end)
}

func (s *store) expiredError(e *entry, now time.Time, key tickets.Key) error {
	switch {
	case s.fault == "expired is unknown",
		s.fault == "forgets expired after 2 s" && now.Sub(e.g.ExpiresAt) > 2*time.Second:
		return tickets.ErrUnknown
	case s.fault == "remembers expiry once":
		delete(s.m, key.ID())
	case s.fault == "expired is only ErrInvalid":
		return tickets.ErrInvalid
	}
	return tickets.ErrExpired
}
