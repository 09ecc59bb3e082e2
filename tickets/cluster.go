package tickets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// The heartbeat of the log is 1 s. After three without an answer this node is unhealthy.
const unhealthyAfter = 3 * time.Second

// The pause before a log that failed is read again: revocations must arrive within a second of its
// return.
const (
	minPause = 50 * time.Millisecond
	maxPause = 400 * time.Millisecond
)

// A log whose Next returns at once, with nothing new, is not read more often than this.
const idlePause = 10 * time.Millisecond

// How many revocations are published again, and for how long, before the log is read again.
const (
	publishAtOnce = 100
	publishFor    = 200 * time.Millisecond
)

// cluster connects an Issuer to those on other nodes, through a RevocationLog.
type cluster struct {
	issuer       *Issuer
	log          RevocationLog
	maxStaleness time.Duration
	cancel       context.CancelFunc
	done         chan struct{}
	current      atomic.Bool // the log was read up to now, and there was no gap since

	mu          sync.Mutex
	answered    time.Time // when the log was last read
	readErr     error     // of the last read
	stale       bool      // not read for maxStaleness
	warned      bool      // that the log cannot be read
	unpublished map[subject]Revocation
	publishErr  error // of the last Append
	failing     time.Time
	timer       *time.Timer // nil without a maxStaleness
}

func newCluster(i *Issuer, log RevocationLog, maxStaleness time.Duration) *cluster {
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{
		issuer: i, log: log, maxStaleness: maxStaleness, cancel: cancel, done: make(chan struct{}),
		answered: time.Now(), readErr: errors.New("the log has not answered yet"),
		unpublished: make(map[subject]Revocation),
	}
	if maxStaleness > 0 {
		c.timer = time.AfterFunc(maxStaleness, c.goStale)
	}
	go c.read(ctx)
	return c
}

func (c *cluster) close() error {
	c.cancel()
	<-c.done
	if c.timer != nil {
		c.timer.Stop()
	}
	c.publishAgain(context.Background()) // a last time
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := len(c.unpublished); left > 0 {
		return fmt.Errorf("close issuer: %d revocations were not published to other nodes", left)
	}
	return nil
}

