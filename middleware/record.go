package middleware

import (
	"log/slog"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// recordRejection writes the one audit line of a refusal, with the fields that
// its event has. ticket is "" and who is nil where they are not known.
func recordRejection(l *audit.Log, r *http.Request, rej *Rejection, ip string, ticket tickets.Ticket, who *Session) {
	if !l.Enabled() {
		l.Record(r.Context(), rej.event)
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	if who != nil && rej.event == audit.SessionVerifyFailure {
		attrs = append(attrs, slog.String("provider", who.Provider))
	}
	attrs = append(attrs,
		slog.String("reason", rej.Reason),
		slog.String("ip", ip),
		slog.String("path", cutField(r.URL.Path)))
	switch rej.event {
	case audit.UpgradeRefused:
		if origin := r.Header["Origin"]; len(origin) > 0 {
			attrs = append(attrs, slog.String("origin", cutField(strings.Join(origin, ", "))))
		}
	case audit.TicketRejected:
		if ticket != "" {
			attrs = append(attrs, slog.String("ticket_id", ticketID(ticket)))
		}
		if who != nil {
			attrs = append(attrs, slog.String("provider", who.Provider), slog.String("user_id", who.UserID))
		}
	}
	// What went wrong underneath is the operator's to know; that a ticket is
	// used or a session expired, the reason has said already.
	if rej.Err != nil && (rej.Status == http.StatusServiceUnavailable || rej.Reason == reasonEndpoint) {
		attrs = append(attrs, slog.String("error", rej.Err.Error()))
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
