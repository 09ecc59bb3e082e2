package audit

// An Event names what happened. Applications may record events of their own beside these; a name is
// a few words in lower case, joined by underscores.
type Event string

// The application records the first six; the names are here so that one log serves. provider,
// user_id, ip and reason are their fields. The others are recorded by package middleware, with the
// fields that stand beside them.
//
// session is the first 12 hexadecimal digits of the SHA-256 of the session's id, ticket_id those of
// the ticket's, and socket_id a random number: they join the lines of one session, one ticket and
// one socket, and open no door. The lines with a provider and user_id name the user's sessions.
const (
	LoginStart     Event = "login_start"
	LoginSuccess   Event = "login_success"
	LoginFailure   Event = "login_failure"
	Logout         Event = "logout"
	RefreshSuccess Event = "refresh_success"
	RefreshFailure Event = "refresh_failure"

	// provider, reason, ip, path
	SessionVerifyFailure Event = "session_verify_failure"
	// provider, user_id, ip, ticket_id, endpoint, session
	TicketMinted Event = "ws_ticket_minted"
	// reason, ip, path, origin; provider, user_id, session where they are known
	MintRefused Event = "ws_mint_refused"
	// reason, ip, path, ticket_id; provider, user_id where they are known
	TicketRejected Event = "ws_ticket_rejected"
	// reason, ip, path, origin
	UpgradeRefused Event = "ws_upgrade_refused"
	// provider, user_id, ip, path, ticket_id, socket_id, session
	SocketOpened Event = "ws_opened"
	// those of ws_opened, and reason, close_code, seconds
	SocketClosed Event = "ws_closed"
	// session, or provider and user_id; reason, and sockets: how many it closed
	Revoke Event = "revoke"
)

// refusal reports whether strangers can cause e as often as they like.
func (e Event) refusal() bool {
	return e == LoginFailure || e == RefreshFailure || e == SessionVerifyFailure ||
		e == MintRefused || e == TicketRejected || e == UpgradeRefused
}
