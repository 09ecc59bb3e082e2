package tickets

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"
)

// What IssuerOptions are unless they say otherwise.
const (
	DefaultTTL                 = 30 * time.Second
	DefaultMaxPerSession       = 64
	DefaultRememberRevocations = time.Hour
)

// A node that hears of a revocation late has minted until then: it stands for so much longer.
const hearing = 5 * time.Second

// Below a millisecond a ticket is dead before its page has it; above an hour it is a session.
const (
	minTTL = time.Millisecond
	maxTTL = maxLifetime
)

// IssuerOptions are the options of an Issuer; nil is the defaults.
type IssuerOptions struct {
	// TTL is how long a ticket lives, where its session does not end sooner: 1 ms to 1 h.
	// Default: DefaultTTL, 30 s.
	TTL time.Duration
	// MaxPerSession is how many tickets one session may mint here within one TTL, used or not.
	// Default: DefaultMaxPerSession, 64.
	MaxPerSession int
	// RememberRevocations is how long a revocation stands, at least TTL. Where a grant that was
	// refused for it says that its session ends later than that, it stands until then.
	// Default: DefaultRememberRevocations, 1 h, or the TTL if that is longer.
	RememberRevocations time.Duration
	// MaxStaleness is how long a node whose store is a RevocationLog may go on without hearing it: then
	// Consume lets nobody in, and guards end their sockets (1013), until it is heard again. At least
	// 3 s. Default 0: for ever; Health tells.
	MaxStaleness time.Duration
}

// Issuer mints and consumes tickets, and revokes what they stand for. It is safe for concurrent use.
//
// Over a store that is a [RevocationLog] it hears the revocations of every node in the background,
// from NewIssuer to Close.
type Issuer struct {
	store     Store
	memory    *MemoryStore // the store, if it is one: half of the tickets' cost would be the interface
	ttl       time.Duration
	base      time.Time
	shares    shares
	revoked   revocations
	listeners listeners[Revocation]
	gaps      listeners[error]
	nodes     *nodes // nil: the store is no RevocationLog
	closed    atomic.Bool
}

