package middleware

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// Rejection says why a request was refused: to the client in Code, to the audit in
// Reason and Err. OnReject receives it, and can answer from its fields as
// completely as ServeHTTP does, which answers where there is no OnReject.
type Rejection struct {
	Status     int           // the HTTP status
	Code       string        // the client reads it, such as "ticket_rejected"
	Reason     string        // the audit reads it, such as "used"
	CloseCode  int           // the WebSocket close code; 0: only ever refused in HTTP
	RetryAfter time.Duration // 0: no Retry-After
	Err        error         // what went wrong underneath; never shown to the client

	Allow      string // the Allow header of a 405
	LoginURL   string // where to sign in, with the way back in next; "": nowhere
	PageLoad   bool   // a person waits for a page: with a LoginURL, the answer is 302
	BodyReason string // the body's "reason": whether there was a credential; "": absent

	event   audit.Event // "": not recorded
	gone    bool        // the client has gone: nobody reads more than the status
	closing bool        // the connection is closed behind the answer
}

// A refusal is a row of the table of refusals.
type refusal uint8

// What a Gate, a Mint, and a Guard refuse. The last two are Sockets'.
const (
	refusedNoSession refusal = iota
	refusedSession
	refusedUndecided
	refusedClientGone
	refusedConnect

	refusedMintMethod
	refusedMintOrigin
	refusedMintNoSession
	refusedMintBody
	refusedMintTooLarge
	refusedMintType
	refusedMintEndpoint
	refusedMintExpired
	refusedMintRevoked
	refusedMintTooMany
	refusedMintStore

	refusedNotUpgrade
	refusedHTTP2
	refusedQueryTicket
	refusedMethod
	refusedHTTPVersion
	refusedVersion
	refusedLongQuery
	refusedQuery
	refusedBody
	refusedKey
	refusedOtherUpgrade
	refusedNotHijackable
	refusedOrigin
	refusedNoTicket
	refusedTwoTickets
	refusedUnknown
	refusedUsed
	refusedExpired
	refusedRevoked
	refusedStore
	refusedEndpoint
	refusedOtherSession
	refusedSessionOver
	refusedNotRestored
	refusedTooMany
	refusedGoingAway
)

// Close codes: RFC 6455 section 7.4.1, IANA's registry (1013: try again later),
// and the range that section 7.4.2 leaves to applications.
const (
	closeGoingAway    = 1001
	closeTryAgain     = 1013
	closeUnauthorized = 4401
	closeForbidden    = 4403
	closeTooMany      = 4429
)

// Codes that are reasons of close frames as well, or that more depends on.
const (
	codeUnauthenticated = "unauthenticated"
	codeSessionExpired  = "session_expired"
	codeUnavailable     = "unavailable"
	codeRejected        = "ticket_rejected"
	codeBad             = "bad_request"

	reasonVersion   = "version"
	reasonGoingAway = "going_away"
)

