// Package middleware is what a request meets on its way to a WebSocket: the [Gate] that asks who is
// there, the [Mint] that hands the page a ticket, and the [Guard] that consumes it at the upgrade
// and passes on to any WebSocket library. Wrap is a func(http.Handler) http.Handler.
//
//	page → gate.Wrap(mint)                                POST /api/auth/ws-ticket
//	page → ConcealTicket(accessLog(guard.Wrap(socket)))   GET /ws?ticket=…
//
// ConcealTicket goes before whatever writes URLs down, the Guard right before the socket's handler,
// and nothing that changes r.Method, the Upgrade headers or the query in between.
//
// # What is refused
//
// A refusal is one line in the audit, written before the client gets its answer: a JSON object
// whose error says what the client can act on. Over [RejectByClosing], and when a live socket is
// closed, a page reads the close code instead, with the error as its reason. A request without a
// credential is normal, and not recorded ("-"). The audit alone learns the [Rejection]'s Reason; it
// shows ticket and session ids only hashed. This is all that is refused:
//
//	event                   status error                      close reasons
//	-                       401    unauthenticated            4401  no_session
//	-                       503    unavailable                1013  unavailable
//	session_verify_failure  401    session_expired            4401  invalid_or_expired_session
//	session_verify_failure  503    unavailable                1013  unavailable
//	ws_mint_refused         400    bad_request                -     body
//	ws_mint_refused         401    session_expired            4401  revoked, session
//	ws_mint_refused         401    unauthenticated            4401  session
//	ws_mint_refused         403    forbidden                  4403  endpoint, origin
//	ws_mint_refused         405    method_not_allowed         -     method
//	ws_mint_refused         413    too_large                  -     body
//	ws_mint_refused         415    unsupported_media_type     -     body
//	ws_mint_refused         429    too_many                   4429  too_many
//	ws_mint_refused         503    unavailable                1013  store
//	ws_ticket_rejected      400    bad_request                -     two_tickets
//	ws_ticket_rejected      401    ticket_rejected            4401  expired, no_ticket, revoked,
//	                                                              session, unknown, used
//	ws_ticket_rejected      403    forbidden                  4403  endpoint, session
//	ws_ticket_rejected      503    unavailable                1013  session, store
//	ws_upgrade_refused      400    bad_request                -     body, key, not_upgrade, query,
//	                                                              query_ticket
//	ws_upgrade_refused      403    forbidden                  4403  origin
//	ws_upgrade_refused      405    method_not_allowed         -     method
//	ws_upgrade_refused      414    uri_too_long               -     query
//	ws_upgrade_refused      426    upgrade_required           -     not_upgrade, version
//	ws_upgrade_refused      429    too_many                   4429  too_many
//	ws_upgrade_refused      501    not_implemented            -     not_hijackable, not_upgrade
//	ws_upgrade_refused      503    unavailable                1001  going_away
//	ws_upgrade_refused      505    http_version_not_supported -     version
//
// 401 asks a page to sign in (login_url says where), and a page load is redirected; ticket_rejected
// is one answer for every ticket that is not valid. With 400, 405, 413, 414, 415, 426, 501 and 505
// the request itself is wrong; its ticket is still valid. 429 and 503 have Retry-After, and leave
// cookies alone. As a reason, key is whatever is wrong with a Sec-WebSocket header, not_upgrade at
// 400 an upgrade to more than a WebSocket, and session a session that has ended, that Restore
// refused, or (403) that is not the one in the request's context.
//
// A live socket is closed with 4401 (session_revoked, session_expired, or the application's own
// reason), 4429 (evicted), 1013 (unavailable), 1001 (going_away) or 1011 (panic); ws_closed has the
// reason: see [CloseError]. ws_upgrade_refused with upgrade_failed is a socket whose handler never
// took the connection, and session_verify_failure with recheck a Restore that could not decide.
//
// What cannot be decided is refused, and signs nobody out.
package middleware
