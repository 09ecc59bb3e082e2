package tickets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"
)

// The defaults of IssuerOptions.
const (
	DefaultTTL                 = 30 * time.Second
	DefaultMaxPerSession       = 64
	DefaultRememberRevocations = time.Hour
)

// Extra time to remember a revocation: a node that receives it late may have minted meanwhile.
const receiveMargin = 5 * time.Second

// A ticket of less than a millisecond expires before its page has it; one of more than an hour is a
// session.
const (
	minTTL = time.Millisecond
	maxTTL = maxLifetime
)

// IssuerOptions are the options of an Issuer; nil is the defaults.
type IssuerOptions struct {
	// TTL is how long a ticket lives if its session does not end sooner: 1 ms to 1 h.
	// Default: DefaultTTL, 30 s.
	TTL time.Duration
	// MaxPerSession is how many tickets one session may mint here within any time of one TTL, used
	// or not. A mint may be refused up to one TTL early. Default: DefaultMaxPerSession, 64.
	MaxPerSession int
	// RememberRevocations is how long a revocation is in force, at least TTL. If a grant that was
	// refused for it says that its session ends later, it is in force until then.
	// Default: DefaultRememberRevocations, 1 h, or the TTL if that is longer.
	RememberRevocations time.Duration
	// MaxStaleness is how long a node may go on without reading the RevocationLog that its store
	// is. After that, and until it reads again, Consume refuses every ticket with ErrStale, and
	// guards close their sockets (1013). At least 3 s. Default 0: no limit; see Health.
	MaxStaleness time.Duration
}

func (o *IssuerOptions) withDefaults() IssuerOptions {
	var c IssuerOptions
	if o != nil {
		c = *o
	}
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	c.MaxPerSession = cmp.Or(c.MaxPerSession, DefaultMaxPerSession)
	c.RememberRevocations = cmp.Or(c.RememberRevocations, max(DefaultRememberRevocations, c.TTL))
	return c
}

// check returns everything that is wrong with store and the options.
func (o *IssuerOptions) check(store Store) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if store == nil {
		wrong("store is nil, want a Store such as NewMemoryStore(nil)")
	} else if v := reflect.ValueOf(store); v.Kind() == reflect.Pointer && v.IsNil() {
		wrong("store is a nil %T", store) // what a constructor returns beside its error
	}
	if o.TTL < minTTL || o.TTL > maxTTL {
		wrong("TTL is %v, want %v to %v", o.TTL, minTTL, maxTTL)
	}
	if o.MaxPerSession < 0 {
		wrong("MaxPerSession is %d, want at least 1", o.MaxPerSession)
	}
	if o.RememberRevocations < max(o.TTL, minTTL) {
		// A ticket that was minted just before would outlive its revocation.
		wrong("RememberRevocations is %v, want at least the TTL", o.RememberRevocations)
	}
	_, shared := store.(RevocationLog)
	switch {
	case o.MaxStaleness != 0 && store != nil && !shared:
		wrong("MaxStaleness is %v, but %T is no RevocationLog: there is nothing to read",
			o.MaxStaleness, store)
	case o.MaxStaleness != 0 && o.MaxStaleness < unhealthyAfter:
		wrong("MaxStaleness is %v, want at least %v, or 0 for no limit",
			o.MaxStaleness, unhealthyAfter)
	}
	keeper, ok := store.(interface{ KeepsRevocations() time.Duration })
	if ok && len(errs) == 0 && keeper.KeepsRevocations() < o.RememberRevocations {
		wrong("RememberRevocations is %v, but the store keeps revocations for %v: "+
			"a node that starts later would admit revoked sessions",
			o.RememberRevocations, keeper.KeepsRevocations())
	}
	return errors.Join(errs...)
}

// Issuer mints and consumes tickets, and revokes sessions and users. It is safe for concurrent use.
//
// If its store is a [RevocationLog], it receives the revocations of every node in the background,
// from NewIssuer to Close.
type Issuer struct {
	store     Store
	memory    *MemoryStore // the store, if it is one: a direct call takes half the time of Mint
	ttl       time.Duration
	base      time.Time
	limiter   *limiter
	revoked   *revocations
	listeners listeners[Revocation]
	gaps      listeners[error]
	cluster   *cluster // nil: the store is no RevocationLog
	closed    atomic.Bool
}

