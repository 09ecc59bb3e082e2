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
	restoreWait = 5 * time.Second // for one call of Restore
	maxRechecks = 16              // at the same time
	// maxSleep bounds a timer. Timers stop while a machine sleeps; sessions end by the clock.
	maxSleep = time.Minute
	// After a gap, a recheck without a decision is repeated, after minRetry to maxRetry.
	minRetry = 2 * time.Second
	maxRetry = time.Minute
)

// liveSession is a session that has sockets. Sockets.mu guards it.
type liveSession struct {
	sockets    []*socket          // with a place, in order of admission
	timer      *time.Timer        // one, however many sockets there are; nil: nothing to wait for
	wakeAt     time.Time          // when timer fires; zero: it does not
	recheckAt  time.Time          // zero: never
	retryAfter time.Duration      // after a gap, until Restore has decided; else zero
	checking   bool               // Restore is running, or waits for others
	checkBy    time.Time          // when sockets that have ended no longer wait for it
	cancel     context.CancelFunc // ends the latest recheck
}

// planRecheck sets when Restore is called next.
func (s *Sockets) planRecheck(session *liveSession) {
	session.recheckAt = time.Time{}
	if s.opts.Restore == nil {
		return
	}
	var wait time.Duration
	if every := s.opts.RecheckEvery; every > 0 {
		// Random, so that sessions that came in together are checked at different times.
		wait = every/2 + rand.N(every/5*2+1)
	}
	if retry := session.retryAfter; retry > 0 && (wait == 0 || retry < wait) {
		wait = retry
	}
	session.retryAfter = min(2*session.retryAfter, maxRetry)
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
	now := time.Now()
	s.mu.Lock()
	if len(session.sockets) == 0 {
		s.mu.Unlock()
		return
	}
	session.wakeAt = time.Time{}
	due := passed(session.recheckAt, now)
	if due {
		s.planRecheck(session)
	} else {
		s.wakeBy(session, session.recheckAt)
	}
	ended := s.ended(session, now)
	if due || len(ended) > 0 {
		s.startRecheck(session)
	}
	if len(ended) > 0 && session.checking && !passed(session.checkBy, now) {
		s.wakeBy(session, session.checkBy)
		ended = nil // Restore decides
	}
	closing := s.moveToClosing(ended, causeExpired)
	s.mu.Unlock()
	s.startClosing(closing)
}

// ended returns the sockets of a session that have ended, and sets the timer for the others.
func (s *Sockets) ended(session *liveSession, now time.Time) (ended []*socket) {
	for _, k := range session.sockets {
		if ends := k.current.Load().ExpiresAt; passed(ends, now) {
			ended = append(ended, k)
		} else {
			s.wakeBy(session, ends)
		}
	}
	return ended
}

// scheduleRecheck calls Restore until it decides. A call in flight may predate the gap.
func (s *Sockets) scheduleRecheck(session *liveSession) {
	session.retryAfter = minRetry
	s.planRecheck(session)
	s.startRecheck(session)
}

// recheck is one call of Restore for a session, with the session of the socket that ends last.
type recheck struct {
	session *liveSession
	k       *socket
	asked   Session
	gaps    uint64 // when the call began
}

// startRecheck calls Restore for a session, unless that is under way.
func (s *Sockets) startRecheck(session *liveSession) {
	if session.checking || s.opts.Restore == nil {
		return
	}
	session.checking = true
	session.checkBy = time.Now().Add(restoreWait + time.Second)
	c := &recheck{session: session, k: session.sockets[0]}
	for _, k := range session.sockets {
		if later(k.current.Load().ExpiresAt, c.k.current.Load().ExpiresAt) {
			c.k = k
		}
	}
	var ctx context.Context
	ctx, session.cancel = context.WithCancel(context.WithoutCancel(c.k.ctx))
	go s.recheck(ctx, c)
}

// recheck calls Restore when fewer than maxRechecks run. A Restore that never returns occupies one
// of them, and is the last one for its session.
func (s *Sockets) recheck(ctx context.Context, c *recheck) {
	select {
	case s.rechecks <- struct{}{}:
		defer func() { <-s.rechecks }()
	case <-ctx.Done(): // the session has no socket anymore
		return
	}
	s.mu.Lock()
	c.asked, c.gaps = *c.k.current.Load(), s.gaps
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, restoreWait)
	defer cancel()
	// Restore is the application's: it may ignore its context.
	stop := context.AfterFunc(ctx, func() { s.apply(c, nil, ctx.Err()) })
	restored, err := s.restore(ctx, &c.asked)
	s.mu.Lock()
	c.session.checking = false
	s.mu.Unlock()
	if stop() {
		s.apply(c, restored, err)
	}
}

// restore calls Restore and returns a session of the same sign-in that has not ended, or an error.
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
		return nil, errors.New("restore returned a session of another ID, Provider or UserID")
	case restored.expired():
		return nil, ErrSessionExpired
	}
	return restored, nil
}

// apply updates or closes the sockets of a session after a recheck.
func (s *Sockets) apply(c *recheck, restored *Session, err error) {
	invalid := errors.Is(err, ErrNoSession) || errors.Is(err, ErrSessionExpired)
	s.mu.Lock()
	session := c.session
	undecided := err != nil && !invalid && len(session.sockets) > 0
	if err == nil && session.retryAfter > 0 && c.gaps == s.gaps && len(session.sockets) > 0 {
		session.retryAfter = 0
		s.planRecheck(session)
	}
	if err == nil {
		for _, k := range session.sockets {
			k.update(&c.asked, restored)
		}
	}
	ended := s.ended(session, time.Now())
	if invalid {
		ended = slices.Clone(session.sockets)
	}
	closing := s.moveToClosing(ended, causeExpired)
	s.mu.Unlock()
	s.startClosing(closing)
	if undecided {
		c.k.record(audit.SessionVerifyFailure,
			slog.String("provider", c.asked.Provider),
			slog.String("reason", "recheck"),
			slog.String("ip", c.k.info.IP),
			slog.String("path", c.k.info.Path))
	}
}

// update gives k the Value and the end that Restore returned. Data and StartedAt stay the ticket's:
// a later StartedAt would escape a revocation of the person.
func (k *socket) update(asked, restored *Session) {
	session := *k.current.Load()
	session.Value = restored.Value
	// If Restore did not change the end, keep a later one from Extend.
	ends := restored.ExpiresAt
	if !ends.IsZero() && (!ends.Equal(asked.ExpiresAt) || later(ends, session.ExpiresAt)) {
		session.ExpiresAt = ends
	}
	k.current.Store(&session)
}
