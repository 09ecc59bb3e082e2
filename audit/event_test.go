package audit_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// The names are what readers of the log look for, and a refusal is what they are
// warned of.
func TestEvents(t *testing.T) {
	for _, tt := range []struct {
		event audit.Event
		name  string
		level slog.Level
	}{
		{audit.LoginStart, "login_start", slog.LevelInfo},
		{audit.LoginSuccess, "login_success", slog.LevelInfo},
		{audit.LoginFailure, "login_failure", slog.LevelWarn},
		{audit.Logout, "logout", slog.LevelInfo},
		{audit.RefreshSuccess, "refresh_success", slog.LevelInfo},
		{audit.RefreshFailure, "refresh_failure", slog.LevelWarn},
		{audit.Revoke, "revoke", slog.LevelInfo},
		{audit.SessionVerifyFailure, "session_verify_failure", slog.LevelWarn},
		{audit.TicketMinted, "ws_ticket_minted", slog.LevelInfo},
		{audit.MintRefused, "ws_mint_refused", slog.LevelWarn},
		{audit.TicketRejected, "ws_ticket_rejected", slog.LevelWarn},
		{audit.UpgradeRefused, "ws_upgrade_refused", slog.LevelWarn},
		{audit.SocketOpened, "ws_opened", slog.LevelInfo},
		{audit.SocketClosed, "ws_closed", slog.LevelInfo},
		{"password_changed", "password_changed", slog.LevelInfo}, // an application's own
	} {
		t.Run(tt.name, func(t *testing.T) {
			attrs := []slog.Attr{
				slog.String("provider", "oidc"), slog.String("user_id", "u1"),
				slog.String("ip", "203.0.113.9"), slog.String("reason", "why"),
				slog.String("refresh_token", "CANARY"),
			}
			var line map[string]string
			require.NoError(t, json.Unmarshal([]byte(record(t, tt.event, attrs...)), &line))
			assert.NotEmpty(t, line["ts"])
			delete(line, "ts")
			want := map[string]string{"event": tt.name, "provider": "oidc", "user_id": "u1",
				"ip": "203.0.113.9", "reason": "why"}
			assert.Equal(t, want, line)

			var got slog.Record
			audit.New(handler(func(_ context.Context, r slog.Record) error {
				got = r.Clone()
				return nil
			})).Record(ctx, tt.event, attrs...)
			assert.Equal(t, tt.name, got.Message)
			assert.Equal(t, tt.level, got.Level)
		})
	}
}
