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
	// overdue is how long a session lives at most after its end while Restore is
	// called, however many other sessions come first.
	overdue = restoreWait + time.Second
	// maxRechecks is how many rechecks run at the same time.
	maxRechecks = 16
	// maxSleep bounds a timer: timers stand still while a machine sleeps, and do
	// not follow a clock that is set. Sessions end by the clock.
	maxSleep = time.Minute
	// A recheck after a gap that decides nothing is repeated, first after minRetry
	// and each time twice as late.
	minRetry = 2 * time.Second
	maxRetry = time.Minute
)

// liveSession is a session that has sockets: when they end, and when to ask
// Restore about them. Sockets.mu guards all of it.
type liveSession struct {
	group
	key hash

	timer     *time.Timer        // one, however many sockets there are; nil: nothing to wait for
	wakeAt    time.Time          // when timer fires; zero: it does not
	recheckAt time.Time          // zero: never
	retryAt   time.Time          // after a gap, until Restore has decided; else zero
	pause     time.Duration      // from retryAt to the next one
	checking  bool               // in the queue, or Restore is running
	cancel    context.CancelFunc // of the Restore that is running
}

// stop ends the timer and the recheck of a session whose last socket has gone.
func (ls *liveSession) stop() {
	if ls.timer != nil {
		ls.timer.Stop()
	}
	if ls.cancel != nil {
		ls.cancel()
	}
}

// first returns the socket that was admitted first.
func (ls *liveSession) first() *socket {
	var first *socket
	for k := range ls.sockets {
		if first == nil || k.sequence < first.sequence {
			first = k
		}
	}
	return first
}

// passed reports whether t is set and not after now.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// watch sets the session's timer for a socket that ends at t.
func (s *Sockets) watch(ls *liveSession, t time.Time) {
	if s.rechecks() && ls.recheckAt.IsZero() {
		ls.recheckAt = s.nextRecheck(time.Now())
		s.wakeBy(ls, ls.recheckAt)
	}
	s.wakeBy(ls, t)
}

func (s *Sockets) rechecks() bool { return s.opts.Restore != nil && s.opts.RecheckEvery > 0 }

// nextRecheck spreads the rechecks: sessions that came in together, as after a
// restart, are not checked together for ever.
func (s *Sockets) nextRecheck(now time.Time) time.Time {
	every := s.opts.RecheckEvery
	return now.Add(every/2 + rand.N(every*2/5+1))
}

// wakeBy sets the timer so that tick runs by t, which may be zero for never.
func (s *Sockets) wakeBy(ls *liveSession, t time.Time) {
	if t.IsZero() || !ls.wakeAt.IsZero() && !t.Before(ls.wakeAt) {
		return
	}
	ls.wakeAt = t
	d := min(time.Until(t), maxSleep)
	if ls.timer == nil {
		ls.timer = time.AfterFunc(d, func() { s.tick(ls) })
	} else {
		ls.timer.Reset(d)
	}
}

// tick does what is due in a session: a recheck, or the end of its sockets.
func (s *Sockets) tick(ls *liveSession) {
	now := time.Now()
	s.mu.Lock()
	if len(ls.sockets) == 0 {
		s.mu.Unlock()
		return
	}
	ls.wakeAt = time.Time{}
	due := false
	if passed(ls.recheckAt, now) {
		due = true
		ls.recheckAt = s.nextRecheck(now)
	}
	s.wakeBy(ls, ls.recheckAt)
	if passed(ls.retryAt, now) {
		due = true
		ls.backOff(now)
	}
	s.wakeBy(ls, ls.retryAt)
	var expired []*socket
	for k := range ls.sockets {
		ends := k.session.Load().ExpiresAt
		switch last := ends.Add(overdue); {
		case !passed(ends, now):
			s.wakeBy(ls, ends)
		case s.opts.Restore != nil && now.Before(last):
			due = true
			s.wakeBy(ls, last)
		default:
			expired = append(expired, k)
		}
	}
	if due {
		s.enqueue(ls)
	}
	s.mu.Unlock()
	s.close(expired, causeExpired)
}

// backOff sets the next retry, and doubles the pause after it.
func (ls *liveSession) backOff(now time.Time) {
	ls.retryAt = now.Add(ls.pause)
	ls.pause = min(2*ls.pause, maxRetry)
}

