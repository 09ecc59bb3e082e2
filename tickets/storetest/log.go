package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// A heartbeat is due within 1 s. A busy machine may be late.
const (
	heartbeat = time.Second
	patience  = 20 * time.Second
)

// reader is a node that reads the log, as an issuer does.
type reader struct {
	tickets.RevocationLog
	cursor string
	got    []tickets.Revocation // without those that other rules appended
	mark   string
}

// readers opens n nodes, each at the log's beginning.
func readers(newNode func() (tickets.Store, error), n int) ([]*reader, error) {
	ns, err := nodes(newNode, n)
	if err != nil {
		return nil, err
	}
	mark := string(newTicket())
	rs := make([]*reader, n)
	for k, n := range ns {
		rs[k] = &reader{RevocationLog: n.(tickets.RevocationLog), mark: mark}
		if err := rs[k].next(); err != nil {
			return nil, err
		}
	}
	return rs, nil
}

// next calls Next once.
func (r *reader) next() error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rs, cursor, err := r.Next(ctx, r.cursor)
	if err != nil {
		return fmt.Errorf("next after %.40q: %w", r.cursor, err)
	}
	if cursor == "" {
		return fmt.Errorf("next after %.40q returned no cursor", r.cursor)
	}
	r.cursor = cursor
	for _, revocation := range rs {
		if strings.HasPrefix(revocation.Reason, r.mark) {
			revocation.Reason = strings.TrimPrefix(revocation.Reason, r.mark)
			r.got = append(r.got, revocation)
		}
	}
	return nil
}

// receive calls Next until the reader has received all the reasons.
func (r *reader) receive(reasons ...string) error {
	deadline := time.Now().Add(patience)
	for {
		missing := slices.DeleteFunc(slices.Clone(reasons), func(reason string) bool {
			return slices.ContainsFunc(r.got, func(got tickets.Revocation) bool {
				return got.Reason == reason
			})
		})
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of %d revocations %d were not received, such as %.80q",
				len(reasons), len(missing), missing[0])
		}
		if err := r.next(); err != nil {
			return err
		}
	}
}

// revoke appends a revocation of a session with an id made of the reason.
func (r *reader) revoke(reason string) error {
	id := "session of " + reason
	err := r.Append(ctx, tickets.Revocation{
		SessionID: id, SessionHash: tickets.HashSession(id),
		Reason: r.mark + reason, At: time.Now().Round(0),
	})
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return nil
}

// order returns the reasons in the order in which they were first received.
func (r *reader) order() []string {
	var reasons []string
	for _, h := range r.got {
		if !slices.Contains(reasons, h.Reason) {
			reasons = append(reasons, h.Reason)
		}
	}
	return reasons
}

func revocationRoundTrip(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 2)
	if err != nil {
		return err
	}
	at := time.Now().Add(-time.Minute).Round(0)
	session := tickets.Revocation{
		SessionID: "s\x00\xff", SessionHash: tickets.HashSession("s\x00\xff"),
		Reason: "logout \u202e'\"\n", At: at,
	}
	user := tickets.Revocation{
		Provider: "oidc", UserID: "u1", UserHash: tickets.HashUser("oidc", "u1"), At: at,
	}
	for _, r := range []tickets.Revocation{session, user} {
		r.Reason = rs[0].mark + r.Reason
		if err := rs[0].Append(ctx, r); err != nil {
			return fmt.Errorf("append: %w", err)
		}
	}
	if err := rs[1].receive(session.Reason, user.Reason); err != nil {
		return err
	}
	for _, got := range rs[1].got {
		want := session
		if got.Reason == user.Reason {
			want = user
		}
		switch {
		case got.SessionID != "" || got.UserID != "" || got.Provider != "":
			return errors.New("the session's id or the user's name is in the log")
		case got.SessionHash != want.SessionHash:
			return fmt.Errorf("SessionHash is %x, want %x", got.SessionHash, want.SessionHash)
		case got.UserHash != want.UserHash:
			return fmt.Errorf("UserHash is %x, want %x", got.UserHash, want.UserHash)
		case got.At.After(want.At) || want.At.Sub(got.At) >= time.Millisecond:
			return fmt.Errorf("the time is %v, want %v or earlier by less than 1 ms",
				got.At, want.At)
		}
	}
	return nil
}

