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
	onReject func(http.ResponseWriter, *http.Request, *Rejection) // nil: Rejection.ServeHTTP
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
	// Default: the path as the client sent it, decoded, if it is clean and escapes
	// nothing that needs no escape (/ws/ch%61t is refused: routers differ on what
	// it names); it does not see what http.StripPrefix did, nor a prefix that a
	// proxy took off.
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
	// Sockets owns the connections that are admitted; guards may share one. It is
	// made for the same issuer. Default: its own, with this Audit and no limits.
	Sockets *Sockets
	// Audit receives every refusal. Default: the one of Sockets; another one
	// beside it is an error.
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
	errs = append(errs, checkSockets(issuer, o))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("middleware: NewGuard: %w", err)
	}
	if g.sockets = o.Sockets; g.sockets == nil {
		if g.sockets, err = NewSockets(issuer, &SocketsOptions{Audit: o.Audit}); err != nil {
			return nil, fmt.Errorf("middleware: NewGuard: %w", err)
		}
	}
	if g.endpoint = o.Endpoint; g.endpoint == nil {
		g.endpoint = sentPath
	}
	g.audit = g.sockets.opts.Audit
	if g.clientIP = o.ClientIP; g.clientIP == nil {
		g.clientIP = remoteHost
	}
	g.onReject = o.OnReject
	return g, nil
}

func checkSockets(issuer *tickets.Issuer, o *GuardOptions) error {
	switch s := o.Sockets; {
	case s == nil:
		return nil
	case s.issuer == nil:
		return errors.New("the Sockets is a zero value: make it with NewSockets")
	case s.issuer != issuer && issuer != nil:
		return errors.New("the Sockets was made for another issuer: pass NewSockets and NewGuard the same one")
	case o.Audit != nil && o.Audit != s.opts.Audit:
		return errors.New("Audit is another one than the Sockets': set it in SocketsOptions, and leave it out here")
	}
	return nil
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

// Release marks the handler as finished. Defer it as it is: if the handler panics,
// Release closes the socket (1011, "panic"), and panics again. Later calls do
// nothing. A connection that was hijacked goes on until it is closed.
func (a *Admission) Release() {
	if v := recover(); v != nil {
		a.socket.handlerPanicked()
		a.socket.handlerReturned()
		panic(v)
	}
	a.socket.handlerReturned()
}

// Wrap returns a handler that passes on to next what may come in. A handler that
// returns without closing keeps its socket. One that panics loses it: the socket
// is closed with 1011, "panic", and the panic passes on.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.opts.PassOthers && !resemblesUpgrade(r) && !hasToken(r.Header["Connection"], "upgrade") && !g.isRequest(r) {
			next.ServeHTTP(w, r)
			return
		}
		if k, r := g.letIn(w, r); k != nil {
			returned := false
			defer func() {
				if !returned {
					k.handlerPanicked()
				}
				k.handlerReturned()
			}()
			next.ServeHTTP(k.responseWriter(w), r)
			returned = true
		}
	})
}

// letIn returns the socket of a request that may come in, and the request for
// its handler; or answers it, and returns nil. What it needed on the way is not
// held for as long as the socket lives.
func (g *Guard) letIn(w http.ResponseWriter, r *http.Request) (*socket, *http.Request) {
	a := attempt{guard: g, r: r}
	if k := g.admit(&a); k != nil {
		return k, handlersRequest(k, r)
	}
	if g.onReject == nil {
		a.rej.ServeHTTP(w, r)
	} else {
		a.rej.prepare(w.Header())
		rej := a.rej // whom it is handed to may keep it
		g.onReject(w, r, &rej)
	}
	return nil, nil
}

// Admit is the guard's decision, for applications that do not use
// [Guard.Wrap]: there is either an Admission or a Rejection, which has been
// audited. An Admission holds its place among the Sockets until it is released,
// and its connection is followed, and ended with its session, only if the
// WebSocket library is given [Admission.ResponseWriter]. PassOthers does not
// count here.
func (g *Guard) Admit(r *http.Request) (*Admission, *Rejection) {
	a := attempt{guard: g, r: r}
	if k := g.admit(&a); k != nil {
		return &Admission{Session: k.session.Load(), Request: handlersRequest(k, r), socket: k}, nil
	}
	rej := a.rej
	return nil, &rej
}

// isRequest reports whether r is a plain request with a ticket, which
// AdmitRequests admits. Where others pass, an application's own parameter of
// that name does not make it one.
func (g *Guard) isRequest(r *http.Request) bool {
	if !g.opts.AdmitRequests || r.Method != http.MethodGet || resemblesUpgrade(r) {
		return false
	}
	has := false
	parses := ticketsIn(sentQuery(r), func(value string) {
		has = has || !g.opts.PassOthers || looksMinted(value)
	})
	return has || !parses && !g.opts.PassOthers
}

