package middleware

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// attempt is one request that wants in: what a guard has found out about it so
// far and, once it is refused, why. It stays on the caller's stack, for refusals
// come in floods.
type attempt struct {
	guard  *Guard
	r      *http.Request
	query  string // as the client sent it
	ip     string
	stream bool // AdmitRequests: no upgrade; live for as long as its handler

	inQuery int    // tickets in the query
	value   string // of the first of them
	ticket  tickets.Ticket
	gaps    uint64   // that had been found when the ticket was taken
	session *Session // of the grant; in the end, of who comes in

	rej Rejection
}

// refuse turns the request away for what is wrong with it by itself.
func (a *attempt) refuse(status int, code, reason string) bool {
	a.rej.be(audit.UpgradeRefused, status, code, reason)
	return false
}

// refuseTicket turns the request away for the sake of its ticket.
func (a *attempt) refuseTicket(status int, code, reason string, err error) bool {
	a.rej.be(audit.TicketRejected, status, code, reason)
	a.rej.Err = err
	return false
}

// refuseConsume answers everything that is wrong with a ticket alike, and tells
// only the audit which it was.
func (a *attempt) refuseConsume(err error) bool {
	reason, kinds := "", err
	for reason == "" && kinds != nil {
		switch kinds { // what the issuer says no with is one of them, wrapped once
		case tickets.ErrUnknown, tickets.ErrInvalid:
			reason = reasonUnknown
		case tickets.ErrUsed:
			reason = reasonUsed
		case tickets.ErrExpired:
			reason = reasonExpired
		case tickets.ErrRevoked:
			reason = reasonRevoked
		}
		kinds = errors.Unwrap(kinds)
	}
	if reason == "" {
		return a.refuseTicket(http.StatusServiceUnavailable, codeUnavailable, reasonStore, err)
	}
	return a.refuseTicket(http.StatusUnauthorized, codeTicketRejected, reason, err)
}

// checkUpgrade applies steps 1 and 2 to a request that is to become a socket.
func (a *attempt) checkUpgrade() bool {
	r := a.r
	switch {
	case isExtendedConnect(r):
		return a.refuse(http.StatusNotImplemented, codeNotImplemented, reasonNotUpgrade)
	case !isUpgrade(r):
		return a.refuse(http.StatusUpgradeRequired, codeUpgradeRequired, reasonNotUpgrade)
	case r.Method != http.MethodGet:
		a.refuse(http.StatusMethodNotAllowed, codeNotAllowed, reasonMethod)
		a.rej.allow = http.MethodGet
		return false
	case !r.ProtoAtLeast(1, 1): // RFC 9110 section 7.8: HTTP/1.0 cannot upgrade
		return a.refuse(http.StatusHTTPVersionNotSupported, codeHTTPVersion, reasonVersion)
	case !isOne(r.Header["Sec-Websocket-Version"], "13"):
		return a.refuse(http.StatusUpgradeRequired, codeUpgradeRequired, reasonVersion)
	case !a.checkQueryAndBody():
		return false
	case !hasKey(r.Header["Sec-Websocket-Key"]):
		return a.refuse(http.StatusBadRequest, codeBadRequest, reasonKey)
	case !isWebSocketOnly(r):
		return a.refuse(http.StatusBadRequest, codeBadRequest, reasonNotUpgrade)
	}
	return true
}

// checkQueryAndBody is the part of step 2 that concerns plain requests too. It
// finds the tickets in the query.
func (a *attempt) checkQueryAndBody() bool {
	if len(a.query) > maxQuery {
		return a.refuse(http.StatusRequestURITooLong, codeURITooLong, reasonQuery)
	}
	if !ticketsIn(a.query, func(value string) {
		if a.inQuery++; a.inQuery == 1 {
			a.value = value
		}
	}) {
		return a.refuse(http.StatusBadRequest, codeBadRequest, reasonQuery)
	}
	if a.r.ContentLength != 0 || len(a.r.TransferEncoding) > 0 {
		return a.refuse(http.StatusBadRequest, codeBadRequest, reasonBody)
	}
	return true
}

// findTicket finds the one ticket that the request carries, in its query or
// among its subprotocols. Its value may be anything that a client can send.
func (a *attempt) findTicket() bool {
	found, value, others := a.inQuery, a.value, 0
	for _, p := range splitList(a.r.Header[protocolHeader]) {
		if v, ok := strings.CutPrefix(p, protocolPrefix); !ok {
			others++
		} else if found++; found == 1 {
			value = v
		}
	}
	switch {
	case found > 1:
		return a.refuseTicket(http.StatusBadRequest, codeBadRequest, reasonTwoTickets, nil)
	case found == 0 || value == "":
		return a.refuseTicket(http.StatusUnauthorized, codeTicketRejected, reasonNoTicket, nil)
	case a.inQuery == 0 && others == 0:
		// The server must choose one of the protocols offered or the browser
		// drops the socket (RFC 6455 section 4.1), and it may not be the ticket.
		return a.refuse(http.StatusBadRequest, codeBadRequest, reasonKey)
	}
	a.ticket = tickets.Ticket(value)
	return true
}

// ticketsIn calls each with every value that url.ParseQuery finds under ticket
// in query, in order, and reports whether it accepts the query. It makes no map
// of what else is there.
func ticketsIn(query string, each func(value string)) (parses bool) {
	if len(query) > maxQuery { // there is a limit to the number of parameters
		values, err := url.ParseQuery(query)
		for _, v := range values[ticketParam] {
			each(v)
		}
		return err == nil
	}
	parses = true
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if strings.IndexByte(pair, ';') >= 0 {
			parses = false
			continue
		}
		name, nameErr := unescape(name)
		value, valueErr := unescape(value)
		switch {
		case nameErr != nil || valueErr != nil:
			parses = false
		case name == ticketParam:
			each(value)
		}
	}
	return parses
}

// unescape is url.QueryUnescape, of what seldom has anything to decode.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	return url.QueryUnescape(s)
}
