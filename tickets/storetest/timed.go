package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	life  = time.Second
	slack = 250 * time.Millisecond // what a store may be off in real time
)

// sleepUntil returns at t, or a little later. In a bubble it returns at t exactly, and says so.
func sleepUntil(t time.Time) (exact bool) {
	time.Sleep(time.Until(t))
	return time.Now().Equal(t)
}

// sleepPast returns when a ticket that ends at end must be refused.
func sleepPast(end time.Time) {
	if sleepUntil(end) {
		time.Sleep(time.Nanosecond)
	} else {
		sleepUntil(end.Add(slack))
	}
}

func livesUntilEnd(s tickets.Store) error {
	early, g, err := put(s, life)
	if err != nil {
		return err
	}
	late := newKey()
	if err := s.Put(ctx, late, g); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	sleepUntil(g.ExpiresAt.Add(-slack))
	// On a machine that was busy until the end, a refusal means nothing.
	if _, err := s.Take(ctx, early); err != nil && time.Now().Before(g.ExpiresAt) {
		return fmt.Errorf("take %v before the end: %w", slack, err)
	}
	if sleepUntil(g.ExpiresAt) {
		if _, err := s.Take(ctx, late); err != nil {
			return fmt.Errorf("take at the instant of ExpiresAt: %w", err)
		}
	}
	return nil
}

func refusedAfterEnd(s tickets.Store) error {
	key, _, err := put(s, life)
	if err != nil {
		return err
	}
	end := time.Now().Add(life) // by the clock of a store where Put arrived late
	sleepPast(end)
	if _, err := s.Take(ctx, key); err == nil {
		return fmt.Errorf("take %v after the end succeeded", time.Since(end))
	}
	return nil
}

// A session that is about to end has shorter tickets, minted after longer ones.
func ownEnd(s tickets.Store) error {
	longer, _, err := put(s, long)
	if err != nil {
		return err
	}
	shorter, _, err := put(s, life)
	if err != nil {
		return err
	}
	sleepUntil(time.Now().Add(life + 2*slack))
	if _, err := s.Take(ctx, shorter); err == nil {
		return errors.New("a short ticket outlived its end, behind a longer one")
	}
	if _, err := s.Take(ctx, longer); err != nil {
		return fmt.Errorf("a longer ticket ended with a short one: %w", err)
	}
	return nil
}

func expiredIsRemembered(s tickets.Store) error {
	key, g, err := put(s, life)
	if err != nil {
		return err
	}
	// A ticket that is taken for the first time so late must be remembered too.
	untouched := newKey()
	if err := s.Put(ctx, untouched, g); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	// On a machine that was busy for 5 s, a refusal of another kind means nothing.
	inTime := func() bool { return time.Since(g.ExpiresAt) <= 5*time.Second }
	sleepPast(g.ExpiresAt)
	for range 2 {
		if _, err := s.Take(ctx, key); err == nil {
			return nil // another rule checks that
		} else if !errors.Is(err, tickets.ErrExpired) && inTime() {
			return wrong("take just after the end", err, tickets.ErrExpired)
		}
	}
	end := g.ExpiresAt.Add(5 * time.Second)
	if sleepUntil(end.Add(-2 * slack)) {
		sleepUntil(end)
	}
	for _, key := range []tickets.Key{key, untouched} {
		late := time.Since(g.ExpiresAt)
		_, err := s.Take(ctx, key)
		if err != nil && !errors.Is(err, tickets.ErrExpired) && inTime() {
			return wrong(fmt.Sprintf("take %v after the end", late), err, tickets.ErrExpired)
		}
	}
	return nil
}

func usedIsRemembered(s tickets.Store) error {
	key, g, err := put(s, life)
	if err != nil {
		return err
	}
	if _, err := s.Take(ctx, key); err != nil {
		return fmt.Errorf("take of a fresh ticket: %w", err)
	}
	if sleepUntil(g.ExpiresAt.Add(-slack)) {
		sleepUntil(g.ExpiresAt)
	}
	_, err = s.Take(ctx, key)
	if err != nil && !errors.Is(err, tickets.ErrUsed) && !time.Now().After(g.ExpiresAt) {
		what := fmt.Sprintf("take of a used ticket %v before its end", time.Until(g.ExpiresAt))
		return wrong(what, err, tickets.ErrUsed)
	}
	return nil
}

func usedForGood(s tickets.Store) error {
	key, err := putAndTake(s, life)
	if err != nil {
		return err
	}
	sleepPast(time.Now().Add(life))
	for range 5 {
		if _, err := s.Take(ctx, key); err == nil {
			return errors.New("take of a used ticket succeeded after its end")
		}
		time.Sleep(slack)
	}
	return nil
}

func noGrantWithError(s tickets.Store) error {
	used, err := putAndTake(s, long)
	if err != nil {
		return err
	}
	expired, g, err := put(s, slack)
	if err != nil {
		return err
	}
	sleepPast(g.ExpiresAt)
	keys := map[string]tickets.Key{"an unknown": newKey(), "a used": used, "an expired": expired}
	for name, key := range keys {
		if got, err := s.Take(ctx, key); err != nil && got != (tickets.Grant{}) {
			return fmt.Errorf("take of %s ticket returned a grant beside its error %q", name, err)
		}
	}
	return nil
}

func expiredMakeRoom(s tickets.Store) error {
	keys, full, err := fill(s, life)
	if err != nil || !full {
		return err
	}
	end := time.Now().Add(life) // of the last one, or later
	sleepPast(end)
	for i := range keys {
		if err := s.Put(ctx, newKey(), grant(life)); err != nil {
			return fmt.Errorf("put number %d after all %d had expired: %w", i+1, len(keys), err)
		}
	}
	return nil
}
