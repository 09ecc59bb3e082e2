package middleware

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/ticketgate/ticketgate/audit"
)

// Rejection says why a request was turned away: to the client in Code, to the
// audit in Reason and Err. It is what OnReject receives; its ServeHTTP is what
// is answered where there is no OnReject.
type Rejection struct {
	Status     int           // the HTTP status
	Code       string        // what the client is told, such as "ticket_rejected"
	Reason     string        // what the audit is told, such as "used"
	CloseCode  int           // the WebSocket close code; 0: only ever refused in HTTP
	RetryAfter time.Duration // 0: no Retry-After
	Err        error         // what went wrong underneath; never shown to the client

	event    audit.Event
	why      string // the body's "reason", where there is one
	loginURL string // the body's "login_url"
	redirect bool   // a page load: 302 to loginURL in place of a body
	allow    string // the Allow header that a 405 must have
	gone     bool   // the client has gone: there is nobody to tell more than the status
	hangUp   bool   // the connection is closed behind the answer
}

// Codes of a [Rejection], as the client reads them.
const (
	codeUnauthenticated = "unauthenticated"
	codeSessionExpired  = "session_expired"
	codeUnavailable     = "unavailable"
	codeTicketRejected  = "ticket_rejected"
	codeForbidden       = "forbidden"
	codeUpgradeRequired = "upgrade_required"
	codeBadRequest      = "bad_request"
	codeTooMany         = "too_many"
	codeNotAllowed      = "method_not_allowed"
	codeURITooLong      = "uri_too_long"
	codeTooLarge        = "too_large"
	codeMediaType       = "unsupported_media_type"
	codeNotImplemented  = "not_implemented"
	codeHTTPVersion     = "http_version_not_supported"
)

// Close codes from the range that RFC 6455 section 7.4.2 leaves to applications.
const (
	closeUnauthorized = 4401
	closeForbidden    = 4403
	closeTooMany      = 4429
	closeTryAgain     = 1013 // IANA's registry: try again later
	closeGoingAway    = 1001
)

// Reasons of a Rejection, as the audit reads them.
const (
	reasonNoSession      = "no_session"
	reasonInvalidSession = "invalid_or_expired_session"
	reasonUnavailable    = "unavailable"

	reasonNoTicket   = "no_ticket"
	reasonTwoTickets = "two_tickets"
	reasonUnknown    = "unknown"
	reasonUsed       = "used"
	reasonExpired    = "expired"
	reasonRevoked    = "revoked"
	reasonEndpoint   = "endpoint"
	reasonSession    = "session"
	reasonStore      = "store"

	reasonNotUpgrade = "not_upgrade"
	reasonMethod     = "method"
	reasonVersion    = "version"
	reasonKey        = "key" // and whatever else is wrong with a Sec-WebSocket header
	reasonBody       = "body"
	reasonQuery      = "query"
	reasonOrigin     = "origin"
	reasonTooMany    = "too_many"
)

// refuse makes the Rejection of a request that is wrong by itself.
func refuse(status int, code, reason string) *Rejection {
	rej := newRejection(audit.UpgradeRefused, status, code, reason)
	return &rej
}

// ticketRejection makes the Rejection of a request for the sake of its ticket.
func ticketRejection(status int, code, reason string) *Rejection {
	rej := newRejection(audit.TicketRejected, status, code, reason)
	return &rej
}

func newRejection(event audit.Event, status int, code, reason string) Rejection {
	var rej Rejection
	rej.be(event, status, code, reason)
	return rej
}

// be fills in a Rejection where it stands. Copies of what newRejection returns
// would take a kilobyte of the stack under every upgrade.
func (rej *Rejection) be(event audit.Event, status int, code, reason string) {
	rej.event, rej.Status, rej.Code, rej.Reason = event, status, code, reason
	switch status {
	case http.StatusUnauthorized:
		rej.CloseCode = closeUnauthorized
	case http.StatusForbidden:
		rej.CloseCode = closeForbidden
	case http.StatusTooManyRequests:
		rej.CloseCode, rej.RetryAfter = closeTooMany, retryAfter
	case http.StatusServiceUnavailable:
		rej.CloseCode, rej.RetryAfter = closeTryAgain, retryAfter
	}
}

// retryAfter is what a client is asked to wait when a store or a session
// backend fails: long enough not to add to its trouble, short enough that a
// page comes back by itself.
const retryAfter = 2 * time.Second

// hangUpOn makes the answer the last one on the connection of r, which resembles
// an upgrade: a proxy may forward what comes behind one without waiting for the
// 101, and nothing of that may be served. HTTP/2 has no such connections.
func (rej *Rejection) hangUpOn(r *http.Request) {
	rej.hangUp = r.ProtoMajor == 1
}

// prepare sets what every answer needs, also that of an OnReject.
func (rej *Rejection) prepare(h http.Header) {
	if rej.hangUp {
		h.Set("Connection", "close")
	}
}

// ServeHTTP answers the request with the rejection: a JSON body that names Code,
// or the redirect to sign-in for a page load. Applications that call
// [Gate.Authenticate] or [Guard.Admit] themselves call it when there is a
// Rejection.
func (rej *Rejection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := rej.Status
	if status < 400 || status > 599 { // an application's own Rejection: what refuses must not look like success
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
	if rej.allow != "" {
		h.Set("Allow", rej.allow)
	}
	if rej.redirect {
		h.Set("Location", rej.loginURL)
		w.WriteHeader(http.StatusFound)
		return
	}
	if rej.Reason == reasonVersion && status == http.StatusUpgradeRequired {
		h.Set("Sec-WebSocket-Version", "13") // RFC 6455 section 4.4
	}
	if status == http.StatusUpgradeRequired && r.ProtoMajor == 1 { // HTTP/2 has no such fields (RFC 9113 section 8.2.2)
		// net/http closes only where the first line is exactly "close".
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	}
	// Strings cannot fail to encode.
	body, _ := json.Marshal(struct {
		Error    string `json:"error"`
		Detail   string `json:"detail"`
		Reason   string `json:"reason,omitempty"`
		LoginURL string `json:"login_url,omitempty"`
	}{rej.Code, http.StatusText(status), rej.why, rej.loginURL})
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
