package middleware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// Guard lets a WebSocket upgrade in if it brings a ticket, and hands it on to
// whatever WebSocket library the application uses, with the session in the
// context and no ticket left in the request.
//
// The ticket comes as ?ticket=<value> or, for those who want it in no URL, among
// the subprotocols behind at least one of the application's own:
// new WebSocket(url, ["chat", "ticket." + value]). The handler chooses "chat".
//
// It checks everything that costs nothing first and takes the ticket last: a
// request that is malformed, or comes from a page of another origin, has spent
// nothing. It is safe for concurrent use.
type Guard struct {
	issuer   *tickets.Issuer
	origins  *origins
	sockets  *Sockets
	opts     GuardOptions
	endpoint func(*http.Request) string
	audit    *audit.Log
	clientIP func(*http.Request) string
	onReject func(http.ResponseWriter, *http.Request, *Rejection)
}

// GuardOptions configure a [Guard].
type GuardOptions struct {
	// Origins are all the origins whose pages may open a socket, such as
	// "https://app.example", in the form in which browsers send them.
	// Default: the request's own. Behind a proxy that ends TLS, name the public
	// origin; and let the WebSocket library allow the same ones, for it checks
	// again when the ticket is spent.
	Origins []string
	// RequireOrigin refuses requests without an Origin, which no browser sends.
	// Default: they are allowed, the ticket being the proof.
	RequireOrigin bool
	// RequireEndpoint refuses tickets that were minted for any path.
	RequireEndpoint bool
	// Endpoint is the path that a ticket's endpoint must be equal to.
	// Default: the path as the client sent it, decoded, if it is clean; it does
	// not see what http.StripPrefix did, nor a prefix that a proxy took off.
	Endpoint func(*http.Request) string
	// PassOthers passes on what is no upgrade and resembles none, without a
	// session, for a Guard around a whole router. A "Connection: upgrade" alone
	// resembles one: an nginx in front must send it with upgrades only
	// (map $http_upgrade). Default: 426.
	PassOthers bool
	// AdmitRequests admits plain GET requests that have a ticket in their query
	// too: EventSource, <img> and downloads cannot set headers either. The
	// ticket is spent by the request, so each attempt needs a fresh one.
	AdmitRequests bool
	// Restore is asked when a ticket has been taken whether its session still
	// stands, and may return it with a Value and a later ExpiresAt; it must be of
	// the same ID, Provider and UserID. Errors are as in [Authenticator]. It is
	// asked again when the session ends, and every SocketsOptions.RecheckEvery.
	// Its context ends after 5 s. Default: what the ticket says stands.
	Restore func(ctx context.Context, s *Session) (*Session, error)
	// Sockets keeps the connections that come in; guards may share one.
	// Default: its own, without limits.
	Sockets *Sockets
	// Audit receives every admission and every refusal. Default: slog.Default().
	Audit *audit.Log
	// ClientIP is the client's address for the audit; see [ForwardedFor].
	// Default: the host of RemoteAddr.
	ClientIP func(*http.Request) string
	// OnReject answers in place of [Rejection.ServeHTTP]; see [RejectByClosing].
	OnReject func(http.ResponseWriter, *http.Request, *Rejection)
}

