package audit

// An Event names what happened. Applications may record other events too. A name is a few words in
// lower case, joined by underscores.
type Event string

// The application records the first six events, with the fields provider, user_id, ip and reason.
// Package middleware records the others, with the fields in the comment above each.
//
// session is the first 12 hexadecimal digits of the SHA-256 of the session's id, ticket_id those of
// the ticket's SHA-256, and socket_id a random number. They connect the lines of one session, one
// ticket and one socket, and are no credentials. user is such a hash of a user whose id is unknown.
// A refusal with status 403 or 503 may also have an error.
const (
	LoginStart     Event = "login_start"
	LoginSuccess   Event = "login_success"
	LoginFailure   Event = "login_failure"
	Logout         Event = "logout"
	RefreshSuccess Event = "refresh_success"
	RefreshFailure Event = "refresh_failure"

	// reason, ip, path; provider where it is known
	SessionVerifyFailure Event = "session_verify_failure"
	// provider, user_id, ip, ticket_id, endpoint; session if it has an id
	TicketMinted Event = "ws_ticket_minted"
	// reason, ip, path; origin, provider, user_id, session where they are known
	MintRefused Event = "ws_mint_refused"
	// reason, ip, path; ticket_id, provider, user_id where they are known
	TicketRejected Event = "ws_ticket_rejected"
	// reason, ip, path; origin where it is known
	UpgradeRefused Event = "ws_upgrade_refused"
	// provider, user_id, ip, path, ticket_id, socket_id; session if it has an id
	SocketOpened Event = "ws_opened"
	// the fields of ws_opened; reason, close_code, seconds
	SocketClosed Event = "ws_closed"
	// session, or provider and user_id, or user; reason; sockets: the number that it closed
	Revoke Event = "revoke"
)

// refusal reports whether strangers can cause e as often as they like.
func (e Event) refusal() bool {
	return e == LoginFailure || e == RefreshFailure || e == SessionVerifyFailure ||
		e == MintRefused || e == TicketRejected || e == UpgradeRefused
}