// NewIssuer returns an issuer over store; nil options are the defaults. Its error joins everything
// that is wrong with the arguments.
func NewIssuer(store Store, opts *IssuerOptions) (*Issuer, error) {
	o := opts.withDefaults()
	if err := o.check(store); err != nil {
		return nil, fmt.Errorf("tickets.NewIssuer: %w", err)
	}
	log, shared := store.(RevocationLog)
	remember := min(o.RememberRevocations, longest) // a longer Duration may overflow
	if shared {
		remember += receiveMargin
	}
	memory, _ := store.(*MemoryStore)
	i := &Issuer{
		store:   store,
		memory:  memory,
		ttl:     o.TTL,
		base:    time.Now(),
		limiter: newLimiter(o.TTL, o.MaxPerSession),
		revoked: newRevocations(remember),
	}
	if shared {
		i.cluster = newCluster(i, log, o.MaxStaleness)
	}
	return i, nil
}

// Mint puts g into the store, with MintedAt and ExpiresAt filled in, and returns its ticket, which
// expires after [Issuer.Lifetime].
//
// The error is ErrExpired if the session has ended, ErrRevoked if it was revoked, a *TooManyError
// (ErrTooMany) at MaxPerSession, ErrFull at the store's bound, and ErrClosed after Close. A grant
// with Data above 256 bytes, or another string above 8 KiB, is an error too. Any other error is the
// store's. If there is an error, there is no ticket, and nothing counts against the session. A
// grant without SessionID has no limit.
func (i *Issuer) Mint(ctx context.Context, g Grant) (Ticket, error) {
	if i.closed.Load() {
		return "", fmt.Errorf("mint ticket: %w", ErrClosed)
	}
	if err := g.check(); err != nil {
		return "", fmt.Errorf("mint ticket: %w", err)
	}
	now := time.Now()
	lifetime := i.lifetime(&g, now)
	if lifetime <= 0 {
		return "", &refusal{kind: ErrExpired, text: "mint ticket: the session has expired"}
	}
	if i.revoked.cover(&g) {
		return "", &refusal{kind: ErrRevoked, text: "mint ticket: the session was revoked"}
	}
	if g.SessionID != "" {
		if err := i.limiter.take(g.SessionID, now.Sub(i.base)); err != nil {
			return "", fmt.Errorf("mint ticket: %w", err)
		}
	}
	g.MintedAt, g.ExpiresAt = now, now.Add(lifetime)
	t := newTicket()
	if err := i.put(ctx, t, &g, lifetime); err != nil {
		if g.SessionID != "" {
			i.limiter.release(g.SessionID, now.Sub(i.base))
		}
		return "", fmt.Errorf("mint ticket: %w", err)
	}
	return t, nil
}

func (i *Issuer) put(ctx context.Context, t Ticket, g *Grant, lifetime time.Duration) error {
	if i.memory == nil {
		return i.store.Put(ctx, t.Key(), *g)
	}
	id := t.id()
	return i.memory.put(&id, g, g.MintedAt.Sub(i.memory.base), lifetime, true)
}

// Lifetime returns how long a ticket for g would live if it were minted now: the TTL, or less if
// the session ends sooner, or 0 if it has ended. Of the zero Grant it is the TTL.
func (i *Issuer) Lifetime(g Grant) time.Duration { return i.lifetime(&g, time.Now()) }

func (i *Issuer) lifetime(g *Grant, now time.Time) time.Duration {
	if g.SessionExpiresAt.IsZero() {
		return i.ttl
	}
	return max(0, min(i.ttl, g.SessionExpiresAt.Sub(now)))
}

// Consume takes the ticket and returns its grant, once, until it expires. It continues when ctx is
// done: a ticket is used or it is not, whether the client waits or not. The store bounds the wait.
//
// If errors.Is(err, ErrInvalid), the answer is no, and the kind of the error says why. The text of
// an unknown or used ticket is "unknown ticket: " and its first 8 characters, if that is less than
// half of it; the other texts contain "expired" or "revoked", and nothing of the ticket. What does
// not have the form of a ticket is unknown, without a call of the store.
//
// Any other error means that there is no answer, and the client must not be admitted: the store
// failed, the issuer is closed (ErrClosed), or it is not up to date with the revocations of other
// nodes (ErrStale). The last two leave the ticket untouched.
func (i *Issuer) Consume(ctx context.Context, t Ticket) (Grant, error) {
	id := t.id()
	return i.consume(ctx, t, &id)
}

