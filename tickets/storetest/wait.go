package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

func beginsAtOnce(newNode func() (tickets.Store, error)) error {
	return atLeastOnce(5, func() (bool, error) {
		ns, err := nodes(newNode, 1)
		if err != nil {
			return false, err
		}
		began := time.Now()
		_, cursor, err := ns[0].(tickets.RevocationLog).Next(ctx, "")
		if err != nil || cursor == "" {
			return false, fmt.Errorf("next from the beginning: cursor %.40q, error %v", cursor, err)
		}
		return time.Since(began) < heartbeat/2, nil
	}, "next from the beginning took half a second each time")
}

// atLeastOnce tries a check of timing several times: a busy machine may fail it, but not always.
func atLeastOnce(times int, try func() (bool, error), text string) error {
	for range times {
		if ok, err := try(); ok || err != nil {
			return err
		}
	}
	return errors.New(text)
}

func hasHeartbeat(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 1)
	if err != nil {
		return err
	}
	return atLeastOnce(3, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*heartbeat)
		defer cancel()
		began := time.Now()
		_, cursor, err := rs[0].Next(ctx, rs[0].cursor)
		took := time.Since(began)
		if err == nil && cursor == "" {
			return false, errors.New("next returned no cursor")
		}
		if err == nil {
			rs[0].cursor = cursor
		}
		return err == nil && took < heartbeat+500*time.Millisecond, nil
	}, "next returned nothing within 1 s, three times")
}

func wakes(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 2)
	if err != nil {
		return err
	}
	n := 0
	return atLeastOnce(5, func() (bool, error) {
		n++
		reason := fmt.Sprint("wake ", n)
		received := make(chan error, 1)
		var at time.Time
		go func() {
			err := rs[1].receive(reason)
			at = time.Now()
			received <- err
		}()
		time.Sleep(heartbeat / 5) // most likely it waits by now
		appended := time.Now()
		err := errors.Join(rs[0].revoke(reason), <-received)
		return at.Sub(appended) < heartbeat/2, err
	}, "next was not woken by what was appended, five times")
}

func foreignCursor(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 1)
	if err != nil {
		return err
	}
	for _, cursor := range []string{"no cursor", rs[0].cursor + "x", "99999999999999999999-0"} {
		if _, _, err := rs[0].Next(ctx, cursor); err == nil {
			return fmt.Errorf("next after %.60q succeeded, want an error", cursor)
		}
	}
	return nil
}

func nextEnds(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 1)
	if err != nil {
		return err
	}
	return atLeastOnce(5, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, heartbeat/5)
		defer cancel()
		began := time.Now()
		_, cursor, err := rs[0].Next(ctx, rs[0].cursor)
		if err == nil {
			rs[0].cursor = cursor
			return false, nil // there was something to receive
		}
		return time.Since(began) < heartbeat/2, nil
	}, "next went on for half a second after its context was done, five times")
}
