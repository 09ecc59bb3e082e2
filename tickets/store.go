package tickets

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store keeps grants under the keys of their tickets, each until it is taken or expires.
// Implementations are safe for concurrent use, bound their own waiting, and are checked by
// storetest.Check in the package below this one.
type Store interface {
	// Put keeps g until g.ExpiresAt. A store with a clock of its own lets it live
	// g.ExpiresAt.Sub(g.MintedAt) from now, so that two machines' clocks need not agree.
	//
	// A key is put once. Put of a key that the store still knows, be it good, used or expired, is
	// an error and changes nothing: no ticket becomes good a second time. A store that has a bound
	// returns ErrFull there, and never drops a good ticket to make room; tickets that have expired
	// do not count against it.
	Put(ctx context.Context, key Key, g Grant) error

	// Take returns the grant under the key, every field as it was put and every time the same
	// instant, to the first caller that asks until ExpiresAt, that instant included. Of any number
	// of callers at once, one wins.
	//
	// Everyone else gets the zero Grant, and an error that errors.Is finds to be one of these:
	// ErrUsed for as long as the ticket would have lived; ErrExpired for at least 5 s after
	// ExpiresAt where it was not used; ErrUnknown for what was never put, and some time after
	// either. Any other error means that the store failed. A store that can't tell whether it gave
	// the ticket away must not give it again.
	Take(ctx context.Context, key Key) (Grant, error)
}

// RevocationLog is what a store has that carries revocations to every node. An Issuer whose Store
// is one reads it in the background from NewIssuer to Close; nothing else needs to be done.
// Implementations are safe for concurrent use, bound their own waiting, and are checked by
// storetest.CheckShared. A store that wraps another must hand both methods on, or the log is not seen.
//
// A log that has a method KeepsRevocations() time.Duration says how long it keeps them; NewIssuer
// refuses one that keeps them for less than IssuerOptions.RememberRevocations.
type RevocationLog interface {
	// Append adds r at the end of the log: SessionHash or UserHash, Reason and At. It never keeps
	// SessionID, which may be the very cookie, nor Provider and UserID; where r is appended again,
	// it has none of them. An error says that it may not be in the log.
	Append(ctx context.Context, r Revocation) error

	// Next returns everything that was appended after the cursor, in an order that every reader
	// sees, and the cursor to go on from. Where there is nothing yet it waits, for 1 s at most, and
	// then returns none, with a cursor: that is the heartbeat. What is appended meanwhile ends the
	// wait.
	//
	// The cursor "" begins at least one TTL and 2 s back, and does not wait. Nothing that is
	// appended before Next returns, and seen by no Next, is ever passed over by a cursor; to return
	// a revocation twice is allowed.
	//
	// The error is ErrGap where the cursor's place is gone: the log was emptied, or another server
	// has taken over that may not have all of it. Any other error means that nothing could be heard.
	// At comes back as it was appended, or earlier by less than 1 ms.
	Next(ctx context.Context, after string) (rs []Revocation, next string, err error)
}

// ErrInvalid is the parent of everything that can be wrong with a ticket: errors.Is(err,
// ErrInvalid) is the test for "no", and any other error for "could not be decided". Its kinds are
// for an audit log; a client is told none of them.
var (
	ErrInvalid = errors.New("invalid ticket")
	ErrUnknown = fmt.Errorf("%w: unknown", ErrInvalid)
	ErrUsed    = fmt.Errorf("%w: used already", ErrInvalid)
	ErrExpired = fmt.Errorf("%w: expired", ErrInvalid)
	ErrRevoked = fmt.Errorf("%w: revoked", ErrInvalid)
)

// ErrGap is what [RevocationLog.Next] returns when the place of its cursor is gone: revocations
// may have been missed.
var ErrGap = errors.New("revocation log has a gap")

// Limits, and the end.
var (
	ErrTooMany = errors.New("too many tickets for one session") // a *TooManyError
	ErrFull    = errors.New("ticket store is full")
	ErrClosed  = errors.New("issuer is closed")
)

// TooManyError is the ErrTooMany that [Issuer.Mint] returns; errors.As finds it.
type TooManyError struct {
	RetryAfter time.Duration // until the session may mint again: above 0, and at most 1 ms too long
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%v: the next one in %v", ErrTooMany, e.RetryAfter)
}

// Unwrap returns ErrTooMany.
func (e *TooManyError) Unwrap() error { return ErrTooMany }

// refusal is an error whose text is promised and whose kind is one of ErrInvalid's. Of the ticket it has
// no more than its text shows, which is put together only for those who look.
type refusal struct {
	kind error
	text string
	hint hint
}

func (r *refusal) Error() string { return r.text + string(r.hint.text[:r.hint.size]) }
func (r *refusal) Unwrap() error { return r.kind }
