package audit

import "log/slog"

// An Event names what happened. Applications may record events of their own
// beside these; a name is a few words in lower case, joined by underscores.
type Event string

// What a log is told. The application records the first six; the names are
// here so that one log serves.
const (
	LoginStart           Event = "login_start"
	LoginSuccess         Event = "login_success"
	LoginFailure         Event = "login_failure"
	Logout               Event = "logout"
	RefreshSuccess       Event = "refresh_success"
	RefreshFailure       Event = "refresh_failure"
	Revoke               Event = "revoke"
	SessionVerifyFailure Event = "session_verify_failure"
	TicketMinted         Event = "ws_ticket_minted"
	MintRefused          Event = "ws_mint_refused"
	TicketRejected       Event = "ws_ticket_rejected"
	UpgradeRefused       Event = "ws_upgrade_refused"
	SocketOpened         Event = "ws_opened"
	SocketClosed         Event = "ws_closed"
)

// refusal reports whether e is what a stranger can cause as often as he likes.
func (e Event) refusal() bool {
	switch e {
	case LoginFailure, RefreshFailure, SessionVerifyFailure,
		MintRefused, TicketRejected, UpgradeRefused:
		return true
	}
	return false
}

// level is what a slog.Handler sees: Warn for a refusal, Info for the rest.
func (e Event) level() slog.Level {
	if e.refusal() {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}
