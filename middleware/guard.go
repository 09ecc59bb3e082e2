package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// Guard checks the ticket of a WebSocket upgrade, and then calls the application's handler, which
// may use any WebSocket library. The context has the session; the request no longer has the ticket.
//
// The ticket is in ?ticket=<value>, or in a subprotocol, which keeps it out of the URL: new
// WebSocket(url, ["chat", "ticket." + value]). There must be a subprotocol of the application's own
// beside it, for the handler to choose.
//
// The cheap checks come first; the ticket is consumed last. A request that is malformed, or comes
// from a page of another origin, leaves its ticket valid. Guard is safe for concurrent use.
type Guard struct {
	issuer  *tickets.Issuer
	origins *origins
	sockets *Sockets
	opts    GuardOptions
}

// GuardOptions configure a [Guard].
type GuardOptions struct {
	// Origins are all the origins whose pages may open a socket, written as in [MintOptions].
	// Default: the request's own. Allow the same ones in the WebSocket library: it checks Origin
	// too, after the ticket is consumed.
	Origins []string
	// RequireOrigin refuses requests without an Origin; browsers send one. Default: allowed.
	RequireOrigin bool
	// RequireEndpoint refuses tickets that were minted for any path.
	RequireEndpoint bool
	// Endpoint is the path that a ticket's endpoint must be equal to. Default: the path as the
	// client sent it, decoded. It has the prefix that http.StripPrefix takes off, but not one that
	// a proxy did. It is "" for a path that is not clean, or has a needless escape (/ws/ch%61t):
	// routers differ on what it names.
	Endpoint func(*http.Request) string
	// RequireProtocol refuses a ticket in the query (400, reason "query_ticket"), unconsumed: some
	// allow no credential in a URL (OWASP ASVS 5.0, 14.2.1). Not with AdmitRequests.
	RequireProtocol bool
	// PassOthers calls next, without a session, for a request that does not resemble an upgrade:
	// for a Guard around a whole router. "Connection: upgrade" alone resembles one: an nginx in
	// front must send it with upgrades only (map $http_upgrade). Default: 426.
	PassOthers bool
	// AdmitRequests admits plain GET requests that have a ticket in their query too: EventSource,
	// <img> and downloads cannot set headers either. Each attempt consumes a ticket.
	AdmitRequests bool
	// Sockets owns the connections that are admitted; guards may share one. It must have the same
	// issuer. Default: its own, with this Audit and no limits.
	Sockets *Sockets
	// Audit receives every refusal. Default: the one of Sockets; another one beside it is an error.
	Audit *audit.Log
	// ClientIP is for the audit; see [ForwardedFor]. Default: the host of RemoteAddr.
	ClientIP func(*http.Request) string
	// OnReject answers in place of [Rejection.ServeHTTP]; see [RejectByClosing].
	OnReject func(http.ResponseWriter, *http.Request, *Rejection)
}

// NewGuard returns a Guard for issuer's tickets. Its error joins all configuration errors.
func NewGuard(issuer *tickets.Issuer, opts *GuardOptions) (*Guard, error) {
	g := &Guard{issuer: issuer, opts: *cmp.Or(opts, &GuardOptions{})}
	o := &g.opts
	var err error
	g.origins, err = newOrigins(o.Origins, o.RequireOrigin)
	errs := []error{err, checkSockets(issuer, o)}
	if issuer == nil {
		errs = append(errs, errNoIssuer)
	}
	if o.RequireProtocol && o.AdmitRequests {
		errs = append(errs, errors.New("RequireProtocol and AdmitRequests are both set: "+
			"a plain request has its ticket in the query, so leave one of them out"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("middleware.NewGuard: %w", err)
	}
	if g.sockets = o.Sockets; g.sockets == nil {
		// Its one error is a nil issuer, which is refused above.
		g.sockets, _ = NewSockets(issuer, &SocketsOptions{Audit: o.Audit})
	}
	o.Audit = g.sockets.opts.Audit
	if o.Endpoint == nil {
		o.Endpoint = sentPath
	}
	return g, nil
}

func checkSockets(issuer *tickets.Issuer, o *GuardOptions) error {
	switch s := o.Sockets; {
	case s == nil:
		return nil
	case s.issuer == nil:
		return errors.New("the Sockets is a zero value: make it with NewSockets")
	case s.issuer != issuer && issuer != nil:
		return errors.New("the Sockets is for another issuer: give both constructors the same one")
	case o.Audit != nil && o.Audit != s.opts.Audit:
		return errors.New("the Sockets has another Audit: set it in SocketsOptions, and not here")
	}
	return nil
}

// Sockets returns the owner of the connections that this guard admits.
func (g *Guard) Sockets() *Sockets { return g.sockets }

// Wrap returns a handler that calls next for each admitted request. A handler that returns without
// closing keeps its socket. One that panics loses it (1011, "panic"), and the panic passes on.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := readIncoming(r)
		if g.opts.PassOthers && !mayBeUpgrade(r) && !g.isStream(in) {
			next.ServeHTTP(w, r)
			return
		}
		k, rej := g.decideAndRecord(in, w)
		if rej != nil {
			rej.answer(w, r, g.opts.OnReject)
			return
		}
		panicked := true
		defer func() { k.handlerDone(panicked) }()
		next.ServeHTTP(k.responseWriter(w), in.forHandler(k.ctx))
		panicked = false
	})
}

