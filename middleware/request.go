package middleware

import (
	"context"
	"encoding/base64"
	"iter"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	maxQuery       = 2 << 10 // of an upgrade; a ticket takes 50 bytes of it
	ticketParam    = "ticket"
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = ticketParam + "." // in a list of subprotocols: ticket.<value>
)

// incoming is a parsed request for a socket or a stream.
type incoming struct {
	*http.Request
	query      string   // as the client sent it
	queryErr   error    // of url.ParseQuery
	inQuery    []string // values of the query's ticket parameters
	inProtocol []string // values of the subprotocols that are tickets
	protocols  []string // the other subprotocols
	overlong   bool     // the subprotocols are too long, and were not read

	stream bool // a plain request with a ticket, for AdmitRequests

	// For the audit, and the socket. ticketID is "" and session nil until they are known.
	ip       string
	ticketID string
	session  *Session
}

func readIncoming(r *http.Request) *incoming {
	in := &incoming{Request: r, query: r.URL.RawQuery}
	if q, ok := r.Context().Value(sentQueryKey{}).(*string); ok {
		in.query = *q
	}
	var values url.Values
	values, in.queryErr = url.ParseQuery(in.query)
	in.inQuery = values[ticketParam]
	offered := r.Header[protocolHeader]
	if in.overlong = len(strings.Join(offered, "")) > maxQuery; in.overlong {
		offered = nil // to split a megabyte of commas allocates a hundred
	}
	for p := range elements(offered) {
		if value, ok := strings.CutPrefix(p, protocolPrefix); ok {
			in.inProtocol = append(in.inProtocol, value)
		} else {
			in.protocols = append(in.protocols, p)
		}
	}
	return in
}

// check rejects what is no well-formed WebSocket upgrade (RFC 6455 section 4.2.1), or stream.
func (in *incoming) check(requireProtocol bool) *Rejection {
	h := in.Header
	switch {
	case in.stream:
	case isExtendedConnect(in.Request):
		return reject(refusedHTTP2, nil)
	case !hasToken(h["Connection"], "upgrade"), !hasToken(h["Upgrade"], "websocket"):
		return reject(refusedNotUpgrade, nil)
	case requireProtocol && len(in.inQuery) > 0:
		return reject(refusedQueryTicket, nil)
	case in.Method != http.MethodGet:
		return reject(refusedMethod, nil)
	case !in.ProtoAtLeast(1, 1): // RFC 9110 section 7.8: HTTP/1.0 cannot upgrade
		return reject(refusedHTTPVersion, nil)
	case joined(h["Sec-Websocket-Version"]) != "13":
		return reject(refusedVersion, nil)
	}
	_, h2c := h["Http2-Settings"]                                    // RFC 7540 section 3.2.1
	upgrade := strings.Trim(strings.Join(h["Upgrade"], ";"), ", \t") // one line, with one value
	key, notBase64 := base64.StdEncoding.DecodeString(joined(h["Sec-Websocket-Key"]))
	switch {
	case len(in.query) > maxQuery:
		return reject(refusedLongQuery, nil)
	case in.queryErr != nil:
		return reject(refusedQuery, nil)
	case in.ContentLength != 0, len(in.TransferEncoding) > 0:
		return reject(refusedBody, nil)
	case in.stream:
		return nil
	case in.overlong, notBase64 != nil, len(key) != 16:
		return reject(refusedKey, nil)
	case h2c, !strings.EqualFold(upgrade, "websocket"):
		// A handler that speaks h2c as well would take an "Upgrade: websocket, h2c" for HTTP/2, and
		// one ticket would be a tunnel to every path.
		return reject(refusedOtherUpgrade, nil)
	}
	return nil
}

// ticket returns the one ticket in the query or among the subprotocols. It may be any text.
func (in *incoming) ticket() (tickets.Ticket, *Rejection) {
	found := slices.Concat(in.inQuery, in.inProtocol)
	switch {
	case len(found) > 1:
		return "", reject(refusedTwoTickets, nil)
	case len(found) == 0 || found[0] == "":
		return "", reject(refusedNoTicket, nil)
	case len(in.inQuery) == 0 && len(in.protocols) == 0:
		// The server must choose one of the protocols offered or the browser drops the socket (RFC
		// 6455 section 4.1), and it may not be the ticket.
		return "", reject(refusedKey, nil)
	}
	return tickets.Ticket(found[0]), nil
}

// forHandler returns the request for the handler behind a Guard: with ctx, and without the ticket.
func (in *incoming) forHandler(ctx context.Context) *http.Request {
	r := in.WithContext(ctx)
	stripTickets(r, true)
	if len(in.inProtocol) > 0 {
		r.Header = r.Header.Clone() // others may hold on to the original
		r.Header.Set(protocolHeader, strings.Join(in.protocols, ", "))
	}
	return r
}

// resemblesUpgrade reports whether anything about r could make a WebSocket library or a proxy take
// it for an upgrade. Two of the libraries in use answer 101 to "Connection: not-upgrade": what
// resembles an upgrade must never get past a guard without a ticket.
func resemblesUpgrade(r *http.Request) bool {
	// PRI begins HTTP/2 (RFC 9113 section 3.4). net/http hands it to the handler: what comes over
	// it to one that speaks h2c passes no guard.
	if r.Method == http.MethodConnect || r.Method == "PRI" || len(r.Header["Upgrade"]) > 0 {
		return true
	}
	for name := range r.Header {
		if len(name) >= 14 && strings.EqualFold(name[:14], "Sec-Websocket-") {
			return true
		}
	}
	return false
}

// mayBeUpgrade reports whether r resembles an upgrade, or has "Connection: upgrade" alone.
func mayBeUpgrade(r *http.Request) bool {
	return resemblesUpgrade(r) || hasToken(r.Header["Connection"], "upgrade")
}

// isExtendedConnect reports whether r is a WebSocket over HTTP/2 (RFC 8441), which no library for
// net/http can take over: there is nothing to hijack.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && len(r.Header[":protocol"]) > 0
}

// joined returns the value that the lines of a field have together (RFC 9110 section 5.3).
func joined(lines []string) string { return textproto.TrimString(strings.Join(lines, ",")) }

// hasToken reports whether a list of one or more lines has token in it, in any case.
func hasToken(lines []string, token string) bool {
	for t := range elements(lines) {
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

// elements yields the elements of a list (RFC 9110 section 5.6.1) of one or more lines.
func elements(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for t := range strings.SplitSeq(line, ",") {
				if t = textproto.TrimString(t); t != "" && !yield(t) {
					return
				}
			}
		}
	}
}

// sentQueryKey finds the query before ConcealTicket, as a pointer: a context prints strings.
type sentQueryKey struct{}

// sentPath returns the path that the client asked for, whatever handlers have made of URL.Path. If
// routers may differ on it, it returns "", which equals no endpoint and no sign-in page.
func sentPath(r *http.Request) string {
	u, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		u = r.URL
	}
	if !isClean(u) || !oneSpelling(u) {
		return ""
	}
	return u.Path
}

// looksMinted reports whether a value could be a ticket that was minted here.
func looksMinted(value string) bool {
	return len(value) == 43 && !strings.ContainsFunc(value, isNotBase64URL)
}

func isNotBase64URL(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') &&
		c != '-' && c != '_'
}