// NewIssuer returns an issuer over store; nil options are the defaults. Its error joins everything
// that is wrong with the arguments.
func NewIssuer(store Store, opts *IssuerOptions) (*Issuer, error) {
	var o IssuerOptions
	if opts != nil {
		o = *opts
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.MaxPerSession == 0 {
		o.MaxPerSession = DefaultMaxPerSession
	}
	if o.RememberRevocations == 0 {
		o.RememberRevocations = max(DefaultRememberRevocations, o.TTL)
	}
	var errs []error
	if v := reflect.ValueOf(store); v.Kind() == reflect.Pointer && v.IsNil() { // of a constructor that failed
		errs = append(errs, fmt.Errorf("store is a nil %T", store))
	}
	if store == nil {
		errs = append(errs, errors.New("store is nil, want a Store such as NewMemoryStore(nil)"))
	}
	if o.TTL < minTTL || o.TTL > maxTTL {
		errs = append(errs, fmt.Errorf("TTL is %v, want %v to %v", o.TTL, minTTL, maxTTL))
	}
	if o.MaxPerSession < 0 {
		errs = append(errs, fmt.Errorf("MaxPerSession is %d, want at least 1", o.MaxPerSession))
	}
	if o.RememberRevocations < max(o.TTL, minTTL) {
		// A ticket that was minted just before would outlive the memory of its revocation.
		errs = append(errs, fmt.Errorf("RememberRevocations is %v, want at least the TTL", o.RememberRevocations))
	}
	log, shared := store.(RevocationLog)
	switch {
	case o.MaxStaleness != 0 && store != nil && !shared:
		errs = append(errs, fmt.Errorf("MaxStaleness is %v, but %T is no RevocationLog: there is nothing to hear", o.MaxStaleness, store))
	case o.MaxStaleness != 0 && o.MaxStaleness < deafAfter:
		errs = append(errs, fmt.Errorf("MaxStaleness is %v, want at least %v, or 0 for no limit", o.MaxStaleness, deafAfter))
	}
	if k, ok := store.(interface{ KeepsRevocations() time.Duration }); ok && len(errs) == 0 && k.KeepsRevocations() < o.RememberRevocations {
		errs = append(errs, fmt.Errorf("RememberRevocations is %v, but the store keeps revocations for %v: a node that starts later would let the revoked in",
			o.RememberRevocations, k.KeepsRevocations()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new issuer: %w", err)
	}
	memory, _ := store.(*MemoryStore)
	i := &Issuer{store: store, memory: memory, ttl: o.TTL, base: time.Now()}
	i.shares.init(o.TTL, o.MaxPerSession)
	remember := min(o.RememberRevocations, longest) // beyond that a Duration overflows
	if shared {
		remember += hearing
	}
	i.revoked.init(remember)
	if shared {
		i.nodes = newNodes(i, log, o.MaxStaleness)
	}
	return i, nil
}

// Mint puts g into the store, with MintedAt and ExpiresAt filled in, and returns the ticket that
// stands for it. The ticket expires after [Issuer.Lifetime].
//
// The error is ErrExpired where the session has ended, ErrRevoked where it was revoked, a
// *TooManyError (ErrTooMany) at the session's share, ErrFull at the store's bound, and ErrClosed
// after Close. A grant that can't be is an error too: Data above 256 bytes, another string above
// 8 KiB. Any other error is the store's; there is no ticket then, and nothing counts against the
// session. A grant without SessionID has no share.
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
	var mint minted
	if g.SessionID != "" {
		var err error
		if mint, err = i.shares.take(g.SessionID, now.Sub(i.base)); err != nil {
			return "", fmt.Errorf("mint ticket: %w", err)
		}
	}
	g.MintedAt, g.ExpiresAt = now, now.Add(lifetime)
	t, key := newTicket()
	if err := i.put(ctx, &key, &g); err != nil {
		i.shares.giveBack(mint)
		return "", fmt.Errorf("mint ticket: %w", err)
	}
	return t, nil
}

func (i *Issuer) put(ctx context.Context, key *Key, g *Grant) error {
	if i.memory != nil {
		return i.memory.put(&key.id, g, true)
	}
	return i.store.Put(ctx, *key, *g)
}

// Lifetime returns how long a ticket for g would live if it were minted now: the TTL, or less where
// the session ends sooner, and 0 where it has ended.
func (i *Issuer) Lifetime(g Grant) time.Duration { return i.lifetime(&g, time.Now()) }

func (i *Issuer) lifetime(g *Grant, now time.Time) time.Duration {
	if g.SessionExpiresAt.IsZero() {
		return i.ttl
	}
	return max(0, min(i.ttl, g.SessionExpiresAt.Sub(now)))
}

// Consume takes the ticket and returns its grant, the first time and until it expires. It runs on
// when ctx is done: whether a ticket was used is a fact, and must not hang on a client's patience.
// The store bounds the wait.
//
// An error that errors.Is finds to be ErrInvalid means no, and its kind says why. Its text is
// "unknown ticket: " and the ticket's first 8 characters, where that is less than half of it, for
// one that is unknown or used; it contains "expired" or "revoked" for the others, and nothing of
// the ticket. What cannot be a ticket is unknown without the store being asked. Any other error
// means that it could not be decided, and nobody may be let in: the store failed, the issuer is
// closed, or (ErrStale) it has not caught up with the revocations of other nodes. Of the last two the
// ticket is untouched.
func (i *Issuer) Consume(ctx context.Context, t Ticket) (g Grant, err error) {
	if i.closed.Load() {
		return Grant{}, fmt.Errorf("consume ticket: %w", ErrClosed)
	}
	if !t.wellFormed() {
		return Grant{}, refuse(t, ErrUnknown)
	}
	if i.nodes != nil {
		if err := i.nodes.admits(); err != nil {
			return Grant{}, fmt.Errorf("consume ticket: %w", err)
		}
	}
	key := t.Key()
	if i.memory != nil {
		err = i.memory.take(&key.id, &g)
	} else {
		g, err = i.store.Take(context.WithoutCancel(ctx), key)
	}
	if err != nil {
		return Grant{}, refuse(t, err)
	}
	if g.ExpiresAt.IsZero() { // Mint filled it in: rows that a driver found are not a grant
		return Grant{}, errors.New("consume ticket: the store returned neither a grant nor an error")
	}
	// Last, so that a revocation that has returned covers every ticket that is not yet accepted.
	if i.revoked.cover(&g) {
		return Grant{}, refuse(t, ErrRevoked)
	}
	return g, nil
}

// refuse gives a store's error the text that Consume promises for its kind.
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

// kindOf returns which kind of ErrInvalid err is, or nil. A MemoryStore's needs no search.
func kindOf(err error) error {
	for _, kind := range []error{ErrUnknown, ErrUsed, ErrExpired, ErrRevoked} {
		if err == kind {
			return kind
		}
	}
	for _, kind := range []error{ErrRevoked, ErrExpired, ErrUsed, ErrInvalid} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// Health returns nil while this node hears the revocations of the others, or has no others to hear;
// else an error that says why not and since when, and is ErrStale where Consume lets nobody in for it; or
// ErrClosed. It is an error too when the others can't be told. It asks nobody.
//
// A readiness probe should ask for ErrStale: a store that is down makes every node unhealthy at once, and
// their other pages need it not. Any other error is an alert.
func (i *Issuer) Health() error {
	switch {
	case i.closed.Load():
		return ErrClosed
	case i.nodes == nil:
		return nil
	}
	return i.nodes.health()
}

// OnGap has fn called when revocations may have been missed. With ErrGap: the log had lost its place,
// and what is in it now is in force; every node appends again what it remembers, but somebody may have
// been revoked whom no node remembers. With ErrStale: nothing was heard for IssuerOptions.MaxStaleness. Guards
// listen here: after ErrGap those that have a GuardOptions.Restore ask it about every session that has
// sockets; after ErrStale they end their sockets.
//
// fn may call anything of the issuer but Close. After stop, which may be called again, it is called no
// more.
func (i *Issuer) OnGap(fn func(error)) (stop func()) { return i.gaps.add(fn) }

// Close ends the issuer: from then on Mint and Consume fail with ErrClosed, and no other node is heard.
// Revoke and Revoked go on, because sockets may outlive the issuer; but MaxStaleness is over, and what Revoke
// could not tell is not told later. It does not close the store. It waits for a call of the store's Next,
// which it cancels, and tries once more to tell what other nodes have not been told: the error says of how
// many revocations that failed. Calling it again is safe.
func (i *Issuer) Close() error {
	i.closed.Store(true)
	if i.nodes != nil {
		return i.nodes.close()
	}
	return nil
}