// NewGuard returns a Guard that takes issuer's tickets. Its error joins
// everything that is wrong with the configuration.
func NewGuard(issuer *tickets.Issuer, opts *GuardOptions) (*Guard, error) {
	g := &Guard{issuer: issuer}
	if opts != nil {
		g.opts = *opts
	}
	o := &g.opts
	var errs []error
	if issuer == nil {
		errs = append(errs, errNoIssuer)
	}
	var err error
	if g.origins, err = newOrigins(o.Origins, o.RequireOrigin); err != nil {
		errs = append(errs, err)
	}
	if o.Sockets != nil && o.Sockets.sessions == nil {
		errs = append(errs, errors.New("the Sockets is a zero value: make it with NewSockets"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("middleware: NewGuard: %w", err)
	}
	if g.sockets = o.Sockets; g.sockets == nil {
		if g.sockets, err = NewSockets(nil); err != nil {
			return nil, fmt.Errorf("middleware: NewGuard: %w", err)
		}
	}
	if g.endpoint = o.Endpoint; g.endpoint == nil {
		g.endpoint = sentPath
	}
	g.audit = o.Audit
	g.clientIP, g.onReject = defaults(o.ClientIP, o.OnReject)
	g.sockets.follow(issuer, g.audit)
	return g, nil
}

// Sockets returns the connections that this guard has let in.
func (g *Guard) Sockets() *Sockets { return g.sockets }

// Admission is a request that may come in.
type Admission struct {
	Session *Session
	Request *http.Request // with the session in its context, and without the ticket
	socket  *socket
}

// ResponseWriter returns what the WebSocket library must be given in place of
// w: it sees the connection being hijacked, and has Flush and Unwrap as well.
func (a *Admission) ResponseWriter(w http.ResponseWriter) http.ResponseWriter {
	return a.socket.responseWriter(w)
}

// Release says that the handler is done. It is for a deferred call; a second
// one does nothing. A connection that was hijacked goes on until it is closed.
func (a *Admission) Release() { a.socket.release() }

// Wrap returns a handler that passes on to next what may come in.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.opts.PassOthers && !resemblesUpgrade(r) && !hasToken(r.Header["Connection"], "upgrade") && !g.isRequest(r) {
			next.ServeHTTP(w, r)
			return
		}
		a, rej := g.Admit(r)
		if rej != nil {
			g.onReject(w, r, rej)
			return
		}
		// Not a.Release: a deferred Admission would keep its Request for as long as
		// the socket lives.
		k := a.socket
		defer k.release()
		next.ServeHTTP(k.responseWriter(w), a.Request)
	})
}

// Admit is the guard's decision, for applications that do not use
// [Guard.Wrap]: there is either an Admission or a Rejection, which has been
// audited. An Admission holds its place among the Sockets until it is released,
// and its connection is followed, and ended with its session, only if the
// WebSocket library is given [Admission.ResponseWriter]. PassOthers does not
// count here.
func (g *Guard) Admit(r *http.Request) (*Admission, *Rejection) {
	ip := g.clientIP(r)
	var id string
	var who *Session
	a, rej := g.admit(r, ip, &id, &who)
	if rej != nil {
		recordRejection(g.audit, r, rej, ip, id, who)
		return nil, rej
	}
	return a, nil
}

// isRequest reports whether r is a plain request with a ticket, which
// AdmitRequests admits. Where others pass, an application's own parameter of
// that name does not make it one.
func (g *Guard) isRequest(r *http.Request) bool {
	if !g.opts.AdmitRequests || r.Method != http.MethodGet || resemblesUpgrade(r) {
		return false
	}
	values, err := url.ParseQuery(sentQuery(r))
	for _, v := range values[ticketParam] {
		if !g.opts.PassOthers || looksMinted(v) {
			return true
		}
	}
	return err != nil && !g.opts.PassOthers
}

// admit leaves in id and who what it found out before it refused.
func (g *Guard) admit(r *http.Request, ip string, id *string, who **Session) (*Admission, *Rejection) {
	query := sentQuery(r)
	stream := g.isRequest(r)
	check := checkUpgrade
	if stream {
		check = checkQueryAndBody
	}
	if rej := check(r, query); rej != nil {
		return nil, rej
	}
	if !g.origins.allowed(r) {
		return nil, refuse(http.StatusForbidden, codeForbidden, reasonOrigin)
	}
	t, rej := findTicket(r, query)
	if rej != nil {
		return nil, rej
	}
	*id = ticketID(t)
	gaps, rej := g.sockets.full()
	if rej != nil {
		return nil, rej
	}
	grant, err := g.issuer.Consume(r.Context(), t)
	if err != nil {
		return nil, consumeRejection(err)
	}
	*who = &Session{
		ID: grant.SessionID, Provider: grant.Provider, UserID: grant.UserID,
		StartedAt: grant.StartedAt, ExpiresAt: grant.SessionExpiresAt, Data: grant.Data,
	}
	s, rej := g.session(r, grant, *who)
	if rej != nil {
		return nil, rej
	}
	k, rej := g.sockets.enter(r.Context(), entry{
		guard: g, session: s, grant: grant,
		ip: ip, path: r.URL.Path, origin: r.Header.Get("Origin"), ticketID: *id,
		stream: stream, gaps: gaps,
	})
	if rej != nil {
		return nil, rej
	}
	return &Admission{Session: s, Request: stripTicket(r).WithContext(k.context()), socket: k}, nil
}

