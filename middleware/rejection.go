package middleware

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// Rejection says why a request was refused: to the client in Code, to the audit in Reason and Err.
// OnReject can answer from its fields as completely as ServeHTTP does, which is the default.
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

	why     *refusal // its row in the table
	closing bool     // the answer is the last one on its connection
}

// Codes and reasons with more than one use.
const (
	codeUnauthenticated = "unauthenticated"
	codeExpired         = "session_expired"
	unavailable         = "unavailable"
	badSession          = "invalid_or_expired_session"
)

// refusal is a row of the table of refusals.
type refusal struct {
	status    int
	code      string
	closeCode int
	event     audit.Event // "": not recorded
	reason    string
}

// The table of all that a Gate, a Mint, and a Guard with its Sockets refuse. A request without a
// session is normal, and not recorded: every page's first one is.
var (
	refusedNoSession     = &refusal{401, codeUnauthenticated, 4401, "", "no_session"}
	refusedSession       = &refusal{401, codeExpired, 4401, audit.SessionVerifyFailure, badSession}
	refusedUndecided     = &refusal{503, unavailable, 1013, audit.SessionVerifyFailure, unavailable}
	refusedClientGone    = &refusal{503, unavailable, 1013, "", unavailable}
	refusedConnect       = &refusal{405, "method_not_allowed", 0, audit.UpgradeRefused, "method"}
	refusedMintMethod    = &refusal{405, "method_not_allowed", 0, audit.MintRefused, "method"}
	refusedMintOrigin    = &refusal{403, "forbidden", 4403, audit.MintRefused, "origin"}
	refusedMintNoSession = &refusal{401, codeUnauthenticated, 4401, audit.MintRefused, "session"}
	refusedMintBody      = &refusal{400, "bad_request", 0, audit.MintRefused, "body"}
	refusedMintTooLarge  = &refusal{413, "too_large", 0, audit.MintRefused, "body"}
	refusedMintType      = &refusal{415, "unsupported_media_type", 0, audit.MintRefused, "body"}
	refusedMintEndpoint  = &refusal{403, "forbidden", 4403, audit.MintRefused, "endpoint"}
	refusedMintExpired   = &refusal{401, codeExpired, 4401, audit.MintRefused, "session"}
	refusedMintRevoked   = &refusal{401, codeExpired, 4401, audit.MintRefused, "revoked"}
	refusedMintTooMany   = &refusal{429, "too_many", 4429, audit.MintRefused, "too_many"}
	refusedMintStore     = &refusal{503, unavailable, 1013, audit.MintRefused, "store"}
	refusedNotUpgrade    = &refusal{426, "upgrade_required", 0, audit.UpgradeRefused, "not_upgrade"}
	refusedHTTP2         = &refusal{501, "not_implemented", 0, audit.UpgradeRefused, "not_upgrade"}
	refusedQueryTicket   = &refusal{400, "bad_request", 0, audit.UpgradeRefused, "query_ticket"}
	refusedMethod        = &refusal{405, "method_not_allowed", 0, audit.UpgradeRefused, "method"}
	refusedHTTPVersion   = &refusal{505, "http_version_not_supported", 0,
		audit.UpgradeRefused, "version"}
	refusedVersion       = &refusal{426, "upgrade_required", 0, audit.UpgradeRefused, "version"}
	refusedLongQuery     = &refusal{414, "uri_too_long", 0, audit.UpgradeRefused, "query"}
	refusedQuery         = &refusal{400, "bad_request", 0, audit.UpgradeRefused, "query"}
	refusedBody          = &refusal{400, "bad_request", 0, audit.UpgradeRefused, "body"}
	refusedKey           = &refusal{400, "bad_request", 0, audit.UpgradeRefused, "key"}
	refusedOtherUpgrade  = &refusal{400, "bad_request", 0, audit.UpgradeRefused, "not_upgrade"}
	refusedNotHijackable = &refusal{501, "not_implemented", 0,
		audit.UpgradeRefused, "not_hijackable"}
	refusedOrigin       = &refusal{403, "forbidden", 4403, audit.UpgradeRefused, "origin"}
	refusedNoTicket     = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "no_ticket"}
	refusedTwoTickets   = &refusal{400, "bad_request", 0, audit.TicketRejected, "two_tickets"}
	refusedUnknown      = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "unknown"}
	refusedUsed         = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "used"}
	refusedExpired      = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "expired"}
	refusedRevoked      = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "revoked"}
	refusedStore        = &refusal{503, unavailable, 1013, audit.TicketRejected, "store"}
	refusedEndpoint     = &refusal{403, "forbidden", 4403, audit.TicketRejected, "endpoint"}
	refusedOtherSession = &refusal{403, "forbidden", 4403, audit.TicketRejected, "session"}
	refusedSessionEnd   = &refusal{401, "ticket_rejected", 4401, audit.TicketRejected, "session"}
	refusedNotRestored  = &refusal{503, unavailable, 1013, audit.TicketRejected, "session"}
	refusedTooMany      = &refusal{429, "too_many", 4429, audit.UpgradeRefused, "too_many"}
	refusedGoingAway    = &refusal{503, unavailable, 1001, audit.UpgradeRefused, "going_away"}
)