// Admit is the guard's decision, for applications that do not use [Guard.Wrap]: it returns either
// an Admission or a Rejection, which is recorded. An Admission holds its place among the Sockets
// until it is released, and its connection is closed with its session only if the WebSocket library
// is given [Admission.ResponseWriter]. Admit ignores PassOthers.
func (g *Guard) Admit(r *http.Request) (*Admission, *Rejection) {
	in := readIncoming(r)
	k, rej := g.decideAndRecord(in, nil)
	if rej != nil {
		return nil, rej
	}
	return &Admission{Session: k.current.Load(), Request: in.forHandler(k.ctx), socket: k}, nil
}

// decideAndRecord decides, and records a Rejection. w is nil for Admit.
func (g *Guard) decideAndRecord(in *incoming, w http.ResponseWriter) (*socket, *Rejection) {
	in.ip = clientIP(g.opts.ClientIP, in.Request)
	k, rej := g.decide(in, w)
	if rej != nil {
		// Close it: a proxy may have sent more, which would be served as a request.
		rej.closing = in.ProtoMajor == 1
		rej.record(g.opts.Audit, in.Request, in.ip, in.ticketID, in.session)
	}
	return k, rej
}

// decide applies the seven steps.
func (g *Guard) decide(in *incoming, w http.ResponseWriter) (*socket, *Rejection) {
	// 1. A WebSocket upgrade, or a stream? 2. Well-formed?
	in.stream = g.isStream(in)
	if rej := in.check(g.opts.RequireProtocol); rej != nil {
		return nil, rej
	}
	if w != nil && !in.stream && !canHijack(w) {
		return nil, reject(refusedNotHijackable, nil)
	}
	// 3. Origin allowed?
	if !g.origins.allow(in.Request) {
		return nil, reject(refusedOrigin, nil)
	}
	// 4. Exactly one ticket?
	ticket, rej := in.ticket()
	if rej != nil {
		return nil, rej
	}
	key := ticket.Key()
	id := key.ID()
	in.ticketID = shortHex(id[:])
	// 5. Room? Nothing is reserved yet. admit schedules a recheck if the log has a gap after this.
	gapsSeen, rej := g.sockets.hasRoom()
	if rej != nil {
		return nil, rej
	}
	// 6. Consume the ticket.
	grant, err := g.issuer.ConsumeKey(in.Context(), key)
	if err != nil {
		return nil, rejectConsume(err)
	}
	// 7. Check the grant, reserve a place, check for a revocation since step 6.
	if rej := g.checkGrant(in, &grant); rej != nil {
		return nil, rej
	}
	return g.sockets.admit(in, gapsSeen)
}

// isStream reports whether in is a plain request with a ticket, which AdmitRequests admits. Where
// others pass, an application's own parameter of that name does not make it one.
func (g *Guard) isStream(in *incoming) bool {
	switch {
	case !g.opts.AdmitRequests, in.Method != http.MethodGet, resemblesUpgrade(in.Request):
		return false
	case g.opts.PassOthers:
		return slices.ContainsFunc(in.inQuery, looksMinted)
	}
	return len(in.inQuery) > 0 || in.queryErr != nil
}

// checkGrant checks endpoint, outer session, Restore and end, and sets the session to admit.
func (g *Guard) checkGrant(in *incoming, grant *tickets.Grant) *Rejection {
	granted := &Session{
		ID: grant.SessionID, Provider: grant.Provider, UserID: grant.UserID,
		StartedAt: grant.StartedAt, ExpiresAt: grant.SessionExpiresAt, Data: grant.Data,
	}
	in.session = granted
	e := grant.Endpoint
	if e == "" && g.opts.RequireEndpoint || e != "" && e != g.opts.Endpoint(in.Request) {
		return reject(refusedEndpoint, nil)
	}
	known := granted
	if outer, ok := SessionFrom(in.Context()); ok {
		if !outer.same(granted) {
			return reject(refusedOtherSession, nil)
		}
		known = outer // it may have a Value, and a later end
	}
	if g.sockets.opts.Restore != nil {
		// The ticket is consumed: go on if the client disconnects.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(in.Context()), restoreWait)
		defer cancel()
		var err error
		known, err = g.sockets.restore(ctx, known)
		switch {
		case errors.Is(err, ErrNoSession), errors.Is(err, ErrSessionExpired):
			return reject(refusedSessionEnd, err)
		case err != nil:
			return reject(refusedNotRestored, err)
		}
	}
	if known.expired() {
		return reject(refusedSessionEnd, ErrSessionExpired)
	}
	granted.Value = known.Value
	if !known.ExpiresAt.IsZero() { // else the ticket's end stands
		granted.ExpiresAt = known.ExpiresAt
	}
	return nil
}

// Admission is a request that may come in.
type Admission struct {
	Session *Session
	Request *http.Request // with the session in its context, and without the ticket
	socket  *socket
}

// ResponseWriter returns what the WebSocket library must be given in place of w: it sees the
// connection being hijacked, and has Flush and Unwrap as well.
func (a *Admission) ResponseWriter(w http.ResponseWriter) http.ResponseWriter {
	return a.socket.responseWriter(w)
}

// Release marks the handler as finished; later calls do nothing. Defer it: after a panic it closes
// the socket (1011, "panic"), and panics again. A hijacked connection goes on until it is closed.
func (a *Admission) Release() {
	v := recover()
	a.socket.handlerDone(v != nil)
	if v != nil {
		panic(v)
	}
}
