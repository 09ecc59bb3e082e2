package storetest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

var ctx = context.Background() // the store bounds its own waiting

// newTicket returns one that no store knows.
func newTicket() tickets.Ticket {
	var secret [32]byte
	rand.Read(secret[:])
	return tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:]))
}

func newKey() tickets.Key { return newTicket().Key() }

// grant is one that lives so long from now.
func grant(life time.Duration) tickets.Grant {
	now := time.Now()
	return tickets.Grant{
		SessionID: "s1", Provider: "oidc", UserID: "u1",
		MintedAt: now, ExpiresAt: now.Add(life),
	}
}

const long = 10 * time.Minute // longer than a check takes on a busy machine

// put puts a ticket that lives so long from now.
func put(s tickets.Store, life time.Duration) (tickets.Key, tickets.Grant, error) {
	key, g := newKey(), grant(life)
	if err := s.Put(ctx, key, g); err != nil {
		return key, g, fmt.Errorf("put of a fresh ticket: %w", err)
	}
	return key, g, nil
}

func roundTrip(s tickets.Store) error {
	whole := grant(long)
	whole.Endpoint, whole.Data = "/ws/pty", strings.Repeat("d", 256)
	whole.StartedAt = time.Date(2026, 5, 27, 9, 12, 27, 123456789, time.FixedZone("", 7200))
	whole.SessionExpiresAt = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	bare := grant(long) // unknown times stay unknown
	bare.SessionID, bare.Provider, bare.UserID = "", "", ""
	odd := grant(long)
	odd.SessionID, odd.UserID, odd.Data = strings.Repeat("s", 8<<10), "\x00\xff'\"\n", "\u202eé"
	odd.StartedAt = time.Unix(0, 1)
	for _, g := range []tickets.Grant{whole, bare, odd} {
		key := newKey()
		if err := s.Put(ctx, key, g); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		got, err := s.Take(ctx, key)
		if err != nil {
			return fmt.Errorf("take: %w", err)
		}
		if err := same(g, got); err != nil {
			return err
		}
	}
	return nil
}

func same(want, got tickets.Grant) error {
	for _, f := range []struct{ name, want, got string }{
		{"SessionID", want.SessionID, got.SessionID},
		{"Provider", want.Provider, got.Provider},
		{"UserID", want.UserID, got.UserID},
		{"Endpoint", want.Endpoint, got.Endpoint},
		{"Data", want.Data, got.Data},
	} {
		if f.want != f.got {
			return fmt.Errorf("%s is %.40q, want %.40q", f.name, f.got, f.want)
		}
	}
	for _, f := range []struct {
		name      string
		want, got time.Time
	}{
		{"StartedAt", want.StartedAt, got.StartedAt},
		{"MintedAt", want.MintedAt, got.MintedAt},
		{"ExpiresAt", want.ExpiresAt, got.ExpiresAt},
		{"SessionExpiresAt", want.SessionExpiresAt, got.SessionExpiresAt},
	} {
		if !f.want.Equal(f.got) {
			return fmt.Errorf("%s is %v, want the instant %v", f.name, f.got, f.want)
		}
	}
	return nil
}

// A Key is made anew from what the page sends: it equals the one that was put by its ID only.
func keyIsID(s tickets.Store) error {
	t := newTicket()
	if err := s.Put(ctx, t.Key(), grant(long)); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if _, err := s.Take(ctx, tickets.Ticket(strings.Clone(string(t))).Key()); err != nil {
		return fmt.Errorf("take with the key of a copy of the ticket: %w", err)
	}
	return nil
}

func unknown(s tickets.Store) error {
	for range 3 {
		if _, err := s.Take(ctx, newKey()); !errors.Is(err, tickets.ErrUnknown) {
			return wrong("take of a key that was never put", err, tickets.ErrUnknown)
		}
	}
	return nil
}

func wrong(what string, got, want error) error {
	if got == nil {
		return fmt.Errorf("%s succeeded, want %q", what, want)
	}
	return fmt.Errorf("%s: %w, want what errors.Is finds to be %q", what, got, want)
}