// retryAfter is long enough to spare a store in trouble, and short enough for a page to wait.
const retryAfter = 2 * time.Second

// reject returns the Rejection of a row. err is for the audit, or nil.
func reject(why *refusal, err error) *Rejection {
	rej := &Rejection{
		Status: why.status, Code: why.code, Reason: why.reason, CloseCode: why.closeCode,
		Err: err, why: why,
	}
	if why.status == http.StatusTooManyRequests || why.status == http.StatusServiceUnavailable {
		rej.RetryAfter = retryAfter
	}
	switch why.code {
	case codeUnauthenticated:
		rej.BodyReason = refusedNoSession.reason
	case codeExpired:
		rej.BodyReason = badSession
	}
	switch why {
	case refusedConnect:
		rej.Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	case refusedMintMethod:
		rej.Allow = http.MethodPost
	case refusedMethod:
		rej.Allow = http.MethodGet
	}
	return rej
}

// rejectConsume returns the Rejection for an error of Consume. Only the audit learns which.
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

// answer calls onReject, or ServeHTTP where there is none.
func (rej *Rejection) answer(
	w http.ResponseWriter, r *http.Request,
	onReject func(http.ResponseWriter, *http.Request, *Rejection),
) {
	if onReject == nil || rej.why == refusedClientGone {
		rej.ServeHTTP(w, r)
		return
	}
	if rej.closing {
		w.Header().Set("Connection", "close")
	}
	onReject(w, r, rej)
}

// ServeHTTP answers the request: with a JSON body that names Code, or the redirect to sign-in for a
// page load. Call it after [Gate.Authenticate] or [Guard.Admit] has returned a Rejection.
func (rej *Rejection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := rej.Status
	if status < 400 || status > 599 { // an application's own: a refusal must not look like success
		status = http.StatusInternalServerError
	}
	h := w.Header()
	if rej.closing {
		h.Set("Connection", "close")
	}
	h.Set("Cache-Control", "no-store")
	if rej.why == refusedClientGone { // it may still read: an empty answer would be 200
		w.WriteHeader(status)
		return
	}
	h.Add("Vary", "Cookie")
	if rej.RetryAfter > 0 {
		seconds := (rej.RetryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
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
	if rej.Reason == refusedVersion.reason {
		h.Set("Sec-WebSocket-Version", "13") // RFC 6455 section 4.4
	}
	if r.ProtoMajor == 1 { // HTTP/2 has no such fields (RFC 9113 section 8.2.2)
		// net/http closes only where the first line is exactly "close".
		h["Connection"] = []string{"close", "Upgrade"}
		h.Set("Upgrade", "websocket")
	}
}

// record writes the one audit line of a refusal. An unknown ticketID is "", an unknown who is nil.
func (rej *Rejection) record(l *audit.Log, r *http.Request, ip, ticketID string, who *Session) {
	event := rej.why.event
	if event == "" {
		return
	}
	minting := event == audit.MintRefused
	var attrs []slog.Attr
	add := func(name, value string) { attrs = append(attrs, slog.String(name, value)) }
	if who != nil && event == audit.SessionVerifyFailure {
		add("provider", who.Provider)
	}
	add("reason", rej.Reason)
	add("ip", ip)
	add("path", cutField(r.URL.Path))
	if ticketID != "" && event == audit.TicketRejected {
		add("ticket_id", ticketID)
	}
	if who != nil && (minting || event == audit.TicketRejected) {
		add("provider", who.Provider)
		add("user_id", who.UserID)
		if minting && who.ID != "" {
			add("session", shortSessionID(who.ID))
		}
	}
	if origin := r.Header["Origin"]; origin != nil && (minting || event == audit.UpgradeRefused) {
		add("origin", cutField(strings.Join(origin, ", ")))
	}
	// What went wrong underneath; that a ticket is used or a session expired, reason says already.
	undecided := rej.Status == http.StatusServiceUnavailable
	if rej.Err != nil && (undecided || rej.Status == http.StatusForbidden) {
		add("error", rej.Err.Error())
	}
	l.Record(r.Context(), event, attrs...)
}

// maxField bounds a stranger's path and Origin in a line: redaction takes time, and files fill up.
const maxField = 1 << 10

func cutField(s string) string {
	if len(s) <= maxField {
		return s
	}
	return strings.ToValidUTF8(s[:maxField], "") // the last rune may be cut
}

// shortHex is the hexadecimal of the first 6 bytes of a hash, as the audit shows them.
func shortHex(hash []byte) string { return hex.EncodeToString(hash[:6]) }