// session applies the part of step 7 that only the grant can answer. granted is
// the session as the ticket tells it.
func (g *Guard) session(r *http.Request, grant tickets.Grant, granted *Session) (*Session, *Rejection) {
	if grant.Endpoint == "" && g.opts.RequireEndpoint || grant.Endpoint != "" && grant.Endpoint != g.endpoint(r) {
		return nil, ticketRejection(http.StatusForbidden, codeForbidden, reasonEndpoint)
	}
	s := granted
	if outer, ok := SessionFrom(r.Context()); ok {
		if !outer.same(granted) {
			return nil, ticketRejection(http.StatusForbidden, codeForbidden, reasonSession)
		}
		s = outer // it may know more, and a later end
	}
	if g.opts.Restore != nil {
		// The ticket is spent, which the client cannot take back by going away.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), restoreWait)
		defer cancel()
		restored, err := g.opts.Restore(ctx, s)
		switch {
		case err == nil && restored == nil, errors.Is(err, ErrNoSession), errors.Is(err, ErrSessionExpired):
			return nil, sessionEnded(err)
		case err != nil:
			rej := ticketRejection(http.StatusServiceUnavailable, codeUnavailable, reasonSession)
			rej.Err = withoutCredential(err, s.ID)
			return nil, rej
		case !restored.same(granted):
			rej := ticketRejection(http.StatusServiceUnavailable, codeUnavailable, reasonSession)
			rej.Err = errors.New("what Restore returned is a session of another ID, Provider or UserID than it was given")
			return nil, rej
		}
		s = restored
	}
	if s.over() {
		return nil, sessionEnded(ErrSessionExpired)
	}
	if s != granted {
		c := *s
		c.StartedAt, c.Data = granted.StartedAt, granted.Data
		if c.ExpiresAt.IsZero() { // it does not say: what the ticket says stands
			c.ExpiresAt = granted.ExpiresAt
		}
		s = &c
	}
	return s, nil
}

func sessionEnded(err error) *Rejection {
	rej := ticketRejection(http.StatusUnauthorized, codeTicketRejected, reasonSession)
	rej.Err = err
	return rej
}

// consumeRejection answers everything that is wrong with a ticket alike, and
// tells only the audit which it was.
func consumeRejection(err error) *Rejection {
	var rej *Rejection
	if errors.Is(err, tickets.ErrInvalid) {
		reason := reasonUnknown
		switch {
		case errors.Is(err, tickets.ErrUsed):
			reason = reasonUsed
		case errors.Is(err, tickets.ErrExpired):
			reason = reasonExpired
		case errors.Is(err, tickets.ErrRevoked):
			reason = reasonRevoked
		}
		rej = ticketRejection(http.StatusUnauthorized, codeTicketRejected, reason)
	} else {
		rej = ticketRejection(http.StatusServiceUnavailable, codeUnavailable, reasonStore)
	}
	rej.Err = err
	return rej
}

// sentPath is the path that the client asked for, whatever the handlers in
// between have made of URL.Path. It is "", which is nobody's path, for one that
// not every router would read alike.
func sentPath(r *http.Request) string {
	if path, _, _ := strings.Cut(r.RequestURI, "?"); strings.HasPrefix(path, "/") && !strings.Contains(path, "%") {
		return path
	}
	u, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		u = r.URL
	}
	if !isClean(u) {
		return ""
	}
	return u.Path
}
