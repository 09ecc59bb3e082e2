package middleware

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// ConcealTicket takes the ticket out of the URL before next sees the request: put it in front of
// the access log and of whatever else records URLs. The [Guard] behind it still finds the ticket,
// and judges the query as it was sent.
//
// It acts on every request that resembles a WebSocket upgrade, and on any other whose query has a
// parameter that looks like one of ours: 43 characters of base64url under a name that contains
// ticket, in any case (?TICKET=, ?ticket[]=, ??ticket=). An application's own "?ticket=ST-1" stays.
// The parameter goes from URL.RawQuery, RequestURI and every URL in Referer; a query that does not
// parse, and may hide one, goes whole. A ticket in Sec-WebSocket-Protocol, a header that
// access logs leave out, stays where it is for the Guard.
func ConcealTicket(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, ctx := r.URL.RawQuery, r.Context()
		concealed := r.WithContext(ctx)
		if stripTickets(concealed, resemblesUpgrade(r)) {
			// Once: an inner ConcealTicket sees a query that has lost it.
			if _, ok := ctx.Value(sentQueryKey{}).(*string); !ok {
				ctx = context.WithValue(ctx, sentQueryKey{}, &query)
			}
			r = concealed.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// stripTickets takes what holdsTicket out of the URLs of r, a copy, and reports whether it did.
func stripTickets(r *http.Request, all bool) (changed bool) {
	query, uri := stripQuery(r.URL.RawQuery, all), stripURI(r.RequestURI, all)
	if query != r.URL.RawQuery || uri != r.RequestURI {
		changed = true
		u := *r.URL
		u.RawQuery, u.ForceQuery = query, false
		r.URL, r.RequestURI = &u, uri
	}
	cloned := false
	for i, line := range r.Header["Referer"] {
		if stripped := stripURI(line, all); stripped != line {
			if !cloned {
				r.Header, cloned = r.Header.Clone(), true
			}
			r.Header["Referer"][i] = stripped
		}
	}
	if changed = changed || cloned; changed {
		r.Form = nil // an outer ParseForm kept the ticket: parse anew
	}
	return changed
}

func stripURI(uri string, all bool) string {
	path, query, _ := strings.Cut(uri, "?")
	stripped := stripQuery(query, all)
	switch stripped {
	case query:
		return uri
	case "":
		return path
	}
	return path + "?" + stripped
}

// stripQuery takes out ticket parameters, and leaves every other byte as it was.
func stripQuery(query string, all bool) string {
	found := all && query != ""
	for pair := range strings.SplitSeq(query, "&") {
		found = found || holdsTicket(pair, all)
	}
	if !found {
		return query
	}
	if _, err := url.ParseQuery(query); err != nil {
		return ""
	}
	var left []string
	for pair := range strings.SplitSeq(query, "&") {
		if holdsTicket(pair, all) {
			// A second ? begins no query, but pages write it.
			pair = pair[:max(0, strings.IndexAny(pair, "?#"))]
			if pair == "" || holdsTicket(pair, all) {
				continue
			}
		}
		left = append(left, pair)
	}
	return strings.Join(left, "&")
}

// holdsTicket reports whether a pair looks like a ticket of ours, or, with all, is called ticket.
func holdsTicket(pair string, all bool) bool {
	name, _, _ := strings.Cut(pair, "=")
	if name, err := url.QueryUnescape(name); all && err == nil && name == ticketParam {
		return true
	}
	once, err := url.QueryUnescape(pair)
	if err != nil { // a broken escape may hide the name, and lengthen the run
		return hasRun(pair, len(pair))
	}
	twice, err := url.QueryUnescape(once) // a URL in a URL
	if err != nil {
		return strings.Contains(strings.ToLower(once), ticketParam) && hasRun(once, len(once))
	}
	_, rest, named := strings.Cut(strings.ToLower(twice), ticketParam)
	_, value, _ := strings.Cut(rest, "=")
	return named && hasRun(value, 43)
}

// hasRun reports whether s has a run of 43 to most characters of base64url. It copies nothing: s
// may be a header of 1 MB.
func hasRun(s string, most int) bool {
	for run := range strings.FieldsFuncSeq(s, isNotBase64URL) {
		if len(run) >= 43 && len(run) <= most {
			return true
		}
	}
	return false
}
