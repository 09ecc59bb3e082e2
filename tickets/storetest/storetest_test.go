package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// store is the plainest store that keeps the contract, but for its fault.
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
	case s.fault == "tells of expiry once":
		delete(s.m, key.ID())
	case s.fault == "expired is only ErrInvalid":
		return tickets.ErrInvalid
	}
	return tickets.ErrExpired
}

// broken returns the names of the rules that a store breaks.
func broken(err error) []string {
	if err == nil {
		return nil
	}
	var names []string
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		name, _, _ := strings.Cut(err.Error(), ": ")
		names = append(names, name)
	}
	return names
}

const (
	comesBack   = "a grant comes back as it was put"
	isUnknown   = "what was never put is ErrUnknown"
	goodOnce    = "a ticket is good once"
	isUsed      = "a used ticket is ErrUsed"
	oneWinner   = "a ticket has one winner"
	putOnce     = "a key is put once"
	apart       = "tickets do not mix"
	noEviction  = "a good ticket makes no room for another"
	untilEnd    = "a ticket lives until its end, that instant included"
	afterEnd    = "a ticket is refused after its end"
	ownEnd      = "every ticket has its own end"
	isExpired   = "an expired ticket is ErrExpired for 5 s"
	usedLong    = "a used ticket is ErrUsed for as long as it would have lived"
	usedForGood = "a used ticket is never good again"
	noGrant     = "an error comes with no grant"
	makesRoom   = "expired tickets fill no store"
	sameKey     = "keys of one ticket are one key"
)

func TestCheckFindsWhatIsBroken(t *testing.T) {
	for fault, want := range map[string][]string{
		"":                                 nil,
		"get, then delete":                 {oneWinner},
		"good twice":                       {goodOnce, oneWinner},
		"no expiry":                        {afterEnd, ownEnd},
		"ends at its end":                  {untilEnd},
		"ends 1 ns late":                   {afterEnd},
		"always lives 30 s":                {ownEnd, afterEnd},
		"whole seconds":                    {afterEnd, ownEnd},
		"expires in the order of minting":  {ownEnd},
		"drops all when one expires":       {ownEnd},
		"forgets what was used":            {isUsed, putOnce, usedLong},
		"used is unknown":                  {isUsed, usedLong},
		"forgets used after half a second": {usedLong},
		"forgets used at the end":          {usedLong},
		"good again after its end":         {usedForGood},
		"an error of its own for used":     {isUsed, usedLong},
		"an error of its own for unknown":  {isUnknown},
		"expired is unknown":               {isExpired},
		"expired is only ErrInvalid":       {isExpired},
		"tells of expiry once":             {isExpired},
		"forgets expired after 2 s":        {isExpired},
		"returns another's grant":          {apart},
		"loses Data":                       {comesBack},
		"loses the endpoint":               {comesBack},
		"loses microseconds":               {comesBack},
		"swaps provider and user":          {comesBack, apart},
		"has UnixNano":                     {comesBack},
		"has Unix for unknown times":       {comesBack},
		"cuts long ids":                    {comesBack},
		"a grant beside the error":         {noGrant},
		"evicts when full":                 {noEviction},
		"evicts a used one, then any":      {noEviction},
		"full is ErrInvalid":               {noEviction, makesRoom},
		"full is some error":               {noEviction, makesRoom},
		"expired ones count":               {makesRoom},
		"Put overwrites":                   {putOnce},
		"Put overwrites a used key":        {putOnce},
		"Put overwrites and complains":     {putOnce},
		"compares Keys":                    {sameKey},
	} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := storetest.Check(func() (tickets.Store, error) { return newStore(fault), nil })
				assert.ElementsMatch(t, want, broken(err), "%v", err)
			})
		})
	}
}

// In real time the nanosecond is out of reach. A good store passes however busy the machine is; of
// the broken ones these are found as surely.
func TestCheckInRealTime(t *testing.T) {
	var wg sync.WaitGroup
	for fault, want := range map[string][]string{
		"":                         nil,
		"ends at its end":          nil,
		"ends 1 ns late":           nil,
		"no expiry":                {afterEnd, ownEnd},
		"get, then delete":         {oneWinner},
		"good again after its end": {usedForGood},
	} {
		wg.Go(func() { // not parallel subtests, which are as few as there are processors
			err := storetest.Check(func() (tickets.Store, error) { return newStore(fault), nil })
			assert.ElementsMatch(t, want, broken(err), "%s: %v", fault, err)
		})
	}
	wg.Wait()
}

func TestCheckSaysWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := storetest.Check(func() (tickets.Store, error) { return newStore("loses Data"), nil })
		require.ErrorContains(t, err, comesBack+`: Data is "", want "dddd`)
		err = storetest.Check(func() (tickets.Store, error) { return newStore("ends at its end"), nil })
		require.ErrorContains(t, err, untilEnd+": take at the instant of ExpiresAt: invalid ticket: expired")
	})
}

func TestCheckWithoutAStore(t *testing.T) {
	down := errors.New("connection refused")
	err := storetest.Check(func() (tickets.Store, error) { return nil, down })
	require.ErrorIs(t, err, down)
}

// A store that fails at everything breaks every rule, and Check survives it.
func TestCheckOfAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := failing{errors.New("connection refused")}
		err := storetest.Check(func() (tickets.Store, error) { return down, nil })
		assert.Len(t, broken(err), 17)
	})
}

type failing struct{ err error }

func (f failing) Put(context.Context, tickets.Key, tickets.Grant) error { return f.err }
func (f failing) Take(context.Context, tickets.Key) (tickets.Grant, error) {
	return tickets.Grant{}, f.err
}
