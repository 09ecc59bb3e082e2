package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

const (
	// restoreWait is how long Restore may take; overdue, how long after its end
	// a session lives at most, however many others Restore is asked about first.
	restoreWait = 5 * time.Second
	overdue     = restoreWait + time.Second
	// maxAsks is how many Restores run at the same time.
	maxAsks = 16
	// maxSleep bounds a timer: timers stand still while a machine sleeps, and do
	// not follow a clock that is set. Sessions end by the clock.
	maxSleep = time.Minute
)

// liveSession is a session that has sockets. Everything in it is guarded by
// Sockets.mu.
type liveSession struct {
	roster
	hash  sessionHash
	clock *sessionClock // nil: nothing is to happen at any time
}

// sessionClock has one timer, however many sockets the session has.
type sessionClock struct {
	timer     *time.Timer
	wakeAt    time.Time // when it fires; zero: it does not
	recheckAt time.Time // zero: never
	asking    bool
	owedAt    time.Time     // after a gap, until Restore has decided: when to ask again
	owedPause time.Duration // and how long to wait after that
}

func (c *sessionClock) stop() {
	if c != nil && c.timer != nil {
		c.timer.Stop()
	}
}

// restorer returns a socket whose guard has a Restore, or nil.
func (ls *liveSession) restorer() *socket {
	for k := ls.first; k != nil; k = k.links[bySession].next {
		if k.guard.opts.Restore != nil {
			return k
		}
	}
	return nil
}

// cameBy reports whether one of the sockets came in by an issuer's ticket.
func (ls *liveSession) cameBy(issuer *tickets.Issuer) bool {
	for k := ls.first; k != nil; k = k.links[bySession].next {
		if k.guard.issuer == issuer {
			return true
		}
	}
	return false
}

// nextRecheck spreads the rechecks, so that sessions that came in together, as
// after a restart, are not asked about together for ever.
func (s *Sockets) nextRecheck(now time.Time) time.Time {
	every := s.opts.RecheckEvery
	if every == 0 {
		return time.Time{}
	}
	return now.Add(every/2 + rand.N(every*2/5+1))
}

// watch begins to keep the time of a session, one of whose sockets ends at t.
func (s *Sockets) watch(ls *liveSession, t time.Time) {
	if ls.clock == nil {
		if t.IsZero() && s.opts.RecheckEvery == 0 {
			return
		}
		ls.clock = &sessionClock{recheckAt: s.nextRecheck(time.Now())}
		s.wake(ls, ls.clock.recheckAt)
	}
	s.wake(ls, t)
}

// wake sees to it that tick runs by t, which may be zero for never.
func (s *Sockets) wake(ls *liveSession, t time.Time) {
	c := ls.clock
	if t.IsZero() || !c.wakeAt.IsZero() && !t.Before(c.wakeAt) {
		return
	}
	c.wakeAt = t
	d := min(time.Until(t), maxSleep)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, func() { s.tick(ls) })
	} else {
		c.timer.Reset(d)
	}
}

// tick looks what is due in a session: a recheck, or the end of its sockets.
func (s *Sockets) tick(ls *liveSession) {
	now := time.Now()
	s.mu.Lock()
	if ls.n == 0 {
		s.mu.Unlock()
		return
	}
	ls.clock.wakeAt = time.Time{}
	restorable := ls.restorer() != nil
	ask := false
	if !ls.clock.recheckAt.IsZero() && !now.Before(ls.clock.recheckAt) {
		ask = restorable
		ls.clock.recheckAt = s.nextRecheck(now)
	}
	s.wake(ls, ls.clock.recheckAt)
	if restorable && !ls.clock.owedAt.IsZero() && !now.Before(ls.clock.owedAt) {
		ask = true
		ls.clock.owe(now)
	}
	s.wake(ls, ls.clock.owedAt)
	var over []*socket
	for k := ls.first; k != nil; k = k.links[bySession].next {
		ends := k.endsAt()
		switch last := ends.Add(overdue); {
		case ends.IsZero() || now.Before(ends):
			s.wake(ls, ends)
		case restorable && now.Before(last):
			ask = true
			s.wake(ls, last)
		default:
			over = append(over, k)
		}
	}
	if ask {
		s.askSoon(ls)
	}
	s.mu.Unlock()
	s.end(over, causeExpired)
}

// askSoon has Restore asked about a session, which has a clock.
func (s *Sockets) askSoon(ls *liveSession) {
	if ls.clock.asking {
		return
	}
	ls.clock.asking = true
	s.asks = append(s.asks, ls)
	if s.workers < maxAsks {
		s.workers++
		go s.askAll()
	}
}

