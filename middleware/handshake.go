package middleware

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	// maxQuery bounds the query of an upgrade: a ticket takes 50 bytes of it.
	maxQuery = 2 << 10

	ticketParam    = "ticket"
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = ticketParam + "." // in a list of subprotocols: ticket.<value>

	// methodPreface begins the client's preface of HTTP/2 (RFC 9113 section 3.4),
	// which net/http hands to the handler: one that speaks h2c takes the
	// connection, and whatever comes over it passes no guard.
	methodPreface = "PRI"
)

// resemblesUpgrade reports whether anything about r could make a WebSocket
// library or a proxy take it for an upgrade. Two of the libraries in use answer
// 101 to "Connection: not-upgrade": what resembles an upgrade must never get
// past a guard without a ticket.
func resemblesUpgrade(r *http.Request) bool {
	if r.Method == http.MethodConnect || r.Method == methodPreface || len(r.Header["Upgrade"]) > 0 {
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

// isWebSocketOnly reports whether a WebSocket is all that r asks for. A handler
// that speaks h2c as well would take an "Upgrade: websocket, h2c" for HTTP/2, and
// one ticket would be a tunnel to every path.
func isWebSocketOnly(r *http.Request) bool {
	_, h2c := r.Header["Http2-Settings"] // RFC 7540 section 3.2.1
	lines := r.Header["Upgrade"]
	return !h2c && len(lines) == 1 && strings.EqualFold(strings.Trim(lines[0], ", \t"), "websocket")
}

// isExtendedConnect reports whether r is a WebSocket over HTTP/2 (RFC 8441),
// which no library for net/http can take over: there is nothing to hijack.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && len(r.Header[":protocol"]) > 0
}

// stripTicket takes every ticket out of r, a shallow copy that is the caller's,
// so that none is left for a handler or its log. The URL that it gets goes into u.
func stripTicket(r *http.Request, u *url.URL) {
	if c := findTickets(r, true); c.any() {
		c.apply(r, u)
	}
	lines := r.Header[protocolHeader]
	if len(lines) == 0 {
		return
	}
	offered := splitList(lines)
	kept := slices.DeleteFunc(slices.Clone(offered), isTicketProtocol)
	if len(kept) == len(offered) {
		return
	}
	r.Header = r.Header.Clone() // others may hold on to the original
	if r.Header.Del(protocolHeader); len(kept) > 0 {
		r.Header.Set(protocolHeader, strings.Join(kept, ", "))
	}
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
		if strings.EqualFold(line, token) { // nearly always
			return true
		}
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