// refusals is the table of all that is refused.
var refusals = [...]struct {
	status    int
	code      string
	closeCode int
	event     audit.Event
	reason    string
}{
	// Having no session is everyday life: every page's first request.
	refusedNoSession:  {401, codeUnauthenticated, closeUnauthorized, "", "no_session"},
	refusedSession:    {401, codeSessionExpired, closeUnauthorized, audit.SessionVerifyFailure, "invalid_or_expired_session"},
	refusedUndecided:  {503, codeUnavailable, closeTryAgain, audit.SessionVerifyFailure, "unavailable"},
	refusedClientGone: {503, codeUnavailable, closeTryAgain, "", "unavailable"},
	refusedConnect:    {405, "method_not_allowed", 0, audit.UpgradeRefused, "method"},

	refusedMintMethod:    {405, "method_not_allowed", 0, audit.MintRefused, "method"},
	refusedMintOrigin:    {403, "forbidden", closeForbidden, audit.MintRefused, "origin"},
	refusedMintNoSession: {401, codeUnauthenticated, closeUnauthorized, audit.MintRefused, "session"},
	refusedMintBody:      {400, codeBad, 0, audit.MintRefused, "body"},
	refusedMintTooLarge:  {413, "too_large", 0, audit.MintRefused, "body"},
	refusedMintType:      {415, "unsupported_media_type", 0, audit.MintRefused, "body"},
	refusedMintEndpoint:  {403, "forbidden", closeForbidden, audit.MintRefused, "endpoint"},
	refusedMintExpired:   {401, codeSessionExpired, closeUnauthorized, audit.MintRefused, "session"},
	refusedMintRevoked:   {401, codeSessionExpired, closeUnauthorized, audit.MintRefused, "revoked"},
	refusedMintTooMany:   {429, "too_many", closeTooMany, audit.MintRefused, "too_many"},
	refusedMintStore:     {503, codeUnavailable, closeTryAgain, audit.MintRefused, "store"},

	refusedNotUpgrade:    {426, "upgrade_required", 0, audit.UpgradeRefused, "not_upgrade"},
	refusedHTTP2:         {501, "not_implemented", 0, audit.UpgradeRefused, "not_upgrade"},
	refusedQueryTicket:   {400, codeBad, 0, audit.UpgradeRefused, "query_ticket"},
	refusedMethod:        {405, "method_not_allowed", 0, audit.UpgradeRefused, "method"},
	refusedHTTPVersion:   {505, "http_version_not_supported", 0, audit.UpgradeRefused, reasonVersion},
	refusedVersion:       {426, "upgrade_required", 0, audit.UpgradeRefused, reasonVersion},
	refusedLongQuery:     {414, "uri_too_long", 0, audit.UpgradeRefused, "query"},
	refusedQuery:         {400, codeBad, 0, audit.UpgradeRefused, "query"},
	refusedBody:          {400, codeBad, 0, audit.UpgradeRefused, "body"},
	refusedKey:           {400, codeBad, 0, audit.UpgradeRefused, "key"},
	refusedOtherUpgrade:  {400, codeBad, 0, audit.UpgradeRefused, "not_upgrade"},
	refusedNotHijackable: {501, "not_implemented", 0, audit.UpgradeRefused, "not_hijackable"},
	refusedOrigin:        {403, "forbidden", closeForbidden, audit.UpgradeRefused, "origin"},
	refusedNoTicket:      {401, codeRejected, closeUnauthorized, audit.TicketRejected, "no_ticket"},
	refusedTwoTickets:    {400, codeBad, 0, audit.TicketRejected, "two_tickets"},
	refusedUnknown:       {401, codeRejected, closeUnauthorized, audit.TicketRejected, "unknown"},
	refusedUsed:          {401, codeRejected, closeUnauthorized, audit.TicketRejected, "used"},
	refusedExpired:       {401, codeRejected, closeUnauthorized, audit.TicketRejected, "expired"},
	refusedRevoked:       {401, codeRejected, closeUnauthorized, audit.TicketRejected, "revoked"},
	refusedStore:         {503, codeUnavailable, closeTryAgain, audit.TicketRejected, "store"},
	refusedEndpoint:      {403, "forbidden", closeForbidden, audit.TicketRejected, "endpoint"},
	refusedOtherSession:  {403, "forbidden", closeForbidden, audit.TicketRejected, "session"},
	refusedSessionOver:   {401, codeRejected, closeUnauthorized, audit.TicketRejected, "session"},
	refusedNotRestored:   {503, codeUnavailable, closeTryAgain, audit.TicketRejected, "session"},
	refusedTooMany:       {429, "too_many", closeTooMany, audit.UpgradeRefused, "too_many"},
	refusedGoingAway:     {503, codeUnavailable, closeGoingAway, audit.UpgradeRefused, reasonGoingAway},
}

// retryAfter is how long a client is asked to wait: long enough not to add to the
// trouble of a store, short enough that a page comes back by itself.
const retryAfter = 2 * time.Second

// reject returns the Rejection of a row. err is for the audit, or nil.
func reject(why refusal, err error) *Rejection {
	row := &refusals[why]
	rej := &Rejection{
		Status: row.status, Code: row.code, Reason: row.reason, CloseCode: row.closeCode,
		Err: err, event: row.event, gone: why == refusedClientGone,
	}
	switch row.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		rej.RetryAfter = retryAfter
	}
	switch row.code {
	case codeUnauthenticated:
		rej.BodyReason = "no_session"
	case codeSessionExpired:
		rej.BodyReason = "invalid_or_expired_session"
	}
	return rej
}

// rejectMethod returns the Rejection of a row whose status is 405.
func rejectMethod(why refusal, allow string) *Rejection {
	rej := reject(why, nil)
	rej.Allow = allow
	return rej
}

// rejectConsume returns the Rejection for an error of Issuer.Consume. The client
// cannot tell what is wrong with a ticket; the audit can.
func rejectConsume(err error) *Rejection {
	switch {
	case errors.Is(err, tickets.ErrUsed):
		return reject(refusedUsed, err)
	case errors.Is(err, tickets.ErrExpired):
		return reject(refusedExpired, err)
	case errors.Is(err, tickets.ErrRevoked):
		return reject(refusedRevoked, err)
	case errors.Is(err, tickets.ErrInvalid):
		return reject(refusedUnknown, err)
	}
	return reject(refusedStore, err)
}

