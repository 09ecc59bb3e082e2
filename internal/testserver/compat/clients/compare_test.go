package clients

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// differences between a TicketSocket and the browser's WebSocket: these, and no other.
var differences = map[string]string{
	"name of the constructor": "it says what it is",
	"length of the constructor": "of a class that with returns: " +
		"it passes on all that it gets",
	"for in":    "send and close are methods of a class, and so are left out",
	"isTrusted": "a page cannot make an event that is trusted",
	"microtasks between two listeners": "the event is dispatched by a script, " +
		"and so they run after all listeners",
	"close(only a reason), connecting": "Chromium refuses a reason without a code, " +
		"which the standard allows",
}

// A TicketSocket does what a WebSocket does, case by case, in one page.
func TestBehavesAsWebSocket(t *testing.T) {
	a := newApp(t)
	page := a.open()
	// What a browser says about the cases that fail, and what TicketSocket says.
	for _, expected := range []string{
		"WebSocket", "not a valid enum value of type BinaryType", "4403 ", "4400 "} {
		page.Expect(expected)
	}
	var found struct {
		Count       int
		Differences map[string]struct{ Native, Ticket string }
	}
	page.EvalIn(5*patience, `import('/cases/compare.js').then((m) => m.compare())`, &found)
	t.Logf("%d cases, %d differences", found.Count, len(found.Differences))
	assert.GreaterOrEqual(t, found.Count, 150)
	for name, d := range found.Differences {
		if _, ok := differences[name]; !ok {
			t.Errorf("%s\nWebSocket:    %s\nTicketSocket: %s", name, d.Native, d.Ticket)
		}
	}
	for name, why := range differences {
		assert.Contains(t, found.Differences, name, "it does not differ: %s", why)
	}
}