// namesAreHashed appends what no issuer does: revocations whose hash is not filled in yet.
func namesAreHashed(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 2)
	if err != nil {
		return err
	}
	if rs[0].Append(ctx, tickets.Revocation{Reason: rs[0].mark, At: time.Now()}) == nil {
		return errors.New("append of a revocation of nobody succeeded, want an error")
	}
	for _, r := range []tickets.Revocation{
		{SessionID: "s1", Reason: "session", At: time.Now()},
		{UserID: "u1", Reason: "user", At: time.Now()},
		{Provider: "oidc", UserID: "u1", Reason: "provider and user", At: time.Now()},
	} {
		want, err := r.Hashed()
		if err != nil {
			return err
		}
		r.Reason = rs[0].mark + r.Reason
		if err := rs[0].Append(ctx, r); err != nil {
			return fmt.Errorf("append of a revocation of a %s: %w", want.Reason, err)
		}
		if err := rs[1].receive(want.Reason); err != nil {
			return err
		}
		got := rs[1].got[len(rs[1].got)-1]
		if got.SessionHash != want.SessionHash || got.UserHash != want.UserHash {
			return fmt.Errorf("a revocation of a %s came back without its hash", want.Reason)
		}
	}
	return nil
}

func everyNodeReceives(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 4)
	if err != nil {
		return err
	}
	var reasons []string
	for k := range 20 {
		reasons = append(reasons, fmt.Sprint("r", k))
		if err := rs[k%len(rs)].revoke(reasons[k]); err != nil {
			return err
		}
	}
	for k, r := range rs {
		if err := r.receive(reasons...); err != nil {
			return fmt.Errorf("node %d: %w", k+1, err)
		}
	}
	return nil
}

// nothingPassedOver appends on many nodes at once while others read: where entries become visible
// in another order than that of their numbers, a cursor runs ahead of some.
func nothingPassedOver(newNode func() (tickets.Store, error)) error {
	const writers, each = 8, 25
	rs, err := readers(newNode, writers+2)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(rs))
	var reasons []string
	for k := range writers {
		for n := range each {
			reasons = append(reasons, fmt.Sprint(k, ".", n))
		}
		wg.Go(func() {
			for n := range each {
				if err := rs[k].revoke(fmt.Sprint(k, ".", n)); err != nil && errs[k] == nil {
					errs[k] = err
				}
			}
		})
	}
	for k := writers; k < len(rs); k++ {
		wg.Go(func() { errs[k] = rs[k].receive(reasons...) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func sameOrder(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 2)
	if err != nil {
		return err
	}
	var reasons []string
	for k := range 10 {
		reasons = append(reasons, fmt.Sprint("r", k))
		if err := rs[k%2].revoke(reasons[k]); err != nil {
			return err
		}
	}
	late, err := readers(newNode, 1)
	if err != nil {
		return err
	}
	late[0].mark, late[0].cursor = rs[0].mark, ""
	for _, r := range []*reader{rs[0], late[0]} {
		if err := r.receive(reasons...); err != nil {
			return err
		}
		// They were appended one after another, so there is no other order.
		if got := r.order(); !slices.Equal(got, reasons) {
			return fmt.Errorf("received %q, want the order in which they were appended", got)
		}
	}
	return nil
}

func catchesUp(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 2)
	if err != nil {
		return err
	}
	if err := rs[0].revoke("before"); err != nil {
		return err
	}
	if err := rs[1].receive("before"); err != nil {
		return err
	}
	var missed []string
	for k := range 100 {
		missed = append(missed, fmt.Sprint("missed ", k))
		if err := rs[0].revoke(missed[k]); err != nil {
			return err
		}
	}
	// One call returns everything that there is: after the first, an issuer admits people.
	if err := rs[1].next(); err != nil {
		return err
	}
	if received := len(rs[1].order()) - 1; received != len(missed) {
		return fmt.Errorf("next after being away returned %d of %d", received, len(missed))
	}
	return nil
}

func newNodeReceives(newNode func() (tickets.Store, error)) error {
	rs, err := readers(newNode, 1)
	if err != nil {
		return err
	}
	if err := rs[0].revoke("just now"); err != nil {
		return err
	}
	late, err := nodes(newNode, 1)
	if err != nil {
		return err
	}
	r := &reader{RevocationLog: late[0].(tickets.RevocationLog), mark: rs[0].mark}
	if err := r.next(); err != nil {
		return err
	}
	if len(r.got) == 0 {
		return errors.New("the first Next of a new node does not return what was appended before")
	}
	return nil
}
