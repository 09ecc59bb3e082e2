package storetest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// forgetful is what a first attempt at a store looks like.
type forgetful struct{ m sync.Map }

func (f *forgetful) Put(_ context.Context, key tickets.Key, g tickets.Grant) error {
	f.m.Store(key.ID(), g)
	return nil
}

func (f *forgetful) Take(_ context.Context, key tickets.Key) (tickets.Grant, error) {
	g, ok := f.m.LoadAndDelete(key.ID())
	if !ok {
		return tickets.Grant{}, tickets.ErrUnknown
	}
	return g.(tickets.Grant), nil
}

func ExampleCheck() {
	err := storetest.Check(func() (tickets.Store, error) { return new(forgetful), nil })
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		rule, _, _ := strings.Cut(err.Error(), ": ") // and what it saw
		fmt.Println(rule)
	}
	// Output:
	// a used ticket is ErrUsed
	// a key is put once
	// a ticket is refused after its end
	// every ticket has its own end
	// a used ticket is ErrUsed for as long as it would have lived
}
