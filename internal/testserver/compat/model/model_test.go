// Package model holds an Issuer against a model of what may happen to a ticket: it is minted, and
// then used, or expires, or is revoked with its session or its person, or dies with its session; at
// most one of these, and the same for everybody who looks.
package model

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// state is a person's: which tickets have been put and which taken, and which sessions are revoked,
// a bit for each.
type state struct{ put, taken, dead uint64 }

// maxTickets is how many tickets and sessions a person may have.
const maxTickets = 64

// step is one thing that a call did, or saw: a call is up to two of them, at any two instants of
// its time, for an Issuer looks at the store and at the revocations one after the other.
type step struct {
	kind kind
	bits uint64 // of tickets or sessions
}

type kind uint8

const (
	put     kind = iota
	take         // it was there, and is no more
	taken        // somebody had it before
	live         // the session is not revoked
	dead         // it is
	revokes      // some sessions
)

func (k kind) String() string {
	return [...]string{"put", "take", "taken", "live", "dead", "revokes"}[k]
}

var personModel = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(before, input, _ any) (bool, any) {
		s, do := before.(state), input.(step)
		switch do.kind {
		case put:
			legal := s.put&do.bits == 0
			s.put |= do.bits
			return legal, s
		case take:
			legal := s.put&do.bits != 0 && s.taken&do.bits == 0
			s.taken |= do.bits
			return legal, s
		case taken:
			return s.taken&do.bits != 0, s
		case live:
			return s.dead&do.bits == 0, s
		case dead:
			return s.dead&do.bits != 0, s
		}
		s.dead |= do.bits
		return true, s
	},
	DescribeOperation: func(input,
		_ any) string {
		return fmt.Sprintf("%v %b", input.(step).kind, input.(step).bits)
	},
}

// world is an issuer, the people that it knows, and the history of all calls.
type world struct {
	issuer *tickets.Issuer
	ttl    time.Duration
	clock  atomic.Int64 // orders calls; time may stand still
	calls  atomic.Int64
	forget func() bool // reports whether a revocation is to be lost; nil: never

	mu    sync.Mutex
	wrong []string // what no order could explain
	seen  [len(outcomes)]int64
}

var outcomes = [...]string{
	"minted",
	"accepted",
	"used",
	"expired",
	"revoked",
	"unknown",
	"revocations",
}

const (
	minted = iota
	accepted
	used
	expired
	revoked
	unknown
	revocations
)

func newWorld(store tickets.Store, ttl time.Duration) (*world, error) {
	issuer, err := tickets.NewIssuer(store, &tickets.IssuerOptions{
		TTL: ttl, MaxPerSession: 1 << 20, RememberRevocations: 24 * time.Hour,
	})
	return &world{issuer: issuer, ttl: ttl}, err
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) saw(outcome int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[outcome]++
}

func (w *world) counts() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := fmt.Sprintf("%d calls:", w.calls.Load())
	for i, n := range w.seen {
		text += fmt.Sprintf(" %d %s", n, outcomes[i])
	}
	return text
}

// person has sessions and tickets, and the history of both.
type person struct {
	name string

	mu       sync.Mutex
	sessions []session
	tickets  []ticket
	ops      []porcupine.Operation
	revoked  time.Time // the last revocation of the person
}

type session struct {
	id            string
	started, ends time.Time // ends: zero for never
}

type ticket struct {
	value       tickets.Ticket
	session     int
	first, last time.Time // between these is its end
}

