package tickets

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Revocation ends one session, or all sessions that a user has begun so far.
type Revocation struct {
	SessionID        string    // exactly one of SessionID
	Provider, UserID string    // and UserID; Provider goes with UserID, and may be empty
	Reason           string    // for the audit log; pages receive session_revoked
	At               time.Time // filled in by Revoke if it is zero or in the future

	// Revoke fills in the one of SessionID or UserID: see [HashSession], [HashUser]. A revocation
	// of another node has only these: a shared store holds no names.
	SessionHash, UserHash [sha256.Size]byte
}

// HashSession returns the SHA-256 of a session's id.
func HashSession(id string) [sha256.Size]byte { return sha256.Sum256([]byte(id)) }

// HashUser returns the SHA-256 of a user: of the length of provider in 8 bytes, big-endian,
// provider, and userID. It hides a name from a reader, but not from one who can guess it.
func HashUser(provider, userID string) [sha256.Size]byte {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint64(b, uint64(len(provider)))
	b = append(b, provider...)
	return sha256.Sum256(append(b, userID...))
}

// The clocks of two machines may differ by this much. No session that began before the revocation
// may be missed for that, so one that begins this soon after it is covered too.
const clockTolerance = 2 * time.Second

// Covers reports whether r, as a listener of [Issuer.OnRevoke] receives it, ends the session that g
// was minted for: the session itself, or a session of the user that began at most 2 s after r.At. A
// session whose beginning is unknown is covered. Provider is matched exactly.
func (r Revocation) Covers(g Grant) bool {
	r.hash()
	if r.ofSession() {
		return g.SessionID != "" && r.SessionHash == HashSession(g.SessionID)
	}
	return r.ofUser() && g.UserID != "" && r.UserHash == HashUser(g.Provider, g.UserID) &&
		beganBefore(g.StartedAt, r.At)
}

// Hashed returns r as a [RevocationLog] keeps it: SessionHash or UserHash, Reason and At, and no
// names. The error says that r is of neither a session nor a user, or of both. It shows no name.
func (r Revocation) Hashed() (Revocation, error) {
	r.hash()
	r.SessionID, r.Provider, r.UserID = "", "", ""
	if r.ofSession() == r.ofUser() {
		return Revocation{}, errors.New("a revocation is of exactly one session or user")
	}
	return r, nil
}

// hash fills in SessionHash or UserHash.
func (r *Revocation) hash() {
	if r.SessionID != "" {
		r.SessionHash = HashSession(r.SessionID)
	}
	if r.UserID != "" {
		r.UserHash = HashUser(r.Provider, r.UserID)
	}
}

func (r *Revocation) ofSession() bool { return r.SessionHash != [sha256.Size]byte{} }
func (r *Revocation) ofUser() bool    { return r.UserHash != [sha256.Size]byte{} }

// subject returns what a hashed revocation revokes.
func (r *Revocation) subject() subject {
	if r.ofUser() {
		return subject{user: true, hash: r.UserHash}
	}
	return subject{hash: r.SessionHash}
}

// beganBefore treats the zero time, an unknown beginning, as before everything.
func beganBefore(startedAt, at time.Time) bool {
	return !startedAt.After(at.Add(clockTolerance))
}

// Format prints the revocation with its session id hashed.
func (r Revocation) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), r.concealed())
}

// LogValue returns the revocation with its session id hashed.
func (r Revocation) LogValue() slog.Value { return slog.AnyValue(r.concealed()) }

func (r Revocation) concealed() any {
	short := func(h [sha256.Size]byte) string {
		if h == [sha256.Size]byte{} {
			return ""
		}
		return hex.EncodeToString(h[:6])
	}
	r.hash()
	return struct {
		Session, Provider, UserID, User, Reason string
		At                                      time.Time
	}{short(r.SessionHash), r.Provider, r.UserID, short(r.UserHash), r.Reason, r.At}
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
	if year := r.At.UTC().Year(); year < 0 || year > 9999 { // which logs cannot write
		errs = append(errs, fmt.Errorf("at is in the year %d, want 0 to 9999", year))
	}
	return errors.Join(errs...)
}

// Revoke ends a session, or all sessions of a user: Mint and Consume refuse them with ErrRevoked
// from before the first listener is called until the revocation is forgotten (see
// IssuerOptions.RememberRevocations). It calls the listeners of [Issuer.OnRevoke] one after
// another, and returns after the last. It may be called again: the later revocation stands.
//
// If the store is a [RevocationLog], the revocation is in it when Revoke returns nil, and the other
// nodes receive it within a moment. An error that is not about r says that it could not be
// published: it is in force here, and the issuer publishes it later, unless it is closed before.
// Revoke continues when ctx is done; the store bounds the wait.
//
// A user who signs in again within 2 s of At counts as signed in before. If that has to work at
// once ("sign out everywhere else"), set At 2 s back, or revoke session by session.
//
// First end the session in your own session store. Else the page can sign in or mint with it again
// when the revocation is forgotten.
//
// If the error is about r, it says what is wrong, and nothing is revoked.
func (i *Issuer) Revoke(ctx context.Context, r Revocation) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	r.SessionHash, r.UserHash = [sha256.Size]byte{}, [sha256.Size]byte{}
	r.hash()
	now := time.Now()
	if r.At.IsZero() || r.At.After(now) {
		r.At = now
	}
	r.At = r.At.Round(0) // it is compared with wall clocks of other machines
	i.revoked.add(&r, now)
	if i.cluster == nil {
		i.listeners.call(r)
		return nil
	}
	published := make(chan error, 1)
	go func() { published <- i.cluster.publish(context.WithoutCancel(ctx), r) }()
	i.listeners.call(r)
	if err := <-published; err != nil {
		return fmt.Errorf("revoke: in force on this node, not on other nodes yet: %w", err)
	}
	return nil
}

// Revoked returns ErrRevoked if g's session, or the sessions of its user, were revoked, else nil.
// It costs next to nothing while there are no revocations.
func (i *Issuer) Revoked(g Grant) error {
	if i.revoked.cover(&g) {
		return ErrRevoked
	}
	return nil
}

// OnRevoke registers fn, which is called for every revocation when it is in force here: for one of
// this issuer in the goroutine of Revoke, before it returns; for one of another node in the
// goroutine that receives them, which waits for fn. Calls may be concurrent. Revocations from
// before this issuer was up to date are in force without a call: nobody was admitted under them.
//
// fn may call every method of the issuer except Close. After stop, which may be called again, fn is
// not called for a revocation that begins later.
func (i *Issuer) OnRevoke(fn func(Revocation)) (stop func()) {
	return i.listeners.add(fn)
}
