package tickets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Revocation ends one session, or all that a person has begun so far.
type Revocation struct {
	SessionID        string    // exactly one of SessionID
	Provider, UserID string    // and UserID; Provider goes with UserID, and may be empty
	Reason           string    // for the audit; pages are told session_revoked
	At               time.Time // filled in by Revoke where it is zero or still to come
}

// A person who was just revoked may sign in again, and the session that begins then must not be
// taken for one of those before. Two machines' clocks may differ by this much.
const clockTolerance = 2 * time.Second

// Covers reports whether r, as a listener of [Issuer.OnRevoke] receives it, ends the session that g
// was minted for: the session itself, or one of the person's that began at most 2 s after r.At. An
// unknown beginning counts as before. Provider is matched exactly.
func (r Revocation) Covers(g Grant) bool {
	if r.SessionID != "" {
		return r.SessionID == g.SessionID
	}
	return r.UserID != "" && r.UserID == g.UserID && r.Provider == g.Provider &&
		beganBefore(g.StartedAt, r.At)
}

// The zero time, an unknown beginning, is before everything.
func beganBefore(startedAt, at time.Time) bool {
	return !startedAt.After(at.Add(clockTolerance))
}

// Format prints the revocation, its session id hashed.
func (r Revocation) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), r.concealed())
}

// LogValue is the revocation, its session id hashed.
func (r Revocation) LogValue() slog.Value { return slog.AnyValue(r.concealed()) }

func (r Revocation) concealed() any {
	type revocation Revocation
	r.SessionID = concealedID(r.SessionID)
	return revocation(r)
}

// check returns everything that is wrong with a revocation, without showing a session id.
func (r *Revocation) check() error {
	var errs []error
	if (r.SessionID == "") == (r.UserID == "") {
		errs = append(errs, errors.New("want exactly one of SessionID and UserID"))
	}
	if r.Provider != "" && r.UserID == "" {
		errs = append(errs, fmt.Errorf("provider %q is given without a UserID", r.Provider))
	}
	return errors.Join(errs...)
}

// Revoke ends a session, or all sessions of a person: Mint and Consume refuse them with ErrRevoked
// from before the first listener is called until they are forgotten (see
// IssuerOptions.RememberRevocations). It calls the listeners of [Issuer.OnRevoke] one after
// another, and returns after the last. Revoking again is safe: the later one stands.
//
// End the session in your own session store first. Else the page can sign in, or mint, with it
// again once the revocation is forgotten.
//
// The error says what is wrong with r; nothing is revoked then.
func (i *Issuer) Revoke(ctx context.Context, r Revocation) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	now := time.Now()
	if r.At.IsZero() || r.At.After(now) {
		r.At = now
	}
	r.At = r.At.Round(0) // compared with wall clocks of other machines
	i.revoked.add(r, now)
	i.listeners.tell(r)
	return nil
}

// Revoked returns ErrRevoked where g's session, or its person's sessions, were revoked, and nil
// otherwise. It costs next to nothing while there are no revocations.
func (i *Issuer) Revoked(g Grant) error {
	if i.revoked.cover(&g) {
		return ErrRevoked
	}
	return nil
}

// OnRevoke has fn called for every revocation, in the goroutine that revokes, when it is in force
// here and before Revoke returns. Several at once are possible. fn may call anything of the issuer,
// this included. After stop, which may be called again, fn is called for no revocation that begins
// later.
func (i *Issuer) OnRevoke(fn func(Revocation)) (stop func()) {
	return i.listeners.add(fn)
}

// sessionKey is what the memory of revocations files a session under. It needs no raw id, so that a
// revocation can come from where raw ids must not be.
func sessionKey(id string) [sha256.Size]byte { return sha256.Sum256([]byte(id)) }