// begin signs the person in, for a time; 0: without end.
func (p *person) begin(w *world, lasts time.Duration) {
	s := session{started: time.Now()}
	if lasts > 0 {
		s.ends = s.started.Add(lasts)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.id = fmt.Sprint(p.name, "/", len(p.sessions))
	p.sessions = append(p.sessions, s)
	if !p.revoked.IsZero() &&
		!s.started.After(p.revoked.Add(2*time.Second)) { // clocks may differ by so much
		at := w.clock.Add(2)
		p.add(at-1, at, step{revokes, 1 << (len(p.sessions) - 1)})
	}
}

func (p *person) add(from, to int64, steps ...step) {
	for _, s := range steps {
		p.ops = append(p.ops, porcupine.Operation{Input: s, Call: from, Return: to})
	}
}

// enter records a call that lasted from one tick of the clock to another.
func (p *person) enter(from, to int64, steps ...step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(from, to, steps...)
}

// mint is a call of Mint for the n-th session.
func (w *world) mint(p *person, n int) {
	w.calls.Add(1)
	p.mu.Lock()
	s := p.sessions[n]
	p.mu.Unlock()
	g := tickets.Grant{
		SessionID:        s.id,
		Provider:         "test",
		UserID:           p.name,
		StartedAt:        s.started,
		SessionExpiresAt: s.ends,
	}
	from, began := w.clock.Add(1), time.Now()
	value, err := w.issuer.Mint(context.Background(), g)
	ended, to := time.Now(), w.clock.Add(1)
	bit := uint64(1) << n
	switch {
	case err == nil:
		w.saw(minted)
		if !s.ends.IsZero() && !began.Before(s.ends) {
			w.fail("minted for %s, %v after its end", s.id, began.Sub(s.ends))
		}
		t := ticket{value: value, session: n, first: began.Add(w.ttl), last: ended.Add(w.ttl)}
		if !s.ends.IsZero() {
			t.first, t.last = earlier(t.first, s.ends), earlier(t.last, s.ends)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tickets = append(p.tickets, t)
		p.add(from, to, step{live, bit}, step{put, 1 << (len(p.tickets) - 1)})
	case errors.Is(err, tickets.ErrRevoked):
		w.saw(revoked)
		p.enter(from, to, step{dead, bit})
	case errors.Is(err, tickets.ErrExpired):
		w.saw(expired)
		if s.ends.IsZero() || ended.Before(s.ends) {
			w.fail("%s has ended, says Mint", s.id)
		}
	default:
		w.fail("mint: %v", err)
	}
}

// consume is a call of Consume with the n-th ticket.
func (w *world) consume(p *person, n int) {
	w.calls.Add(1)
	p.mu.Lock()
	t := p.tickets[n]
	s := p.sessions[t.session]
	p.mu.Unlock()
	from, began := w.clock.Add(1), time.Now()
	g, err := w.issuer.Consume(context.Background(), t.value)
	ended, to := time.Now(), w.clock.Add(1)
	bit, of := uint64(1)<<n, uint64(1)<<t.session
	over := ended.After(t.first) // at least for a part of the call
	switch {
	case err == nil:
		w.saw(accepted)
		if g.SessionID != s.id || g.UserID != p.name {
			w.fail("a ticket of %s let %s in", s.id, g.SessionID)
		}
		if began.After(t.last) {
			w.fail("a ticket of %s was good %v after its end", s.id, began.Sub(t.last))
		}
		p.enter(from, to, step{take, bit}, step{live, of})
	case errors.Is(err, tickets.ErrRevoked):
		w.saw(revoked)
		p.enter(from, to, step{take, bit}, step{dead, of})
	case errors.Is(err, tickets.ErrUsed):
		w.saw(used)
		p.enter(from, to, step{taken, bit})
	case errors.Is(err, tickets.ErrExpired):
		w.saw(expired)
		if !over {
			w.fail("a ticket of %s has expired %v too soon", s.id, t.first.Sub(ended))
		}
	case errors.Is(err, tickets.ErrUnknown):
		w.saw(unknown)
		if !over {
			w.fail("a ticket of %s is unknown, with %v to live", s.id, t.first.Sub(ended))
		}
	default:
		w.fail("consume: %v", err)
	}
}

// guess calls Consume with a ticket that was not minted.
func (w *world) guess(value tickets.Ticket) {
	w.calls.Add(1)
	if _, err := w.issuer.Consume(context.Background(), value); !errors.Is(
		err,
		tickets.ErrUnknown,
	) {
		w.fail("a guess: %v", err)
	}
	w.saw(unknown)
}

// revoke is a call of Revoke: of the n-th session, or of the person if n is -1.
func (w *world) revoke(p *person, n int) {
	w.calls.Add(1)
	r := tickets.Revocation{Provider: "test", UserID: p.name}
	p.mu.Lock()
	bits := uint64(1)<<len(p.sessions) - 1
	if n >= 0 {
		r, bits = tickets.Revocation{SessionID: p.sessions[n].id}, 1<<n
	}
	p.mu.Unlock()
	from := w.clock.Add(1)
	var err error
	if w.forget == nil || !w.forget() {
		err = w.issuer.Revoke(context.Background(), r)
	}
	to := w.clock.Add(1)
	if err != nil {
		w.fail("revoke: %v", err)
	}
	w.saw(revocations)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 0 {
		p.revoked = time.Now()
	}
	p.add(from, to, step{revokes, bits})
}

// explain returns "" if all that was seen may have happened, or else what may not.
func (w *world) explain(people ...*person) string {
	w.mu.Lock()
	wrong := w.wrong
	w.mu.Unlock()
	if len(wrong) > 0 {
		return strings.Join(wrong[:min(len(wrong), 5)], "\n")
	}
	for _, p := range people {
		if !porcupine.CheckOperations(personModel, p.ops) {
			var b strings.Builder
			fmt.Fprintf(&b, "no order explains what %s saw:\n", p.name)
			for _, op := range p.ops {
				fmt.Fprintf(
					&b,
					"%d to %d: %s\n",
					op.Call,
					op.Return,
					personModel.DescribeOperation(op.Input, nil),
				)
			}
			return b.String()
		}
	}
	return ""
}
