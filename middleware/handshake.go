package middleware

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	// maxQuery bounds the query of an upgrade: a ticket takes 50 bytes of it.
	maxQuery = 2 << 10

	ticketParam    = "ticket"
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = ticketParam + "." // in a list of subprotocols: ticket.<value>
)

// resemblesUpgrade reports whether anything about r could make a WebSocket
// library or a proxy take it for an upgrade. Two of the libraries in use answer
// 101 to "Connection: not-upgrade": what resembles an upgrade must never get
// past a guard without a ticket.
func resemblesUpgrade(r *http.Request) bool {
	if r.Method == http.MethodConnect || len(r.Header["Upgrade"]) > 0 {
		return true
	}
	for name := range r.Header {
		if len(name) >= 14 && strings.EqualFold(name[:14], "Sec-Websocket-") {
			return true
		}
	}
	return false
}

// isUpgrade reports whether r asks for a WebSocket (RFC 6455 section 4.2.1,
// items 3 and 4).
func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

// isExtendedConnect reports whether r is a WebSocket over HTTP/2 (RFC 8441),
// which no library for net/http can take over: there is nothing to hijack.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && len(r.Header[":protocol"]) > 0
}

// checkUpgrade applies steps 1 and 2 to a request that is to become a socket.
func checkUpgrade(r *http.Request, query string) *Rejection {
	switch {
	case isExtendedConnect(r):
		return refuse(http.StatusNotImplemented, codeNotImplemented, reasonNotUpgrade)
	case !isUpgrade(r):
		return refuse(http.StatusUpgradeRequired, codeUpgradeRequired, reasonNotUpgrade)
	case r.Method != http.MethodGet:
		rej := refuse(http.StatusMethodNotAllowed, codeNotAllowed, reasonMethod)
		rej.allow = http.MethodGet
		return rej
	case !r.ProtoAtLeast(1, 1): // RFC 9110 section 7.8: HTTP/1.0 cannot upgrade
		return refuse(http.StatusHTTPVersionNotSupported, codeHTTPVersion, reasonVersion)
	case !isOne(r.Header["Sec-Websocket-Version"], "13"):
		return refuse(http.StatusUpgradeRequired, codeUpgradeRequired, reasonVersion)
	}
	if rej := checkQueryAndBody(r, query); rej != nil {
		return rej
	}
	if !hasKey(r.Header["Sec-Websocket-Key"]) {
		return refuse(http.StatusBadRequest, codeBadRequest, reasonKey)
	}
	return nil
}

// checkQueryAndBody is the part of step 2 that concerns plain requests too.
func checkQueryAndBody(r *http.Request, query string) *Rejection {
	if len(query) > maxQuery {
		return refuse(http.StatusRequestURITooLong, codeURITooLong, reasonQuery)
	}
	if !parses(query) {
		return refuse(http.StatusBadRequest, codeBadRequest, reasonQuery)
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return refuse(http.StatusBadRequest, codeBadRequest, reasonBody)
	}
	return nil
}

// parses reports whether url.ParseQuery accepts a query. Nothing but an escape
// or a semicolon can be wrong with a short one.
func parses(query string) bool {
	if len(query) <= maxQuery && !strings.ContainsAny(query, "%;") {
		return true
	}
	_, err := url.ParseQuery(query)
	return err == nil
}

// findTicket returns the one ticket that r carries, in its query or among its
// subprotocols. Its value may be anything that a client can send.
func findTicket(r *http.Request, query string) (tickets.Ticket, *Rejection) {
	values, _ := url.ParseQuery(query)
	found := values[ticketParam]
	others := 0
	protocols := r.Header[protocolHeader]
	for _, p := range splitList(protocols) {
		if value, ok := strings.CutPrefix(p, protocolPrefix); ok {
			found = append(found, value)
		} else {
			others++
		}
	}
	switch {
	case len(found) > 1:
		return "", ticketRejection(http.StatusBadRequest, codeBadRequest, reasonTwoTickets)
	case len(found) == 0 || found[0] == "":
		return "", ticketRejection(http.StatusUnauthorized, codeTicketRejected, reasonNoTicket)
	case len(values[ticketParam]) == 0 && others == 0:
		// The server must choose one of the protocols offered or the browser
		// drops the socket (RFC 6455 section 4.1), and it may not be the ticket.
		return "", refuse(http.StatusBadRequest, codeBadRequest, reasonKey)
	}
	return tickets.Ticket(found[0]), nil
}

// stripTicket returns r, or a shallow copy, in which no ticket is left for a
// handler or its log.
func stripTicket(r *http.Request) *http.Request {
	stripped := stripURL(r, true)
	offered := splitList(r.Header[protocolHeader])
	kept := slices.DeleteFunc(slices.Clone(offered), isTicketProtocol)
	if len(kept) == len(offered) {
		return stripped
	}
	if stripped == r {
		stripped = new(http.Request)
		*stripped = *r
	}
	stripped.Header = stripped.Header.Clone() // others may hold on to the original
	if stripped.Header.Del(protocolHeader); len(kept) > 0 {
		stripped.Header.Set(protocolHeader, strings.Join(kept, ", "))
	}
	return stripped
}

func isTicketProtocol(p string) bool { return strings.HasPrefix(p, protocolPrefix) }

// hasKey reports whether there is one Sec-WebSocket-Key, of 16 bytes.
func hasKey(lines []string) bool {
	if len(lines) != 1 {
		return false
	}
	var key [18]byte // room for what 24 characters can decode to
	value := trimOWS(lines[0])
	if len(value) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Decode(key[:], []byte(value))
	return err == nil && n == 16
}

func isOne(lines []string, want string) bool {
	return len(lines) == 1 && trimOWS(lines[0]) == want
}

// hasToken reports whether a list that may stretch over several lines has
// token in it, in any case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for line != "" {
			var t string
			t, line, _ = strings.Cut(line, ",")
			if strings.EqualFold(trimOWS(t), token) {
				return true
			}
		}
	}
	return false
}

func splitList(lines []string) []string {
	var list []string
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if t = trimOWS(t); t != "" {
				list = append(list, t)
			}
		}
	}
	return list
}