// ConsumeKey is Consume for a caller that has the ticket's Key already, for its audit log.
func (i *Issuer) ConsumeKey(ctx context.Context, k Key) (Grant, error) {
	return i.consume(ctx, k.ticket(), &k.id)
}

// consume is Consume. id is the SHA-256 of t.
func (i *Issuer) consume(ctx context.Context, t Ticket, id *[32]byte) (g Grant, err error) {
	if i.closed.Load() {
		return Grant{}, fmt.Errorf("consume ticket: %w", ErrClosed)
	}
	// A MemoryStore needs no check: a ticket that was not minted costs it nothing but a look.
	if len(t) != textSize || i.memory == nil && !t.wellFormed() {
		return Grant{}, refuse(t, ErrUnknown)
	}
	if i.cluster != nil {
		if err := i.cluster.admits(); err != nil {
			return Grant{}, fmt.Errorf("consume ticket: %w", err)
		}
	}
	if i.memory != nil {
		err = i.memory.take(id, &g)
	} else {
		g, err = i.store.Take(context.WithoutCancel(ctx), t.key(*id))
	}
	if err != nil {
		return Grant{}, refuse(t, err)
	}
	if g.ExpiresAt.IsZero() { // Mint filled it in: this is no grant that was minted
		return Grant{}, errors.New("consume ticket: the store returned no grant and no error")
	}
	// Last, so that a Revoke that has returned covers every ticket that is not accepted yet.
	if i.revoked.cover(&g) {
		return Grant{}, refuse(t, ErrRevoked)
	}
	return g, nil
}

// refuse returns the error of Consume for an error of the store.
func refuse(t Ticket, err error) error {
	switch kindOf(err) {
	case nil:
		return fmt.Errorf("consume ticket: %w", err)
	case ErrRevoked:
		return &refusal{kind: ErrRevoked, text: "ticket revoked"}
	case ErrExpired:
		return &refusal{kind: ErrExpired, text: "ticket expired"}
	case ErrUsed:
		return &refusal{kind: ErrUsed, text: "unknown ticket: ", hint: t.hint()}
	}
	return &refusal{kind: ErrUnknown, text: "unknown ticket: ", hint: t.hint()}
}

// kindOf returns which kind of ErrInvalid err is, or nil.
func kindOf(err error) error {
	for _, kind := range []error{ErrRevoked, ErrExpired, ErrUsed, ErrInvalid} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// Health returns nil while this node receives the revocations of the other nodes, and they can
// receive its own, or if there are no other nodes. Else the error says what is wrong, and for how
// long. It is ErrStale if Consume refuses every ticket for it, and ErrClosed after Close. Health
// makes no call of the store.
//
// A readiness probe should test for ErrStale only: if the store is down, all nodes are unhealthy at
// once, and their other pages do not need it. Alert on any error.
func (i *Issuer) Health() error {
	switch {
	case i.closed.Load():
		return ErrClosed
	case i.cluster == nil:
		return nil
	}
	return i.cluster.health()
}

// OnGap registers fn, which is called when revocations may have been missed. With ErrGap: the log
// has lost its place, what is in it now is in force, and every node publishes again what it
// remembers; a revocation that no node remembers is lost. With ErrStale: the log was not read for
// IssuerOptions.MaxStaleness. middleware.Sockets registers here: after ErrGap it rechecks every
// session that has sockets, and after ErrStale it closes them.
//
// fn may call every method of the issuer except Close. After stop, which may be called again, fn is
// not called any more.
func (i *Issuer) OnGap(fn func(error)) (stop func()) { return i.gaps.add(fn) }

// Close ends the issuer: Mint and Consume fail with ErrClosed, and revocations of other nodes are
// not received any more. Revoke and Revoked still work, because sockets may outlive the issuer; but
// MaxStaleness ends, and what Revoke cannot publish is not published later. Close does not close
// the store. It cancels a call of the store's Next and waits for it, and tries once more to publish
// what is unpublished: the error says of how many revocations that failed. It may be called again.
func (i *Issuer) Close() error {
	i.closed.Store(true)
	if i.cluster != nil {
		return i.cluster.close()
	}
	return nil
}
