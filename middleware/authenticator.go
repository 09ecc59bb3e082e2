package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// An Authenticator finds the session of a request.
//
// ErrNoSession means that r presents no credential at all; ErrSessionExpired, that it presents one
// that is not, or no longer, good. Any other error means that it could not be decided, which is
// answered with 503: a session store that is down for a minute must not sign everybody out. Errors
// may wrap these. A nil session with a nil error counts as ErrNoSession.
//
// Authenticate may set headers on w, such as a rotated cookie, but not write. It runs concurrently.
type Authenticator interface {
	Authenticate(w http.ResponseWriter, r *http.Request) (*Session, error)
}

// AuthenticatorFunc is a function that is an [Authenticator].
type AuthenticatorFunc func(w http.ResponseWriter, r *http.Request) (*Session, error)

// Authenticate calls f.
func (f AuthenticatorFunc) Authenticate(w http.ResponseWriter, r *http.Request) (*Session, error) {
	return f(w, r)
}

// Errors of an [Authenticator] that has decided.
var (
	ErrNoSession      = errors.New("no session")
	ErrSessionExpired = errors.New("session invalid or expired")
)

// ContextSessions accepts the session that the context carries already: for a Gate behind a Guard,
// or behind an application's own sign-in that calls [WithSession].
var ContextSessions Authenticator = AuthenticatorFunc(contextSession)

func contextSession(_ http.ResponseWriter, r *http.Request) (*Session, error) {
	if s, ok := SessionFrom(r.Context()); ok {
		return s, nil
	}
	return nil, ErrNoSession
}

// CookieSessions authenticates by a cookie: lookup gets the value of the cookie called name,
// without quotes, and returns the session that it stands for.
//
// A lookup that returns ErrNoSession, or neither a session nor an error, says that the value is not
// known. Two cookies of that name with different values, which a sibling domain can cause (RFC 6265
// section 8.6), and a value that RFC 6265 does not allow are refused without asking lookup.
func CookieSessions(
	name string, lookup func(ctx context.Context, value string) (*Session, error),
) Authenticator {
	var fault error
	if !isToken(name) {
		fault = fmt.Errorf("cookie name %q: it must be a token (RFC 6265 section 4.1.1)", name)
	}
	find := func(r *http.Request) (string, error) { return cookieValue(r, name) }
	return lookupSessions("CookieSessions", fault, find, lookup)
}

// BearerSessions authenticates by `Authorization: Bearer <token>` (RFC 6750), as [CookieSessions]
// by a cookie. Another scheme is no credential; two headers, or a malformed token, are a bad one.
func BearerSessions(
	lookup func(ctx context.Context, token string) (*Session, error),
) Authenticator {
	return lookupSessions("BearerSessions", nil, bearerToken, lookup)
}

// readyMade is an Authenticator of this package. fault is what is wrong with its configuration: its
// constructor has no error to return, so NewGate does.
type readyMade struct {
	AuthenticatorFunc
	fault error
}

// lookupSessions finds one opaque value in a request and looks it up. find returns ErrNoSession for
// none, and ErrSessionExpired for a malformed one.
func lookupSessions(
	kind string, fault error, find func(r *http.Request) (string, error),
	lookup func(ctx context.Context, value string) (*Session, error),
) Authenticator {
	if lookup == nil {
		missing := errors.New("lookup is nil: pass what finds a session by its credential")
		fault = errors.Join(fault, missing)
	}
	if fault != nil {
		fault = fmt.Errorf("%s: %w", kind, fault)
	}
	return readyMade{func(_ http.ResponseWriter, r *http.Request) (*Session, error) {
		if fault != nil {
			return nil, fault
		}
		value, err := find(r)
		if err != nil {
			return nil, err
		}
		s, err := lookup(r.Context(), value)
		if err == nil && s == nil || errors.Is(err, ErrNoSession) {
			return nil, ErrSessionExpired // it was presented, and is not known
		}
		return s, withoutCredential(err, value)
	}, fault}
}

