package tickets

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store keeps grants under the keys of their tickets, each until it is taken or expires.
// Implementations are safe for concurrent use and bound their own waiting; storetest.Check checks
// them.
type Store interface {
	// Put keeps g until g.ExpiresAt. A store with a clock of its own keeps it for
	// g.ExpiresAt.Sub(g.MintedAt) from now, so that the clocks of two machines need not agree.
	//
	// A key is put once. Put of a key that the store still knows, whether valid, used or expired,
	// is an error and changes nothing: no ticket becomes valid a second time. A store with a bound
	// returns ErrFull at it, and never drops a valid ticket to make room; expired tickets do not
	// count.
	Put(ctx context.Context, key Key, g Grant) error

	// Take returns the grant under the key to the first caller until ExpiresAt, that instant
	// included: every field as it was put, and every time the same instant. Of any number of
	// concurrent callers, one gets it.
	//
	// The others get the zero Grant and an error that errors.Is finds to be one of these: ErrUsed
	// for as long as the ticket would have lived; ErrExpired for at least 5 s after ExpiresAt if it
	// was not used; ErrUnknown for a key that was never put, and some time after either. Any other
	// error means that the store failed. A store that does not know whether it returned the grant
	// before must not return it again.
	Take(ctx context.Context, key Key) (Grant, error)
}

// RevocationLog carries revocations to every node. A Store may be one too: an Issuer over it reads
// the log in the background from NewIssuer to Close. Implementations are safe for concurrent use
// and bound their own waiting; storetest.CheckShared checks them. A store that wraps another must
// have both methods too, or the issuer does not see the log.
//
// A log with a method KeepsRevocations() time.Duration says how long it keeps them; NewIssuer
// refuses one that keeps them for less than IssuerOptions.RememberRevocations.
type RevocationLog interface {
	// Append adds r at the end of the log, as [Revocation.Hashed] returns it: SessionHash or
	// UserHash, Reason and At. It never keeps a SessionID, which may be the cookie itself, nor a
	// Provider or UserID. After an error r may or may not be in the log.
	Append(ctx context.Context, r Revocation) error

	// Next returns everything that was appended after the cursor, in the same order to every
	// reader, and the next cursor. If there is nothing yet, it waits for at most 1 s, and then
	// returns none, with a cursor: this is the heartbeat. A new entry ends the wait.
	//
	// The cursor "" is at least one TTL and 2 s back, and does not wait. No cursor passes over an
	// entry that was appended before Next returned and was not returned by it. An entry may be
	// returned twice.
	//
	// The error is ErrGap if the cursor's place is gone: the log was emptied, or another server
	// took over that may not have all of it. Any other error means that the log could not be read.
	// At is returned as it was appended, or earlier by less than 1 ms.
	Next(ctx context.Context, after string) (rs []Revocation, next string, err error)
}

// ErrInvalid is the parent of everything that can be wrong with a ticket. If errors.Is(err,
// ErrInvalid), the answer is no; any other error means that there is no answer. The kinds are for
// an audit log: do not send them to a client.
var (
	ErrInvalid = errors.New("invalid ticket")
	ErrUnknown = fmt.Errorf("%w: unknown", ErrInvalid)
	ErrUsed    = fmt.Errorf("%w: used already", ErrInvalid)
	ErrExpired = fmt.Errorf("%w: expired", ErrInvalid)
	ErrRevoked = fmt.Errorf("%w: revoked", ErrInvalid)
)

// ErrGap is returned by [RevocationLog.Next] when the place of its cursor is gone: revocations may
// have been missed.
var ErrGap = errors.New("revocation log has a gap")

// ErrStale is the error of Consume and Health while every ticket is refused because this node is
// not up to date: it has not read the revocation log yet, or not since a gap, or not for
// IssuerOptions.MaxStaleness.
var ErrStale = errors.New("revocation log is out of date")

// The limits, and the end.
var (
	ErrTooMany = errors.New("too many tickets for one session") // a *TooManyError
	ErrFull    = errors.New("ticket store is full")
	ErrClosed  = errors.New("issuer is closed")
)

// TooManyError is the ErrTooMany that [Issuer.Mint] returns; errors.As finds it.
type TooManyError struct {
	// RetryAfter is when the session may mint again, at the latest, if it mints nothing in between:
	// more than 0, and at most 1 ns more than the TTL.
	RetryAfter time.Duration
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%v: the next one in %v", ErrTooMany, e.RetryAfter)
}

// Unwrap returns ErrTooMany.
func (e *TooManyError) Unwrap() error { return ErrTooMany }

// refusal is an error with a promised text and one of the kinds of ErrInvalid.
type refusal struct {
	kind error
	text string
	hint string // of the ticket; see Ticket.hint
}

func (r *refusal) Error() string { return r.text + r.hint }
func (r *refusal) Unwrap() error { return r.kind }