// read reads the log until ctx is done.
func (c *cluster) read(ctx context.Context) {
	defer close(c.done)
	var cursor string
	var gap, everRead bool
	pause := minPause
	for ctx.Err() == nil {
		asked := time.Now()
		rs, next, err := c.log.Next(ctx, cursor)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait := pause + rand.N(pause/2)
			if errors.Is(err, ErrGap) && cursor != "" {
				cursor, gap = "", true
				c.lostPlace(err)
				wait = pause // which grows: the log may have a gap at every read
			} else {
				c.failed(err)
			}
			sleep(ctx, wait)
			pause = min(2*pause, maxPause)
			continue
		}
		news := false
		for _, r := range rs {
			news = c.receive(r, everRead) || news
		}
		if cursor != "" {
			pause = minPause
		}
		cursor, everRead = next, true
		c.succeeded()
		if gap {
			gap = false
			safely(func() { c.issuer.gaps.call(ErrGap) })
		}
		c.publishAgain(ctx)
		if !news && time.Since(asked) < idlePause {
			sleep(ctx, idlePause)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// receive puts another node's revocation in force here, and reports whether it is new. The node's
// own ones come back too, and others may come twice: those are in force already.
func (c *cluster) receive(r Revocation, callListeners bool) (news bool) {
	r, err := r.Hashed()
	if err != nil {
		return false // not what an issuer publishes
	}
	now := time.Now()
	if r.At.After(now) { // the other clock is ahead; a user who signs in from now on is admitted
		r.At = now
	}
	r.At = r.At.Round(0)
	c.isPublished(r)
	if news = c.issuer.revoked.add(&r, now); news && callListeners {
		safely(func() { c.issuer.listeners.call(r) })
	}
	return news
}

// safely recovers the panic of a listener, which would end the process of every node. In a request
// net/http recovers it, but nothing does here.
func safely(call func()) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("ticketgate: listener panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	call()
}

// lostPlace publishes again all that is in force here: nobody knows what the others have missed. It
// ends with what Next then finds in the log.
func (c *cluster) lostPlace(err error) {
	for _, r := range c.issuer.revoked.list() {
		c.publishLater(r)
	}
	c.current.Store(false)
	c.failed(err)
	slog.Warn("ticketgate: the revocation log has a gap; publishing again what this node remembers",
		"error", err)
}

func (c *cluster) succeeded() {
	c.mu.Lock()
	silent, warned := time.Since(c.answered), c.warned
	c.answered, c.readErr, c.stale, c.warned = time.Now(), nil, false, false
	c.current.Store(true)
	if c.timer != nil {
		c.timer.Reset(c.maxStaleness)
	}
	c.mu.Unlock()
	if warned {
		slog.Info("ticketgate: the revocation log can be read again", "after", silent)
	}
}

func (c *cluster) failed(err error) {
	c.mu.Lock()
	c.readErr = err
	silent := time.Since(c.answered)
	warn := silent > unhealthyAfter && !c.warned
	c.warned = c.warned || warn
	c.mu.Unlock()
	if warn {
		slog.Warn("ticketgate: the revocation log cannot be read", "for", silent, "error", err)
	}
}

// goStale runs when the log was not read for maxStaleness.
func (c *cluster) goStale() {
	c.mu.Lock()
	stale := time.Since(c.answered) >= c.maxStaleness // else it was read just now
	c.stale = stale
	c.mu.Unlock()
	if stale {
		safely(func() { c.issuer.gaps.call(ErrStale) })
	}
}

// admits returns nil, or an ErrStale.
func (c *cluster) admits() error {
	if c.current.Load() && c.maxStaleness == 0 {
		return nil
	}
	if err := c.health(); errors.Is(err, ErrStale) {
		return err
	}
	return nil
}

func (c *cluster) health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	current := c.current.Load() && !c.stale
	silent := time.Since(c.answered)
	if current && c.readErr == nil && silent < unhealthyAfter {
		if c.publishErr != nil && time.Since(c.failing) > unhealthyAfter {
			return fmt.Errorf("revocations are not published to other nodes: %w", c.publishErr)
		}
		return nil
	}
	err := c.readErr
	if err == nil {
		err = errors.New("the log does not answer")
	}
	silent = silent.Round(time.Millisecond)
	if !current {
		return fmt.Errorf("%w: not read for %v: %w", ErrStale, silent, err)
	}
	return fmt.Errorf("revocation log was not read for %v: %w", silent, err)
}

// publish appends r to the log, now, or later if that fails.
func (c *cluster) publish(ctx context.Context, r Revocation) error {
	err := c.log.Append(ctx, r)
	if err != nil {
		c.publishLater(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.publishErr == nil {
		c.failing = time.Now()
	}
	c.publishErr = err
	return err
}

// publishLater keeps r, without names, until it is published.
func (c *cluster) publishLater(r Revocation) {
	r.SessionID, r.Provider, r.UserID = "", "", ""
	key := r.subject()
	c.mu.Lock()
	defer c.mu.Unlock()
	if later, ok := c.unpublished[key]; !ok || r.At.After(later.At) {
		c.unpublished[key] = r
	}
}

// isPublished drops r, which is in the log, from what is unpublished. Logs may cut its time to the
// millisecond.
func (c *cluster) isPublished(r Revocation) {
	key := r.subject()
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.unpublished[key]; ok && !u.At.After(r.At.Add(time.Millisecond)) {
		delete(c.unpublished, key)
	}
}

// publishAgain publishes some of what is unpublished.
func (c *cluster) publishAgain(ctx context.Context) {
	c.mu.Lock()
	some := make([]Revocation, 0, min(len(c.unpublished), publishAtOnce))
	for key, r := range c.unpublished {
		if len(some) == cap(some) {
			break
		}
		some = append(some, r)
		delete(c.unpublished, key)
	}
	c.mu.Unlock()
	began := time.Now()
	for k, r := range some {
		if !c.issuer.revoked.inForce(&r) {
			continue
		}
		if time.Since(began) < publishFor && c.publish(ctx, r) == nil {
			continue
		}
		for _, r := range some[k:] {
			c.publishLater(r)
		}
		return
	}
}
