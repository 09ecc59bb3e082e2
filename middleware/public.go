package middleware

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// publicRoutes decides which requests need no session. It matches with an http.ServeMux: a pattern
// means here what it means where the application registers its handlers.
type publicRoutes struct {
	mux   *http.ServeMux // the patterns
	hosts bool           // some pattern has a host
	login string         // one exact path; "": none
}

func newPublicRoutes(patterns []string, login string) (*publicRoutes, error) {
	p := &publicRoutes{mux: http.NewServeMux(), login: login}
	var errs []error
	for _, pattern := range patterns {
		errs = append(errs, p.register(pattern))
	}
	return p, errors.Join(errs...)
}

// register adds a pattern. It lowers the host, if there is one: Host is case-insensitive (RFC 9110
// section 4.2.3), and ServeMux compares bytes.
func (p *publicRoutes) register(pattern string) (err error) {
	defer func() {
		if fault := recover(); fault != nil { // so ServeMux reports what it does not understand
			err = fmt.Errorf("in Public: %q: want an http.ServeMux pattern such as /static/ "+
				"or GET /healthz: %v", pattern, fault)
		}
	}()
	slash := max(0, strings.IndexByte(pattern, '/'))
	start := strings.LastIndexAny(pattern[:slash], " \t") + 1 // a method may stand before
	host := strings.ToLower(pattern[start:slash])
	p.hosts = p.hosts || host != ""
	p.mux.Handle(pattern[:start]+host+pattern[slash:], p.mux) // as a marker: it never serves
	return nil
}

// match reports whether r may pass without a session.
func (p *publicRoutes) match(r *http.Request) bool {
	if r.Method == http.MethodConnect || !isClean(r.URL) {
		return false
	}
	// Where LoginURL sends browsers, whatever StripPrefix has done since.
	if p.login != "" && sentPath(r) == p.login {
		return true
	}
	r = p.canonical(r)
	if oneSpelling(r.URL) {
		return p.matchesPattern(r)
	}
	literal := *r // as a router reads it that matches RawPath
	literal.URL = &url.URL{Path: r.URL.RawPath}
	return p.matchesPattern(r) && p.matchesPattern(&literal)
}

func (p *publicRoutes) matchesPattern(r *http.Request) bool {
	// A handler that is not the marker is ServeMux's own redirect.
	h, _ := p.mux.Handler(r)
	return h == http.Handler(p.mux)
}

// oneSpelling reports whether all routers read the same path from u. ServeMux matches Path; chi,
// echo and gin (with UseRawPath) match RawPath, undecoded: /st%61tic/ is not under /static/.
func oneSpelling(u *url.URL) bool {
	return u.RawPath == "" || u.RawPath == u.Path
}

// canonical returns r with its Host in lower case and without a trailing dot, if any pattern has a
// host. The handler behind the gate gets the same: a ServeMux there compares bytes too.
func (p *publicRoutes) canonical(r *http.Request) *http.Request {
	if !p.hosts {
		return r
	}
	c := *r
	c.Host = strings.TrimSuffix(strings.ToLower(r.Host), ".")
	if host, port, err := net.SplitHostPort(c.Host); err == nil {
		c.Host = net.JoinHostPort(strings.TrimSuffix(host, "."), port)
	}
	return &c
}

// isClean reports whether all proxies, routers and file servers agree on what a path names, escaped
// or not. Each difference between them has been a way around somebody's gate.
func isClean(u *url.URL) bool {
	return isCleanPath(u.Path) && (oneSpelling(u) || isCleanPath(u.RawPath))
}

func isCleanPath(p string) bool {
	if len(p) > 8<<10 || // to read a path of 1 MB takes half a second
		!strings.HasPrefix(p, "/") || !utf8.ValidString(p) || // an overlong / or . is invalid
		strings.ContainsFunc(p, func(c rune) bool { return c == '\\' || unicode.IsControl(c) }) {
		return false
	}
	if clean := path.Clean(p); p != clean && p != clean+"/" {
		return false
	}
	return !escapedSeparator.MatchString(p) && !dotParameter.MatchString(p)
}

// escapedSeparator matches a dot, slash or backslash that is escaped, also more than once.
var escapedSeparator = regexp.MustCompile(`(?i)%(25)*(2e|2f|5c)`)

// dotParameter matches "..;x": to some, a dot segment with a parameter (RFC 3986 section 3.3).
var dotParameter = regexp.MustCompile(`(?i)/\.*(;|%(25)*3b)`)
