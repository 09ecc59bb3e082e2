package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
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

// liveSession is a session that has sockets: when they end, and when to call Restore
// for it. Sockets.mu guards it.
type liveSession struct {
	key       hash
	sockets   []*socket          // with a place, in order of admission
	timer     *time.Timer        // one, however many sockets there are; nil: nothing to wait for
	wakeAt    time.Time          // when timer fires; zero: it does not
	recheckAt time.Time          // zero: never
	pause     time.Duration      // after a gap, until Restore has decided; else zero
	checking  bool               // Restore is running, or waits for others
	cancel    context.CancelFunc // of the Restore that is running
}

// stop ends the timer and the recheck of a session whose last socket has gone.
func (session *liveSession) stop() {
	if session.timer != nil {
		session.timer.Stop()
	}
	if session.cancel != nil {
		session.cancel()
	}
}

// passed reports whether t is set and not after now.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// planRecheck sets when Restore is called next.
func (s *Sockets) planRecheck(session *liveSession) {
	session.recheckAt = time.Time{}
	if s.opts.Restore == nil {
		return
	}
	var wait time.Duration
	if every := s.opts.RecheckEvery; every > 0 {
		// Random, so that sessions that came in together, as after a restart, are
		// checked at different times.
		wait = every/2 + rand.N(every/5*2+1)
	}
	if pause := session.pause; pause > 0 && (wait == 0 || pause < wait) {
		wait = pause
	}
	session.pause = min(2*session.pause, maxRetry)
	if wait > 0 {
		session.recheckAt = time.Now().Add(wait)
		s.wakeBy(session, session.recheckAt)
	}
}

// wakeBy sets the timer so that tick runs by t, which may be zero for never.
func (s *Sockets) wakeBy(session *liveSession, t time.Time) {
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
func (s *Sockets) tick(session *liveSession) {
	s.mu.Lock()
	if len(session.sockets) == 0 {
		s.mu.Unlock()
		return
	}
	session.wakeAt = time.Time{}
	recheck := passed(session.recheckAt, time.Now())
	if recheck {
		s.planRecheck(session)
	} else {
		s.wakeBy(session, session.recheckAt)
	}
	var wait time.Duration // for what Restore decides about an end
	if s.opts.Restore != nil {
		wait = overdue
	}
	expired, ended := s.expired(session, wait)
	if recheck || ended {
		s.startRecheck(session)
	}
	closing := s.moveToClosing(expired, causeExpired)
	s.mu.Unlock()
	s.startClosing(closing)
}

// expired returns the sockets of a session that ended at least wait ago, and reports
// whether any others have ended. It sets the timer for what is not due.
func (s *Sockets) expired(session *liveSession, wait time.Duration) (ks []*socket, ended bool) {
	now := time.Now()
	for _, k := range session.sockets {
		ends := k.session.Load().ExpiresAt
		switch last := ends.Add(wait); {
		case !passed(ends, now):
			s.wakeBy(session, ends)
		case now.Before(last):
			ended = true
			s.wakeBy(session, last)
		default:
			ks = append(ks, k)
		}
	}
	return ks, ended
}

// scheduleRecheck calls Restore, with backoff, until it decides. A call in flight
// may predate the gap, so it does not count.
func (s *Sockets) scheduleRecheck(session *liveSession) {
	session.pause = minRetry
	s.planRecheck(session)
	s.startRecheck(session)
}

// startRecheck calls Restore for a session, unless that is under way.
func (s *Sockets) startRecheck(session *liveSession) {
	if !session.checking && s.opts.Restore != nil {
		session.checking = true
		go s.recheck(session)
	}
}

// recheck calls Restore for a session, when fewer than maxRechecks run. A Restore
// that never returns occupies one of them.
func (s *Sockets) recheck(session *liveSession) {
	s.rechecks <- struct{}{}
	defer func() { <-s.rechecks }()
	s.mu.Lock()
	if len(session.sockets) == 0 {
		s.mu.Unlock()
		return
	}
	k := session.sockets[0]
	c := &recheck{session: session, k: k, asked: *k.session.Load(), gaps: s.gaps}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), restoreWait)
	session.cancel = cancel
	s.mu.Unlock()
	defer cancel()
	// Restore is the application's: it may ignore its context.
	stop := context.AfterFunc(ctx, func() { s.apply(c, nil, ctx.Err()) })
	restored, err := s.restore(ctx, &c.asked)
	if stop() {
		s.apply(c, restored, err)
	}
}

// recheck is one call of Restore for a session, with the session of its oldest
// socket.
type recheck struct {
	session *liveSession
	k       *socket
	asked   Session
	gaps    uint64 // when the call began
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
	s.mu.Lock()
	session := c.session
	session.checking, session.cancel = false, nil
	undecided := err != nil && !ended && len(session.sockets) > 0
	if err == nil && session.pause > 0 && c.gaps == s.gaps {
		session.pause = 0
		s.planRecheck(session)
	}
	if err == nil {
		for _, k := range session.sockets {
			k.update(&c.asked, restored)
		}
	}
	expired, _ := s.expired(session, 0)
	if ended {
		expired = slices.Clone(session.sockets)
	}
	closing := s.moveToClosing(expired, causeExpired)
	s.mu.Unlock()
	if undecided {
		c.k.record(audit.SessionVerifyFailure,
			slog.String("provider", c.asked.Provider),
			slog.String("reason", reasonRecheck),
			slog.String("ip", c.k.IP),
			slog.String("path", c.k.Path))
	}
	s.startClosing(closing)
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