// withoutCredential keeps a credential out of the audit: an HTTP client's error quotes its URL.
func withoutCredential(err error, value string) error {
	if err == nil || len(value) < 8 { // too short to be a secret, and part of any word
		return err
	}
	text := err.Error()
	for _, form := range []string{value, url.QueryEscape(value), url.PathEscape(value)} {
		text = strings.ReplaceAll(text, form, "***")
	}
	return &scrubbedError{text, err}
}

// scrubbedError is an error whose text had a credential in it.
type scrubbedError struct {
	text string
	err  error
}

func (e *scrubbedError) Error() string { return e.text }
func (e *scrubbedError) Unwrap() error { return e.err }

// FirstOf calls each of as in turn; the first that recognises the request wins. If none does, and
// one of them cannot decide, the request is not decided.
func FirstOf(as ...Authenticator) Authenticator {
	as = slices.Clone(as)
	var faults []error
	if len(as) == 0 {
		faults = append(faults, errors.New("FirstOf: no Authenticator given: pass at least one"))
	}
	for i, a := range as {
		if err := misconfigured(a); err != nil {
			faults = append(faults, fmt.Errorf("FirstOf[%d]: %w", i, err))
		}
	}
	return readyMade{func(w http.ResponseWriter, r *http.Request) (*Session, error) {
		answer := ErrNoSession
		var undecided []error
		for _, a := range as {
			s, err := authenticate(a, w, r)
			switch {
			case err == nil:
				return s, nil
			case errors.Is(err, ErrSessionExpired):
				answer = err
			case !errors.Is(err, ErrNoSession):
				undecided = append(undecided, err)
			}
		}
		if undecided != nil {
			return nil, errors.Join(undecided...)
		}
		return nil, answer
	}, errors.Join(faults...)}
}

// misconfigured returns what is wrong with an Authenticator, so far as it shows at construction.
func misconfigured(a Authenticator) error {
	switch a := a.(type) {
	case nil:
		return errors.New("the Authenticator is nil: pass CookieSessions, BearerSessions or yours")
	case readyMade:
		return a.fault
	case AuthenticatorFunc:
		if a == nil {
			return errors.New("the AuthenticatorFunc is nil: pass a function")
		}
	}
	return nil
}

// authenticate calls a, and checks that it returns a session or an error. An expired session is
// returned with ErrSessionExpired, so that the audit can name its provider.
func authenticate(a Authenticator, w http.ResponseWriter, r *http.Request) (*Session, error) {
	s, err := a.Authenticate(w, r)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, ErrNoSession
	case s.expired():
		return s, ErrSessionExpired
	}
	return s, nil
}

// cookieValue finds the one value of a cookie, as http.Request.CookiesNamed reads it. It tells a
// malformed value from none, and makes no garbage: every request behind a Gate passes here.
func cookieValue(r *http.Request, name string) (value string, err error) {
	pairs, presented := 0, false
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			key, v, _ := strings.Cut(textproto.TrimString(pair), "=")
			isNamed := textproto.TrimString(key) == name
			switch pairs++; {
			case pairs > 3000: // net/http's limit, above which it reports none
				return "", ErrNoSession
			case isNamed && presented && v != value:
				return "", ErrSessionExpired
			case isNamed:
				value, presented = v, true
			}
		}
	}
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return "", ErrSessionExpired
		}
	}
	if value == "" { // also a cookie that a sign-out has cleared
		return "", ErrNoSession
	}
	return value, nil
}

func bearerToken(r *http.Request) (string, error) {
	lines := r.Header["Authorization"]
	if len(lines) > 1 {
		return "", ErrSessionExpired
	}
	scheme, token, _ := strings.Cut(strings.Join(lines, ""), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", ErrNoSession
	}
	token = strings.TrimLeft(token, " ")
	body := strings.TrimRight(token, "=")
	if body == "" || strings.ContainsFunc(body, func(c rune) bool {
		return isNotBase64URL(c) && !strings.ContainsRune(".~+/", c)
	}) {
		return "", ErrSessionExpired
	}
	return token, nil
}
