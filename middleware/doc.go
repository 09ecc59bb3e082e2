// Package middleware is what a request meets on its way to a WebSocket: the
// [Gate] that asks who is there, the [Mint] that hands the page a ticket, and
// the [Guard] that takes it at the upgrade and passes on to any WebSocket
// library. All are plain net/http: Wrap is a func(http.Handler) http.Handler.
//
//	page → gate.Wrap(mint)                                POST /api/auth/ws-ticket
//	page → ConcealTicket(accessLog(guard.Wrap(socket)))   GET /ws?ticket=…
//
// ConcealTicket goes before whatever writes URLs down, the Guard right before
// the socket's handler, and nothing that changes r.Method, the Upgrade headers
// or the query in between.
//
// # What a client is told
//
// A refusal is a JSON object whose error names what the client can act on:
//
//	401  unauthenticated, session_expired   sign in (login_url says where); a page load is redirected
//	401  ticket_rejected                    unknown, used, expired or revoked: one answer for all
//	403  forbidden                          the Origin, or a ticket for another endpoint
//	426  upgrade_required                   no WebSocket upgrade, or not version 13
//	400, 405, 413, 414, 415, 501, 505       the request itself is wrong; its ticket is not spent
//	429  too_many                           Retry-After
//	503  unavailable                        it could not be decided: Retry-After, cookies untouched
//
// Over [RejectByClosing], and when a live socket is ended, a page reads it as a
// close code: 4401 for a ticket or session that is no good (any more), 4403 for
// origin and endpoint, 4429 for too many, 1013 for try again, 1001 when the
// server goes away. The reason that comes with it is the error above, or
// session_revoked or session_expired.
//
// # What the operator is told
//
// Every decision but the everyday one, a request without any credential, is one
// line in the audit, written before the client is answered. The client learns
// the Code of a [Rejection] (and at a 401 of Gate or Mint, in reason, whether it
// had a credential at all), the audit its Reason. Ticket and session ids appear
// only hashed. The reasons:
//
//	session_verify_failure  invalid_or_expired_session; unavailable; recheck: Restore could not decide
//	ws_ticket_rejected      no_ticket, two_tickets; unknown, used, expired, revoked; endpoint: made out
//	                        for another path; session: it ended, or is another one; store: it failed
//	ws_upgrade_refused      not_upgrade (or not only to a WebSocket), method, version, key (or a
//	                        subprotocol), body, query, origin, too_many; upgrade_failed: admitted, and
//	                        the handler never took the connection
//	ws_closed               session_revoked, session_expired, too_many, unavailable, going_away, closed
//	                        (by the handler), dropped, or the application's own
//	revoke                  the application's own; one line on every node
//
// A refused mint is told as ws_upgrade_refused or ws_ticket_rejected, with the
// reason that fits.
//
// # What is promised
//
// Whatever cannot be decided lets nobody in and signs nobody out. A request that
// is malformed, comes from another site's page or finds no room has not spent
// its ticket; the ticket is taken last. A socket ends when its session does: see
// [Sockets].
package middleware