// admit takes a place for a request that may come in. One that may not has been
// audited.
func (g *Guard) admit(a *attempt) *socket {
	a.query = sentQuery(a.r)
	a.ip = g.clientIP(a.r)
	a.stream = g.isRequest(a.r)
	if g.check(a) {
		if k := g.take(a); k != nil {
			return k
		}
	}
	a.rej.hangUpOn(a.r)
	recordRejection(g.audit, a.r, &a.rej, a.ip, a.ticket, a.session)
	return nil
}

// check is what costs nothing: steps 1 to 5.
func (g *Guard) check(a *attempt) bool {
	if a.stream && !a.checkQueryAndBody() || !a.stream && !a.checkUpgrade() {
		return false
	}
	if !g.origins.allowed(a.r) {
		return a.refuse(http.StatusForbidden, codeForbidden, reasonOrigin)
	}
	if !a.findTicket() {
		return false
	}
	gaps, rej := g.sockets.hasRoom()
	if a.gaps = gaps; rej != nil {
		a.rej = *rej
	}
	return rej == nil
}

// take is steps 6 and 7: the ticket is spent.
func (g *Guard) take(a *attempt) *socket {
	grant, err := g.issuer.Consume(a.r.Context(), a.ticket)
	if err != nil {
		a.refuseConsume(err)
		return nil
	}
	if !g.checkGrant(a, &grant) {
		return nil
	}
	k, rej := g.sockets.admit(&candidate{
		request: a.r, grant: grant, session: a.session,
		ip: a.ip, path: a.r.URL.Path, origin: a.r.Header.Get("Origin"),
		ticketID: ticketID(a.ticket), stream: a.stream, gaps: a.gaps,
	})
	if rej != nil {
		a.rej = *rej
	}
	return k
}

// checkGrant applies the part of step 7 that only the grant can answer.
func (g *Guard) checkGrant(a *attempt, grant *tickets.Grant) bool {
	granted := &Session{
		ID: grant.SessionID, Provider: grant.Provider, UserID: grant.UserID,
		StartedAt: grant.StartedAt, ExpiresAt: grant.SessionExpiresAt, Data: grant.Data,
	}
	a.session = granted
	if e := grant.Endpoint; e == "" && g.opts.RequireEndpoint || e != "" && e != g.endpoint(a.r) {
		return a.refuseTicket(http.StatusForbidden, codeForbidden, reasonEndpoint, nil)
	}
	s := granted
	if outer, ok := SessionFrom(a.r.Context()); ok {
		if !outer.same(granted) {
			return a.refuseTicket(http.StatusForbidden, codeForbidden, reasonSession, nil)
		}
		s = outer // it may know more, and a later end
	}
	if g.sockets.opts.Restore != nil {
		var ok bool
		if s, ok = g.restore(a, s); !ok {
			return false
		}
	}
	if s.over() {
		return a.refuseTicket(http.StatusUnauthorized, codeTicketRejected, reasonSession, ErrSessionExpired)
	}
	if s != granted {
		c := *granted
		c.Value = s.Value
		if !s.ExpiresAt.IsZero() { // else what the ticket says stands
			c.ExpiresAt = s.ExpiresAt
		}
		s = &c
	}
	a.session = s
	return true
}

// restore calls Restore for a session whose ticket is consumed.
func (g *Guard) restore(a *attempt, s *Session) (*Session, bool) {
	// The ticket is spent, which the client cannot take back by going away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.r.Context()), restoreWait)
	defer cancel()
	restored, err := g.sockets.restore(ctx, s)
	switch {
	case errors.Is(err, ErrNoSession), errors.Is(err, ErrSessionExpired):
		return nil, a.refuseTicket(http.StatusUnauthorized, codeTicketRejected, reasonSession, err)
	case err != nil:
		return nil, a.refuseTicket(http.StatusServiceUnavailable, codeUnavailable, reasonSession, err)
	}
	return restored, true
}

// handlersRequest is r as the handler of k sees it.
func handlersRequest(k *socket, r *http.Request) *http.Request {
	r = r.WithContext(k.ctx)
	stripTicket(r, new(url.URL))
	return r
}

// sentPath returns the path that the client asked for, whatever the handlers in
// between have made of URL.Path. It returns "", which is no endpoint and no
// sign-in page, for a path that not every router reads alike.
func sentPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if strings.HasPrefix(path, "/") && !strings.Contains(path, "%") {
		return path
	}
	u, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		u = r.URL
	}
	if !isClean(u) || !oneSpelling(u) {
		return ""
	}
	return u.Path
}
