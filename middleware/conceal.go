package middleware

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ConcealTicket takes the ticket out of the URL before next sees the request:
// put it in front of the access log and of whatever else records URLs. The
// [Guard] behind it still finds the ticket, and judges the query as it was
// sent.
//
// It acts on every request that resembles a WebSocket upgrade, and on any other
// whose query has a parameter that looks like one of ours: 43 characters of
// base64url under a name that contains ticket, in any case (?TICKET=, ?ticket[]=,
// ??ticket=). An application's own "?ticket=ST-1" stays. The parameter goes from
// URL.RawQuery, RequestURI and every URL in Referer; a query that does not parse,
// and may hide one, goes whole. A ticket that travels in Sec-WebSocket-Protocol, a
// header that nobody logs, stays where it is for the Guard.
//
// A ticket that a log has caught is worth little: it is valid once, and for
// seconds. But it is a credential until it is used.
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

// forHandler returns the request as the handler behind a Guard gets it: with ctx, and
// without the ticket, also in Sec-WebSocket-Protocol.
func (in *incoming) forHandler(ctx context.Context) *http.Request {
	r := in.WithContext(ctx)
	stripTickets(r, true)
	if len(in.inProtocol) == 0 {
		return r
	}
	r.Header = r.Header.Clone() // others may hold on to the original
	if r.Header.Del(protocolHeader); len(in.protocols) > 0 {
		r.Header.Set(protocolHeader, strings.Join(in.protocols, ", "))
	}
	return r
}

// stripTickets takes the tickets out of the URLs of r, and reports whether there were
// any. What r shares with other requests stays as it is. With all, every ticket
// parameter goes; without, those that look like one of ours.
func stripTickets(r *http.Request, all bool) (changed bool) {
	sent := r.URL.RawQuery
	query := stripQuery(sent, all)
	uri := r.RequestURI
	if path, same := strings.CutSuffix(uri, "?"+sent); !same || strings.Contains(path, "?") {
		uri = stripURI(uri, all)
	} else if query != sent {
		uri = withQuery(path, query)
	}
	if query != sent || uri != r.RequestURI {
		changed = true
		u := *r.URL
		u.RawQuery, u.ForceQuery = query, false
		r.URL, r.RequestURI = &u, uri
	}
	var referers []string
	for i, line := range r.Header["Referer"] {
		if stripped := stripURI(line, all); stripped != line {
			if referers == nil {
				r.Header = r.Header.Clone()
				referers = r.Header["Referer"]
			}
			referers[i] = stripped
		}
	}
	if changed = changed || referers != nil; changed {
		r.Form = nil // an outer ParseForm kept the ticket: parse anew
	}
	return changed
}

func stripURI(uri string, all bool) string {
	path, query, _ := strings.Cut(uri, "?")
	if stripped := stripQuery(query, all); stripped != query {
		return withQuery(path, stripped)
	}
	return uri
}

func withQuery(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}

// stripQuery takes out ticket parameters, and leaves every other byte as it was.
func stripQuery(query string, all bool) string {
	named := all || strings.Contains(strings.ToLower(unescapeTwice(query)), ticketParam)
	if query == "" || !named {
		return query
	}
	if _, err := url.ParseQuery(query); err != nil {
		return ""
	}
	var left []string
	for pair := range strings.SplitSeq(query, "&") {
		if !holdsTicket(pair, all) {
			left = append(left, pair)
			continue
		}
		// A second ? begins no query, but pages write it.
		before := pair[:max(0, strings.IndexAny(pair, "?#"))]
		if before != "" && !holdsTicket(before, all) {
			left = append(left, before)
		}
	}
	return strings.Join(left, "&")
}

// holdsTicket reports whether a pair is a ticket's, or looks like one: 43
// characters of base64url under a name that contains ticket, in any case. With
// all, whatever is called ticket is one.
func holdsTicket(pair string, all bool) bool {
	if name, _, _ := strings.Cut(pair, "="); all && unescapeValid(name) == ticketParam {
		return true
	}
	_, rest, named := strings.Cut(strings.ToLower(unescapeTwice(pair)), ticketParam)
	_, value, _ := strings.Cut(rest, "=")
	return named && slices.ContainsFunc(strings.FieldsFunc(value, isNotBase64URL), looksMinted)
}

// unescapeTwice decodes a URL in a URL, too.
func unescapeTwice(s string) string { return unescapeValid(unescapeValid(s)) }

// unescapeValid decodes what is a valid escape and keeps what is not, so that
// no broken escape elsewhere in a query hides a parameter's name.
func unescapeValid(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(v))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
