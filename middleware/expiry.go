package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ticketgate/ticketgate/audit"
)

const (
	// restoreWait is how long Restore may take.
	restoreWait = 5 * time.Second
	// overdue is the most that a session lives after its end, while its recheck
	// waits for others.
	overdue = restoreWait + time.Second
	// maxRechecks is how many rechecks run at the same time.
	maxRechecks = 16
	// maxSleep bounds a timer. Timers stop while a machine sleeps, and ignore changes
	// of the clock; sessions end by the clock.
	maxSleep = time.Minute
	// A recheck after a gap that decides nothing is repeated, first after minRetry
	// and each time twice as late.
	minRetry = 2 * time.Second
	maxRetry = time.Minute

	reasonRecheck = "recheck" // of the audit line of a Restore that could not decide
)

// expiry is when the sockets of a session end, and when to call Restore for it.
// Sockets.mu guards it.
type expiry struct {
	timer     *time.Timer        // one, however many sockets there are; nil: nothing to wait for
	wakeAt    time.Time          // when timer fires; zero: it does not
	recheckAt time.Time          // zero: never
	retryAt   time.Time          // after a gap, until Restore has decided; else zero
	pause     time.Duration      // from retryAt to the next one
	checking  bool               // in the queue, or Restore is running
	cancel    context.CancelFunc // of the Restore that is running
}

// stop ends the timer and the recheck of a session whose last socket has gone.
func (e *expiry) stop() {
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.cancel != nil {
		e.cancel()
	}
}

// backOff sets the next retry, and doubles the pause after it.
func (e *expiry) backOff(now time.Time) {
	e.retryAt = now.Add(e.pause)
	e.pause = min(2*e.pause, maxRetry)
}

// passed reports whether t is set and not after now.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// watch sets the session's timer for a socket that ends at t.
func (s *Sockets) watch(session *group, t time.Time) {
	if s.opts.Restore != nil && s.opts.RecheckEvery > 0 && session.recheckAt.IsZero() {
		session.recheckAt = s.nextRecheck(time.Now())
		s.wakeBy(session, session.recheckAt)
	}
	s.wakeBy(session, t)
}

// nextRecheck spreads the rechecks: sessions that came in together, as after a
// restart, are not checked together for ever.
func (s *Sockets) nextRecheck(now time.Time) time.Time {
	every := s.opts.RecheckEvery
	return now.Add(every/2 + rand.N(every/5*2+1))
}

// wakeBy sets the timer so that tick runs by t, which may be zero for never.
func (s *Sockets) wakeBy(session *group, t time.Time) {
	if t.IsZero() || !session.wakeAt.IsZero() && !t.Before(session.wakeAt) {
		return
	}
	session.wakeAt = t
	d := min(time.Until(t), maxSleep)
	if session.timer == nil {
		session.timer = time.AfterFunc(d, func() { s.tick(session) })
	} else {
		session.timer.Reset(d)
	}
}

// tick does what is due in a session: a recheck, or the end of its sockets.
func (s *Sockets) tick(session *group) {
	now := time.Now()
	s.mu.Lock()
	if len(session.sockets) == 0 {
		s.mu.Unlock()
		return
	}
	session.wakeAt = time.Time{}
	due := false
	if passed(session.recheckAt, now) {
		due = true
		session.recheckAt = s.nextRecheck(now)
	}
	s.wakeBy(session, session.recheckAt)
	if passed(session.retryAt, now) {
		due = true
		session.backOff(now)
	}
	s.wakeBy(session, session.retryAt)
	var expired []*socket
	for k := range session.sockets {
		ends := k.session.Load().ExpiresAt
		switch last := ends.Add(overdue); {
		case !passed(ends, now):
			s.wakeBy(session, ends)
		case s.opts.Restore != nil && now.Before(last):
			due = true
			s.wakeBy(session, last)
		default:
			expired = append(expired, k)
		}
	}
	if due {
		s.enqueue(session)
	}
	expired = s.moveToClosing(expired, causeExpired)
	s.mu.Unlock()
	s.startClosing(expired)
}

// recheckAll calls Restore for every session, after a gap.
func (s *Sockets) recheckAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps++
	for _, session := range s.sessions {
		s.scheduleRecheck(session)
	}
}

// scheduleRecheck calls Restore, with backoff, until it decides. A call in flight
// may predate the gap, so it does not count.
func (s *Sockets) scheduleRecheck(session *group) {
	if s.opts.Restore == nil {
		return
	}
	session.pause = minRetry
	session.backOff(time.Now())
	s.wakeBy(session, session.retryAt)
	s.enqueue(session)
}