// recheck has Restore asked about every session that came in by an issuer.
func (s *Sockets) recheck(issuer *tickets.Issuer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps++
	for _, ls := range s.sessions {
		if ls.restorer() != nil && ls.cameBy(issuer) {
			s.owe(ls)
		}
	}
}

// owe has Restore asked about a session, and again until it has decided. What it is being asked
// already may have been decided before the gap.
func (s *Sockets) owe(ls *liveSession) {
	if ls.clock == nil {
		ls.clock = &sessionClock{}
	}
	ls.clock.owedPause = minAskAgain
	ls.clock.owe(time.Now())
	s.wake(ls, ls.clock.owedAt)
	s.askSoon(ls)
}

// How long a gap waits for a Restore that failed, or was asked too soon: each time twice as long.
const (
	minAskAgain = 2 * time.Second
	maxAskAgain = time.Minute
)

func (c *sessionClock) owe(now time.Time) {
	c.owedAt = now.Add(c.owedPause)
	c.owedPause = min(2*c.owedPause, maxAskAgain)
}

// askAll asks about sessions until there is none left to ask about.
func (s *Sockets) askAll() {
	for {
		s.mu.Lock()
		if len(s.asks) == 0 {
			s.asks = nil
			s.workers--
			s.mu.Unlock()
			return
		}
		ls := s.asks[0]
		s.asks = s.asks[1:]
		k := ls.restorer()
		ls.clock.asking = k != nil
		owed := ls.clock.owedAt
		ls.clock.owedAt = time.Time{}
		s.mu.Unlock()
		for k != nil {
			k = s.ask(ls, k, owed)
		}
	}
}

// ask lets Restore decide about a session, by the example of k. If k ends
// meanwhile, and nothing was decided, it returns the socket to ask by next.
func (s *Sockets) ask(ls *liveSession, k *socket, owed time.Time) (next *socket) {
	asked := *k.session
	s.mu.Lock()
	asked.ExpiresAt = k.endsAt() // Extend, or an earlier Restore, may have moved it
	s.mu.Unlock()
	session, err := k.askRestore(&asked)
	dead := errors.Is(err, ErrNoSession) || errors.Is(err, ErrSessionExpired)
	if err != nil && !dead {
		s.mu.Lock()
		ended := k.ended
		if ended {
			next = ls.restorer()
			ls.clock.asking = next != nil
		}
		s.mu.Unlock()
		if ended {
			return next
		}
		k.guard.audit.Record(k, audit.SessionVerifyFailure,
			slog.String("provider", k.session.Provider),
			slog.String("reason", reasonRecheck),
			slog.String("ip", k.ip),
			slog.String("path", k.path))
	}

	now := time.Now()
	s.mu.Lock()
	ls.clock.asking = false
	if err != nil && !dead && !owed.IsZero() && ls.clock.owedAt.IsZero() {
		ls.clock.owe(now) // tick asks again
		s.wake(ls, ls.clock.owedAt)
	}
	var over []*socket
	for o := ls.first; o != nil; o = o.links[bySession].next {
		// Not where Restore has changed nothing: Extend may have, meanwhile.
		if err == nil && !session.ExpiresAt.IsZero() &&
			(!session.ExpiresAt.Equal(asked.ExpiresAt) || session.ExpiresAt.After(o.endsAt())) {
			o.moved = &session.ExpiresAt
		}
		if ends := o.endsAt(); dead || !ends.IsZero() && !now.Before(ends) {
			over = append(over, o)
		} else {
			s.wake(ls, ends)
		}
	}
	s.mu.Unlock()
	s.end(over, causeExpired)
	return nil
}

// askRestore calls Restore, which is the application's: it may hang, or panic.
// It returns a session that lives, or why not. It does not outlast k.
func (k *socket) askRestore(asked *Session) (*Session, error) {
	ctx, cancel := context.WithTimeout(k.lifetime(), restoreWait)
	defer cancel()
	select {
	case k.guard.sockets.restoring <- struct{}{}: // until Restore has returned, however late
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type answer struct {
		session *Session
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		a := answer{err: errors.New("restore did not return")}
		defer func() {
			<-k.guard.sockets.restoring
			if v := recover(); v != nil {
				a.err = fmt.Errorf("restore panicked: %v", v)
			}
			answers <- a
		}()
		a.session, a.err = k.guard.opts.Restore(ctx, asked)
	}()
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		a.err = ctx.Err() // not its cause: how k ended says nothing about the session
	}
	switch {
	case a.err != nil:
		return nil, a.err
	case a.session == nil:
		return nil, ErrNoSession
	case !a.session.same(k.session):
		return nil, errors.New("restore returned a session of another ID, Provider or UserID than it was given")
	case a.session.over():
		return nil, ErrSessionExpired
	}
	return a.session, nil
}
