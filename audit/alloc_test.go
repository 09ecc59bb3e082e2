//go:build !race

package audit_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/audit"
)

// The race detector allocates on its own account.
func TestRecord_AllocatesAtMostTwice(t *testing.T) {
	l, _ := open(t, nil)
	allocs := testing.AllocsPerRun(1000, func() {
		l.Record(ctx, audit.TicketMinted,
			slog.String("provider", "oidc"), slog.String("user_id", "u1"),
			slog.String("ip", "203.0.113.9"),
			slog.String("ticket_id", "c0ffee123456"), slog.String("endpoint", "/ws/pty"),
			slog.String("agent", "Mozilla/5.0 (X11)"))
	})
	assert.LessOrEqual(t, allocs, 2.0)
}
