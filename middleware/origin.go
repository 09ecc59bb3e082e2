package middleware

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// origins decides which pages may mint tickets and open sockets: one check for both, because
// http.CrossOriginProtection lets every GET pass and an upgrade is a GET. Browsers do not apply
// CORS to WebSockets; this check is all there is against cross-site WebSocket hijacking.
type origins struct {
	listed   []string // none: the same origin
	required bool
}

// newOrigins takes origins in the form in which a browser sends them (RFC 6454 section 6.2).
func newOrigins(list []string, required bool) (*origins, error) {
	var errs []error
	for _, s := range list {
		canonical, err := parseOrigin(s)
		if err == nil && canonical != s {
			err = fmt.Errorf("browsers send %q: write that", canonical)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("in Origins: %q: %w", s, err))
		}
	}
	return &origins{slices.Clone(list), required}, errors.Join(errs...)
}

// allow reports whether the page that sent r may do so. A request without an Origin comes from no
// browser's WebSocket or cross-origin fetch: there the ticket or the session is the proof.
func (o *origins) allow(r *http.Request) bool {
	sent := r.Header["Origin"]
	if len(sent) != 1 {
		return len(sent) == 0 && !o.required
	}
	origin, err := parseOrigin(sent[0])
	if err != nil {
		return false
	}
	if len(o.listed) > 0 {
		return slices.Contains(o.listed, origin)
	}
	scheme, host, _ := strings.Cut(origin, "://")
	return (r.TLS == nil || scheme == "https") && host == canonicalHost(r.Host, scheme)
}

// parseOrigin returns a serialized origin in canonical form: scheme and host in lower case, without
// a default port. "null", wildcards, and more than scheme, host and port are errors.
func parseOrigin(s string) (string, error) {
	const form = "want scheme, host and at most a port, such as https://app.example"
	u, err := url.Parse(s) // which lowers the scheme
	_, rest, _ := strings.Cut(s, "://")
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(rest, u.Host) {
		return "", errors.New(form)
	}
	host := u.Hostname()
	if host == "" || strings.ContainsAny(host, "*\\\"<>^`{|}%") {
		return "", fmt.Errorf("%s; a wildcard or a zone is not one", form)
	}
	if strings.ContainsFunc(host, func(c rune) bool { return c > 0x7f }) {
		return "", fmt.Errorf("%s; a host outside ASCII is sent in its xn-- form", form)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		// As browsers write it: a number without leading zeros.
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' {
			return "", errors.New(form)
		}
	}
	return u.Scheme + "://" + canonicalHost(u.Host, u.Scheme), nil
}

// canonicalHost lowers a host and leaves out the default port, as browsers do in Origin.
func canonicalHost(hostport, scheme string) string {
	hostport = strings.ToLower(hostport)
	if scheme == "https" {
		return strings.TrimSuffix(hostport, ":443")
	}
	return strings.TrimSuffix(hostport, ":80")
}