func once(s tickets.Store) error {
	key, _, err := put(s, long)
	if err != nil {
		return err
	}
	if _, err := s.Take(ctx, key); err != nil {
		return fmt.Errorf("the first Take: %w", err)
	}
	for range 3 {
		if _, err := s.Take(ctx, key); err == nil {
			return errors.New("take succeeded again")
		}
	}
	return nil
}

func usedAtOnce(s tickets.Store) error {
	key, err := putAndTake(s, long)
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := s.Take(ctx, key); err != nil && !errors.Is(err, tickets.ErrUsed) {
			return wrong("take of a used ticket", err, tickets.ErrUsed)
		}
	}
	return nil
}

func putAndTake(s tickets.Store, life time.Duration) (tickets.Key, error) {
	key, _, err := put(s, life)
	if err != nil {
		return key, err
	}
	if _, err := s.Take(ctx, key); err != nil {
		return key, fmt.Errorf("take of a fresh ticket: %w", err)
	}
	return key, nil
}

func oneWinner(s tickets.Store) error {
	for round := range 50 {
		key, _, err := put(s, long)
		if err != nil {
			return err
		}
		var winners atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 16 {
			wg.Go(func() {
				<-start
				if _, err := s.Take(ctx, key); err == nil {
					winners.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := winners.Load(); n != 1 {
			return fmt.Errorf("round %d: of 16 that took one ticket at once %d won", round, n)
		}
	}
	return nil
}

func putOnce(s tickets.Store) error {
	key, _, err := put(s, long)
	if err != nil {
		return err
	}
	other := grant(long)
	other.UserID = "somebody else"
	if s.Put(ctx, key, other) == nil {
		return errors.New("put under the key of a good ticket succeeded, want an error")
	}
	got, err := s.Take(ctx, key)
	if err != nil {
		return fmt.Errorf("take after a Put that was refused: %w", err)
	}
	if got.UserID == other.UserID {
		return errors.New("a Put that was refused changed the grant")
	}
	if s.Put(ctx, key, other) == nil {
		return errors.New("put under the key of a used ticket succeeded, want an error")
	}
	return nil
}

func apart(s tickets.Store) error {
	const n = 200
	keys := make([]tickets.Key, n)
	for i := range keys {
		g := grant(long)
		g.UserID = fmt.Sprint("u", i)
		keys[i] = newKey()
		if err := s.Put(ctx, keys[i], g); err != nil {
			return fmt.Errorf("put of ticket %d: %w", i, err)
		}
	}
	for _, i := range mathrand.Perm(n) {
		got, err := s.Take(ctx, keys[i])
		if err != nil {
			return fmt.Errorf("take of ticket %d of %d: %w", i, n, err)
		}
		if want := fmt.Sprint("u", i); got.UserID != want {
			return fmt.Errorf("take returned the grant of %q, want that of %q", got.UserID, want)
		}
	}
	return nil
}

// fill puts tickets until the store is full, or there are many.
func fill(s tickets.Store, life time.Duration) (keys []tickets.Key, full bool, err error) {
	for range 2000 {
		key := newKey()
		switch err := s.Put(ctx, key, grant(life)); {
		case errors.Is(err, tickets.ErrInvalid):
			return nil, false,
				fmt.Errorf("put of ticket %d: %w, which is ErrInvalid", len(keys), err)
		case errors.Is(err, tickets.ErrFull):
			return keys, true, nil
		case err != nil:
			return nil, false,
				fmt.Errorf("put of ticket %d: %w, want nil or ErrFull", len(keys), err)
		}
		keys = append(keys, key)
	}
	return keys, false, nil
}

func noEviction(s tickets.Store) error {
	keys, _, err := fill(s, long)
	if err != nil {
		return err
	}
	for i, key := range keys {
		if _, err := s.Take(ctx, key); err != nil {
			return fmt.Errorf("take of ticket %d of %d that were put: %w", i, len(keys), err)
		}
	}
	return nil
}