// recheckAll calls Restore for every session, after a gap.
func (s *Sockets) recheckAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps++
	for _, ls := range s.sessions {
		s.scheduleRecheck(ls)
	}
}

// scheduleRecheck calls Restore, with backoff, until it decides. A call in flight
// may predate the gap, so it does not count.
func (s *Sockets) scheduleRecheck(ls *liveSession) {
	if s.opts.Restore == nil {
		return
	}
	ls.pause = minRetry
	ls.backOff(time.Now())
	s.wakeBy(ls, ls.retryAt)
	s.enqueue(ls)
}

// enqueue has a session rechecked, once.
func (s *Sockets) enqueue(ls *liveSession) {
	if ls.checking || s.opts.Restore == nil {
		return
	}
	ls.checking = true
	s.queue = append(s.queue, ls)
	if s.checkers < maxRechecks {
		s.checkers++
		go s.recheckQueued()
	}
}

// recheckQueued rechecks sessions until the queue is empty. A Restore that does
// not return keeps its goroutine, and so counts as running.
func (s *Sockets) recheckQueued() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.queue = nil
			s.checkers--
			s.mu.Unlock()
			return
		}
		ls := s.queue[0]
		s.queue = s.queue[1:]
		k := ls.first()
		if k == nil { // its sockets have gone
			ls.checking = false
			s.mu.Unlock()
			continue
		}
		c := &recheck{ls: ls, k: k, asked: *k.session.Load(), afterGap: !ls.retryAt.IsZero()}
		ls.retryAt = time.Time{}
		var ctx context.Context
		ctx, ls.cancel = context.WithTimeout(context.WithoutCancel(k.ctx), restoreWait)
		cancel := ls.cancel
		s.mu.Unlock()
		s.recheck(ctx, c)
		cancel()
	}
}

// recheck is one call of Restore for a session, with the session of one socket.
type recheck struct {
	ls       *liveSession
	k        *socket
	asked    Session
	afterGap bool
}

// recheck calls Restore, and applies what it has decided, or that it has not
// when ctx ends.
func (s *Sockets) recheck(ctx context.Context, c *recheck) {
	// Restore is the application's. It may ignore ctx, or panic.
	stop := context.AfterFunc(ctx, func() { s.apply(c, nil, ctx.Err()) })
	restored, err := func() (restored *Session, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("restore panicked: %v", v)
			}
		}()
		return s.restore(ctx, &c.asked)
	}()
	if stop() {
		s.apply(c, restored, err)
	}
}

// restore calls Restore, and holds it to its contract: the result is a session
// that has not ended, of the same sign-in, or an error.
func (s *Sockets) restore(ctx context.Context, asked *Session) (*Session, error) {
	own := *asked
	restored, err := s.opts.Restore(ctx, &own)
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
	ls := c.ls
	ls.checking, ls.cancel = false, nil
	undecided = undecided && len(ls.sockets) > 0
	if undecided && c.afterGap && ls.retryAt.IsZero() {
		ls.backOff(now)
		s.wakeBy(ls, ls.retryAt)
	}
	var expired []*socket
	for k := range ls.sockets {
		if err == nil {
			k.update(&c.asked, restored)
		}
		if ends := k.session.Load().ExpiresAt; ended || passed(ends, now) {
			expired = append(expired, k)
		} else {
			s.wakeBy(ls, ends)
		}
	}
	s.mu.Unlock()
	if undecided {
		c.k.record(audit.SessionVerifyFailure,
			slog.String("provider", c.asked.Provider),
			slog.String("reason", reasonRecheck),
			slog.String("ip", c.k.ip),
			slog.String("path", c.k.path))
	}
	s.close(expired, causeExpired)
}

// update gives k the Value and the end that Restore returned. Data and StartedAt
// stay the ticket's: one answer serves all sockets of the session, and a later
// beginning would evade a revocation.
func (k *socket) update(asked, restored *Session) {
	session := *k.session.Load()
	session.Value = restored.Value
	// An end that Restore has left alone may have been moved by Extend since.
	ends := restored.ExpiresAt
	if !ends.IsZero() && (!ends.Equal(asked.ExpiresAt) || ends.After(session.ExpiresAt)) {
		session.ExpiresAt = ends
	}
	k.session.Store(&session)
}