// closeConnection makes the answer the last one on the connection of r, which resembles an
// upgrade: a proxy may forward what comes behind one without waiting for the 101,
// and nothing of that may be served. HTTP/2 has no such connections.
func (rej *Rejection) closeConnection(r *http.Request) { rej.closing = r.ProtoMajor == 1 }

// prepare sets what every answer needs, also that of an OnReject.
func (rej *Rejection) prepare(h http.Header) {
	if rej.closing {
		h.Set("Connection", "close")
	}
}

// answer calls onReject, or ServeHTTP where there is none.
func (rej *Rejection) answer(w http.ResponseWriter, r *http.Request, onReject func(http.ResponseWriter, *http.Request, *Rejection)) {
	if onReject == nil || rej.gone {
		rej.ServeHTTP(w, r)
		return
	}
	rej.prepare(w.Header())
	onReject(w, r, rej)
}

// ServeHTTP answers the request with the rejection: a JSON body that names Code,
// or the redirect to sign-in for a page load. Applications that call
// [Gate.Authenticate] or [Guard.Admit] themselves call it when there is a
// Rejection.
func (rej *Rejection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := rej.Status
	if status < 400 || status > 599 { // an application's own: a refusal must not look like success
		status = http.StatusInternalServerError
	}
	h := w.Header()
	rej.prepare(h)
	h.Set("Cache-Control", "no-store")
	if rej.gone { // or half gone, and still reading: an empty answer would be 200
		w.WriteHeader(status)
		return
	}
	h.Add("Vary", "Cookie")
	if rej.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((rej.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if rej.Allow != "" {
		h.Set("Allow", rej.Allow)
	}
	if rej.PageLoad && rej.LoginURL != "" {
		h.Set("Location", rej.LoginURL)
		w.WriteHeader(http.StatusFound)
		return
	}
	if status == http.StatusUpgradeRequired {
		rej.requireUpgrade(h, r)
	}
	// Strings cannot fail to encode.
	body, _ := json.Marshal(struct {
		Error    string `json:"error"`
		Detail   string `json:"detail"`
		Reason   string `json:"reason,omitempty"`
		LoginURL string `json:"login_url,omitempty"`
	}{rej.Code, http.StatusText(status), rej.BodyReason, rej.LoginURL})
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// requireUpgrade sets the header fields of a 426.
func (rej *Rejection) requireUpgrade(h http.Header, r *http.Request) {
	if rej.Reason == reasonVersion {
		h.Set("Sec-WebSocket-Version", "13") // RFC 6455 section 4.4
	}
	if r.ProtoMajor == 1 { // HTTP/2 has no such fields (RFC 9113 section 8.2.2)
		// net/http closes only where the first line is exactly "close".
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	}
}

// record writes the one audit line of a refusal. ticketID is "" and who is nil
// where they are not known.
func (rej *Rejection) record(l *audit.Log, r *http.Request, ip, ticketID string, who *Session) {
	if rej.event == "" {
		return
	}
	var attrs []slog.Attr
	add := func(name, value string) { attrs = append(attrs, slog.String(name, value)) }
	if who != nil && rej.event == audit.SessionVerifyFailure {
		add("provider", who.Provider)
	}
	add("reason", rej.Reason)
	add("ip", ip)
	add("path", cutField(r.URL.Path))
	if ticketID != "" && rej.event == audit.TicketRejected {
		add("ticket_id", ticketID)
	}
	if who != nil && (rej.event == audit.TicketRejected || rej.event == audit.MintRefused) {
		add("provider", who.Provider)
		add("user_id", who.UserID)
		if rej.event == audit.MintRefused && who.ID != "" {
			add("session", shortSessionID(who.ID))
		}
	}
	if origin := r.Header["Origin"]; len(origin) > 0 && (rej.event == audit.UpgradeRefused || rej.event == audit.MintRefused) {
		add("origin", cutField(strings.Join(origin, ", ")))
	}
	// What went wrong underneath is for the operator; that a ticket is used or a
	// session expired, reason says already.
	if rej.Err != nil && (rej.Status == http.StatusServiceUnavailable || rej.Status == http.StatusForbidden) {
		add("error", rej.Err.Error())
	}
	l.Record(r.Context(), rej.event, attrs...)
}

// maxField bounds what a stranger's path and Origin take of a line: it bounds
// the cost of redaction, and how fast refusals fill the log's files.
const maxField = 1 << 10

func cutField(s string) string {
	if len(s) <= maxField {
		return s
	}
	n := maxField
	for n > maxField-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
