package storetest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

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
		"remembers expiry once":            {isExpired},
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
				err := storetest.Check(
					func() (tickets.Store, error) { return newStore(fault), nil },
				)
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
		err = storetest.Check(
			func() (tickets.Store, error) { return newStore("ends at its end"), nil },
		)
		require.ErrorContains(
			t,
			err,
			untilEnd+": take at the instant of ExpiresAt: invalid ticket: expired",
		)
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
