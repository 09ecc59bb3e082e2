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

// Revocation ends one session, or all that a person has begun so far.
type Revocation struct {
	SessionID        string    // exactly one of SessionID
	Provider, UserID string    // and UserID; Provider goes with UserID, and may be empty
	Reason           string    // for the audit; pages are told session_revoked
	At               time.Time // filled in by Revoke where it is zero or still to come

	// Revoke fills in the one that goes with SessionID or UserID: see [HashSession], [HashUser].
	// What was heard from another node has only these: a store that nodes share holds no names.
	SessionHash, UserHash [sha256.Size]byte
}

// HashSession returns the SHA-256 of a session's id.
func HashSession(id string) [sha256.Size]byte { return sha256.Sum256([]byte(id)) }

// HashUser returns the SHA-256 of a person: of the length of provider in 8 bytes, the greatest
// first, provider, and userID. It hides a name from those who would read it, and not from those who
// would guess it.
func HashUser(provider, userID string) [sha256.Size]byte {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint64(b, uint64(len(provider)))
	b = append(b, provider...)
	return sha256.Sum256(append(b, userID...))
}

// Two machines' clocks may differ by this much, and no session that began before may be spared for
// that. So one that begins this soon after is taken for one of those before.
const clockTolerance = 2 * time.Second

// Covers reports whether r, as a listener of [Issuer.OnRevoke] receives it, ends the session that g
// was minted for: the session itself, or one of the person's that began at most 2 s after r.At. An
// unknown beginning counts as before. Provider is matched exactly.
func (r Revocation) Covers(g Grant) bool {
	r.hash()
	if r.ofSession() {
		return g.SessionID != "" && r.SessionHash == HashSession(g.SessionID)
	}
	return r.ofUser() && g.UserID != "" && r.UserHash == HashUser(g.Provider, g.UserID) &&
		beganBefore(g.StartedAt, r.At)
}

// Hashed returns r as a [RevocationLog] may keep it: SessionHash or UserHash, Reason and At, and no
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
	if year := r.At.UTC().Year(); year < 0 || year > 9999 { // which logs can't write down
		errs = append(errs, fmt.Errorf("at is in the year %d, want 0 to 9999", year))
	}
	return errors.Join(errs...)
}

// Revoke ends a session, or all sessions of a person: Mint and Consume refuse them with ErrRevoked
// from before the first listener is called until they are forgotten (see
// IssuerOptions.RememberRevocations). It calls the listeners of [Issuer.OnRevoke] one after
// another, and returns after the last. Revoking again is safe: the later one stands.
//
// Where the store is a [RevocationLog], the revocation is in it when Revoke returns nil, and the
// other nodes hear it in a moment. An error that is not about r says that they could not be told:
// it is in force here nevertheless, and they will be told when the log is back, if the issuer is not
// closed before. Calling again is safe. Revoke runs on when ctx is done; the store bounds the wait.
//
// A person who signs in again within 2 s of At is taken to have been signed in before. Where that is to
// work at once ("sign out everywhere else"), set At 2 s back, or revoke session by session.
//
// End the session in your own session store first. Else the page can sign in, or mint, with it
// again once the revocation is forgotten.
//
// An error that is about r says what is wrong with it; nothing is revoked then.
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
	r.At = r.At.Round(0) // compared with wall clocks of other machines
	i.revoked.add(&r, now)
	if i.nodes == nil {
		i.listeners.tell(r)
		return nil
	}
	told := make(chan error, 1)
	go func() { told <- i.nodes.tell(context.WithoutCancel(ctx), r) }()
	i.listeners.tell(r)
	if err := <-told; err != nil {
		return fmt.Errorf("revoke: in force here, other nodes are not told yet: %w", err)
	}
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

// OnRevoke has fn called for every revocation, when it is in force here: for one of this issuer's, in
// the goroutine that revokes and before Revoke returns; for one of another node's, in the one that
// hears them, which hears no more until fn returns. Several at once are possible. What was revoked
// before this issuer had caught up is in force without a call: nobody was let in under it.
//
// fn may call anything of the issuer but Close. After stop, which may be called again, fn is called
// for no revocation that begins later.
func (i *Issuer) OnRevoke(fn func(Revocation)) (stop func()) {
	return i.listeners.add(fn)
}
