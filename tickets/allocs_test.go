//go:build !race

package tickets_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/tickets"
)

// The race detector allocates on its own account, hence the build tag.
func TestMintAndConsume_AllocateTwice(t *testing.T) {
	store := tickets.NewMemoryStore(nil)
	i := mustIssuer(t, store, &tickets.IssuerOptions{MaxPerSession: 1 << 20})
	g := tickets.Grant{
		SessionID: "0123456789abcdef0123456789abcdef",
		Provider:  "oidc",
		UserID:    "0123456789abcdef",
		Data:      "room",
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := testing.AllocsPerRun(20000, func() {
		ticket, err := i.Mint(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Consume(ctx, ticket); err != nil {
			t.Fatal(err)
		}
	})
	assert.LessOrEqual(t, n, 2.0, "the ticket, and the strings of its grant")
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _ = i.Revoked(g) }))
	unknown := tickets.Ticket(strings.Repeat("A", 43))
	for _, ticket := range []tickets.Ticket{"", "no ticket", unknown} {
		assert.LessOrEqual(
			t,
			testing.AllocsPerRun(1000, func() { _, _ = i.Consume(ctx, ticket) }),
			1.0,
			"the error",
		)
	}
}