// enqueue adds a session to the queue, if it is not there.
func (s *Sockets) enqueue(session *group) {
	if session.checking || s.opts.Restore == nil {
		return
	}
	session.checking = true
	s.queue = append(s.queue, session)
	if s.checkers < maxRechecks {
		s.checkers++
		go s.recheckQueued()
	}
}

// recheckQueued rechecks sessions until the queue is empty. A Restore that never
// returns occupies one of maxRechecks.
func (s *Sockets) recheckQueued() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.queue = nil
			s.checkers--
			s.mu.Unlock()
			return
		}
		session := s.queue[0]
		s.queue = s.queue[1:]
		if len(session.sockets) == 0 {
			session.checking = false
			s.mu.Unlock()
			continue
		}
		c := s.newRecheck(session)
		s.mu.Unlock()
		// Restore is the application's: it may ignore its context.
		stop := context.AfterFunc(c.ctx, func() { s.apply(c, nil, c.ctx.Err()) })
		restored, err := s.restore(c.ctx, &c.asked)
		if stop() {
			s.apply(c, restored, err)
		}
		c.cancel()
	}
}

// recheck is one call of Restore for a session, with the session of any of its
// sockets.
type recheck struct {
	session  *group
	k        *socket
	asked    Session
	afterGap bool
	ctx      context.Context
	cancel   context.CancelFunc
}

func (s *Sockets) newRecheck(session *group) *recheck {
	c := &recheck{session: session, afterGap: !session.retryAt.IsZero()}
	for c.k = range session.sockets {
		break
	}
	c.asked = *c.k.session.Load()
	c.ctx, c.cancel = context.WithTimeout(context.WithoutCancel(c.k.ctx), restoreWait)
	session.retryAt, session.cancel = time.Time{}, c.cancel
	return c
}

// restore calls Restore and checks its result: a session that has not ended, of the
// same sign-in, or an error.
func (s *Sockets) restore(ctx context.Context, asked *Session) (restored *Session, err error) {
	defer func() {
		if v := recover(); v != nil {
			restored, err = nil, withoutCredential(fmt.Errorf("restore panicked: %v", v), asked.ID)
		}
	}()
	own := *asked
	restored, err = s.opts.Restore(ctx, &own)
	switch {
	case err != nil:
		return nil, withoutCredential(err, asked.ID)
	case restored == nil:
		return nil, ErrNoSession
	case !restored.same(asked):
		return nil, errors.New("what Restore returned is a session of another ID, Provider or UserID than it was given")
	case restored.over():
		return nil, ErrSessionExpired
	}
	return restored, nil
}

// apply updates or closes the sockets of a session after a recheck.
func (s *Sockets) apply(c *recheck, restored *Session, err error) {
	ended := errors.Is(err, ErrNoSession) || errors.Is(err, ErrSessionExpired)
	undecided := err != nil && !ended
	now := time.Now()
	s.mu.Lock()
	session := c.session
	session.checking, session.cancel = false, nil
	undecided = undecided && len(session.sockets) > 0
	if undecided && c.afterGap && session.retryAt.IsZero() {
		session.backOff(now)
		s.wakeBy(session, session.retryAt)
	}
	var expired []*socket
	for k := range session.sockets {
		if err == nil {
			k.update(&c.asked, restored)
		}
		if ends := k.session.Load().ExpiresAt; ended || passed(ends, now) {
			expired = append(expired, k)
		} else {
			s.wakeBy(session, ends)
		}
	}
	expired = s.moveToClosing(expired, causeExpired)
	s.mu.Unlock()
	if undecided {
		c.k.record(audit.SessionVerifyFailure,
			slog.String("provider", c.asked.Provider),
			slog.String("reason", reasonRecheck),
			slog.String("ip", c.k.ip),
			slog.String("path", c.k.path))
	}
	s.startClosing(expired)
}

// update gives k the Value and the end that Restore returned. Data and StartedAt
// stay the ticket's: one answer serves all sockets of the session, and a later
// StartedAt would escape a revocation of the person.
func (k *socket) update(asked, restored *Session) {
	session := *k.session.Load()
	session.Value = restored.Value
	// If Restore did not change the end, keep a later one from Extend.
	ends := restored.ExpiresAt
	later := !session.ExpiresAt.IsZero() && ends.After(session.ExpiresAt)
	if !ends.IsZero() && (!ends.Equal(asked.ExpiresAt) || later) {
		session.ExpiresAt = ends
	}
	k.session.Store(&session)
}
