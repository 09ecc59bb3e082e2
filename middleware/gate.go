package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ticketgate/ticketgate/audit"
)

// Gate finds the session of a request. It puts the session into the request's context, or refuses:
// a page load by a redirect to sign in, everything else by 401. It is safe for concurrent use.
type Gate struct {
	sessions Authenticator
	login    *url.URL // nil: no redirects
	public   *publicRoutes
	opts     GateOptions
}

// GateOptions configure a [Gate].
type GateOptions struct {
	// LoginURL is where a person signs in: a path on this server, which is then public, or an http
	// or https URL. It gets a parameter next, see [Next]. Default "": no redirects.
	LoginURL string
	// Public are http.ServeMux patterns of what needs no session, such as "/static/" or "GET
	// /healthz". A session that is recognised is put into the context there too. They match as in a
	// ServeMux at this place; a path that is not clean (/public/../admin, //login, %2e, %2f) is
	// never public, nor one that matches only when a needless escape is decoded (/st%61tic/). A
	// wildcard matches any segment: "/{lang}/about" opens /admin/about too. Around a whole router,
	// name a guarded socket's path too: it needs a ticket only. Default: LoginURL's path.
	Public []string
	// API are path prefixes whose requests get 401 and never a redirect. Default (nil): "/api/".
	API []string
	// Audit receives bad credentials, and undecided requests. Default: slog.Default().
	Audit *audit.Log
	// ClientIP is for the audit; see [ForwardedFor]. Default: the host of RemoteAddr.
	ClientIP func(*http.Request) string
	// OnReject answers in place of [Rejection.ServeHTTP].
	OnReject func(http.ResponseWriter, *http.Request, *Rejection)
}

// NewGate returns a Gate over sessions. Its error joins all configuration errors.
func NewGate(sessions Authenticator, opts *GateOptions) (*Gate, error) {
	g := &Gate{sessions: sessions, opts: *cmp.Or(opts, &GateOptions{})}
	o := &g.opts
	errs := []error{misconfigured(sessions)}
	var err error
	var loginPath string // where it is on this server
	if o.LoginURL != "" {
		if g.login, err = parseLoginURL(o.LoginURL); err != nil {
			errs = append(errs, fmt.Errorf("in LoginURL: %q: %w", o.LoginURL, err))
		} else if g.login.Host == "" {
			loginPath = g.login.Path
		}
	}
	if o.API = slices.Clone(o.API); o.API == nil {
		o.API = []string{"/api/"}
	}
	for _, p := range o.API {
		if !strings.HasPrefix(p, "/") {
			errs = append(errs, fmt.Errorf("in API: %q: want a path prefix such as /api/", p))
		}
	}
	g.public, err = newPublicRoutes(o.Public, loginPath)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("middleware.NewGate: %w", err)
	}
	return g, nil
}

// Authenticate is the gate's decision, for applications that do not use [Gate.Wrap]. It returns a
// Rejection, which is recorded, or a session, or neither: that is a public route without a session.
func (g *Gate) Authenticate(w http.ResponseWriter, r *http.Request) (*Session, *Rejection) {
	if r.Method == http.MethodConnect && !isExtendedConnect(r) {
		// Nothing behind a gate is a proxy, and ServeMux does not clean the paths of CONNECT.
		return nil, g.reject(r, refusedConnect, nil, nil)
	}
	s, err := authenticate(g.sessions, w, r)
	switch {
	case err == nil:
		return s, nil
	case g.public.match(r):
		return nil, nil
	case errors.Is(err, ErrSessionExpired):
		return nil, g.reject(r, refusedSession, err, s)
	case errors.Is(err, ErrNoSession):
		return nil, g.reject(r, refusedNoSession, err, nil)
	case r.Context().Err() == context.Canceled:
		return nil, g.reject(r, refusedClientGone, err, nil)
	}
	return nil, g.reject(r, refusedUndecided, err, nil)
}

// Wrap returns a handler that passes on to next what may come in.
func (g *Gate) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before, _ := SessionFrom(r.Context())
		s, rej := g.Authenticate(w, r)
		if rej != nil {
			rej.answer(w, r, g.opts.OnReject)
			return
		}
		if s == nil {
			r = g.public.canonical(r)
		}
		// Keep a context that has this session already: a live socket's may have changed meanwhile.
		// Hide an outer gate's session that this gate does not accept.
		if outer, _ := SessionFrom(r.Context()); s != before && s != outer {
			r = r.WithContext(WithSession(r.Context(), s))
		}
		next.ServeHTTP(w, r)
	})
}

// reject returns a Rejection, which it records. expired is nil, or the session that has ended.
func (g *Gate) reject(r *http.Request, why *refusal, err error, expired *Session) *Rejection {
	rej := reject(why, err)
	if why.status == http.StatusUnauthorized {
		rej.PageLoad = g.isPageLoad(r)
		if g.login != nil {
			rej.LoginURL = g.loginURL(r)
		}
	}
	rej.closing = mayBeUpgrade(r) && r.ProtoMajor == 1
	rej.record(g.opts.Audit, r, clientIP(g.opts.ClientIP, r), "", expired)
	return rej
}

// isPageLoad reports whether a person waits for a page: nobody else follows a redirect to sign in.
func (g *Gate) isPageLoad(r *http.Request) bool {
	if !g.couldBePage(r) {
		return false
	}
	if mode, ok := r.Header["Sec-Fetch-Mode"]; ok {
		return len(mode) == 1 && mode[0] == "navigate"
	}
	return strings.Contains(strings.ToLower(joined(r.Header["Accept"])), "text/html")
}

// couldBePage reports whether r could be a page load: GET or HEAD, no upgrade, not under API.
func (g *Gate) couldBePage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || resemblesUpgrade(r) {
		return false
	}
	sent := sentPath(r)
	return !slices.ContainsFunc(g.opts.API, func(prefix string) bool {
		return isUnder(prefix, r.URL.Path) || isUnder(prefix, sent)
	})
}

func isUnder(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

// loginURL is LoginURL with the way back in next, where there is one.
func (g *Gate) loginURL(r *http.Request) string {
	back := r.RequestURI // what the browser asked for, whatever StripPrefix has made of it
	if !strings.HasPrefix(back, "/") {
		back = r.URL.RequestURI()
	}
	back = stripURI(back, false) // a Location is logged, and becomes a Referer
	path, _, _ := strings.Cut(back, "?")
	if !g.couldBePage(r) || !isLocal(back) || path == g.public.login {
		return g.login.String()
	}
	u := *g.login
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "next=" + url.QueryEscape(back)
	return u.String()
}

func parseLoginURL(s string) (*url.URL, error) {
	const form = "want a path such as /login, or an http or https URL"
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Opaque != "", u.User != nil:
		return nil, errors.New(form)
	case u.Fragment != "":
		return nil, fmt.Errorf("%s; without a fragment", form)
	case u.Query().Has("next"):
		return nil, fmt.Errorf("%s; without next, which the way back is put into", form)
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "":
		return u, nil
	case !isLocal(s), !isClean(u):
		return nil, errors.New(form)
	case !oneSpelling(u): // it would not be public, and redirect to itself
		plain := (&url.URL{Path: u.Path}).EscapedPath()
		return nil, fmt.Errorf("%s; without needless escapes, as in %s", form, plain)
	}
	return u, nil
}
