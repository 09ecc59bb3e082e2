package middleware

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
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
// and may hide one, goes whole. A ticket that travels in Sec-WebSocket-Protocol, a header
// that nobody logs, stays where it is for the Guard.
//
// A ticket that a log has caught is worth little: it is good once, and for
// seconds. But it is a credential until it is used.
func ConcealTicket(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := findTickets(r, resemblesUpgrade(r)); c.any() {
			ctx := r.Context()
			// Once: an inner ConcealTicket sees a query that has lost it.
			if _, ok := ctx.Value(sentQueryKey{}).(*string); !ok {
				query := r.URL.RawQuery
				ctx = context.WithValue(ctx, sentQueryKey{}, &query)
			}
			r = r.WithContext(ctx)
			c.apply(r, new(url.URL))
		}
		next.ServeHTTP(w, r)
	})
}

// sentQueryKey finds the query as the client sent it; a pointer, for a context
// prints the strings that it carries.
type sentQueryKey struct{}

func sentQuery(r *http.Request) string {
	if q, ok := r.Context().Value(sentQueryKey{}).(*string); ok {
		return *q
	}
	return r.URL.RawQuery
}

// looksMinted reports whether a value could be a ticket that was minted here.
func looksMinted(value string) bool {
	if len(value) != 43 {
		return false
	}
	for i := 0; i < len(value); i++ {
		if !isBase64URL(value[i]) {
			return false
		}
	}
	return true
}

// concealed is how a request's URL, RequestURI and Referer read without the
// tickets that are in them.
type concealed struct {
	query, uri string
	referers   []string

	url, referer bool // which of them read differently
}

func (c *concealed) any() bool { return c.url || c.referer }

// findTickets looks for what has to go from a request. With all, every ticket
// parameter goes; without, those that look like one of ours.
func findTickets(r *http.Request, all bool) (c concealed) {
	sent := r.URL.RawQuery
	c.query, c.url = stripQuery(sent, all)
	c.uri = r.RequestURI
	if path, ok := strings.CutSuffix(c.uri, sent); !ok || !strings.HasSuffix(path, "?") {
		uri, changed := stripURI(c.uri, all)
		c.uri, c.url = uri, c.url || changed
	} else if c.url {
		c.uri = withQuery(path[:len(path)-1], c.query)
	}
	c.referers = r.Header["Referer"]
	for i, line := range c.referers {
		if stripped, changed := stripURI(line, all); changed {
			if !c.referer {
				c.referers, c.referer = slices.Clone(c.referers), true
			}
			c.referers[i] = stripped
		}
	}
	return c
}

// apply changes r, which is a shallow copy that is the caller's; its URL goes
// into u.
func (c *concealed) apply(r *http.Request, u *url.URL) {
	*u = *r.URL
	u.RawQuery, u.ForceQuery = c.query, false
	r.URL, r.RequestURI = u, c.uri
	r.Form = nil // an outer ParseForm kept the ticket: parse anew
	if c.referer {
		r.Header = r.Header.Clone() // others may hold on to the original
		r.Header["Referer"] = c.referers
	}
}

func stripURI(uri string, all bool) (kept string, changed bool) {
	path, query, _ := strings.Cut(uri, "?")
	query, changed = stripQuery(query, all)
	if !changed {
		return uri, false
	}
	return withQuery(path, query), true
}

func withQuery(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}

// stripQuery takes out ticket parameters, and leaves every other byte as it was.
func stripQuery(query string, all bool) (kept string, changed bool) {
	if query == "" {
		return "", false
	}
	decoded := unescapeTwice(query)
	named := strings.Contains(decoded, ticketParam) || strings.Contains(strings.ToLower(decoded), ticketParam)
	if !named && !all {
		return query, false
	}
	if !ticketsIn(query, func(string) {}) {
		return "", true
	}
	if !named {
		return query, false
	}
	var left []string
	for pair := range strings.SplitSeq(query, "&") {
		if !holdsTicket(pair, all) {
			left = append(left, pair)
			continue
		}
		changed = true
		// A second ? begins no query, but pages write it.
		if before := pair[:max(0, strings.IndexAny(pair, "?#"))]; before != "" && !holdsTicket(before, all) {
			left = append(left, before)
		}
	}
	return strings.Join(left, "&"), changed
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
	return named && slices.ContainsFunc(strings.FieldsFunc(value, func(c rune) bool {
		return c >= utf8.RuneSelf || !isBase64URL(byte(c))
	}), looksMinted)
}

func isBase64URL(c byte) bool { return isAlnum(c) || c == '-' || c == '_' }

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
