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

// ErrStale is in the error of Consume, and of Health, while nobody is let in because this node has not
// caught up with the revocations of the others, or has heard nothing for IssuerOptions.MaxStaleness.
var ErrStale = errors.New("nobody is let in")

// The log's heartbeat is 1 s; three of them missed is no accident.
const deafAfter = 3 * time.Second

// How long to wait before a log that failed is asked again: it must be heard within a second of its
// return.
const (
	minPause = 50 * time.Millisecond
	maxPause = 400 * time.Millisecond
)

// A log whose Next returns at once, with nothing new, is not asked more often than this.
const idlePause = 10 * time.Millisecond

// tellAtOnce bounds how much is appended again before the log is read again.
const tellAtOnce = 100

// tellFor bounds how long: a node that is busy telling hears nothing.
const tellFor = 200 * time.Millisecond

// nodes is what an Issuer has to do with those on other machines, through a RevocationLog.
type nodes struct {
	issuer       *Issuer
	log          RevocationLog
	maxStaleness time.Duration
	cancel       context.CancelFunc
	done         chan struct{}
	current      atomic.Bool // has caught up, and missed nothing since

	mu     sync.Mutex
	heard  time.Time // when the log last answered
	err    error     // what it answered, unless all was well
	untold map[hash]Revocation
	deaf   bool  // heard nothing for maxStaleness
	warned bool  // that nothing is heard
	mute   error // why Append fails, and since when
	muted  time.Time
	timer  *time.Timer // nil without a maxStaleness
}

func newNodes(i *Issuer, log RevocationLog, maxStaleness time.Duration) *nodes {
	ctx, cancel := context.WithCancel(context.Background())
	n := &nodes{
		issuer: i, log: log, maxStaleness: maxStaleness, cancel: cancel, done: make(chan struct{}),
		heard: time.Now(), err: errors.New("the log has not answered yet"), untold: make(map[hash]Revocation),
	}
	if maxStaleness > 0 {
		n.timer = time.AfterFunc(maxStaleness, n.goStale)
	}
	go n.listen(ctx)
	return n
}

func (n *nodes) close() error {
	n.cancel()
	<-n.done
	if n.timer != nil {
		n.timer.Stop()
	}
	n.tellAgain(context.Background()) // a last time
	n.mu.Lock()
	defer n.mu.Unlock()
	if left := len(n.untold); left > 0 {
		return fmt.Errorf("close issuer: other nodes were not told of %d revocations", left)
	}
	return nil
}

// listen reads the log until ctx is done.
func (n *nodes) listen(ctx context.Context) {
	defer close(n.done)
	var cursor string
	var gap, ever bool
	pause := minPause
	for ctx.Err() == nil {
		asked := time.Now()
		rs, next, err := n.log.Next(ctx, cursor)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrGap) && cursor != "" {
			cursor, gap = "", true
			n.tellAll() // but for what Next then finds in the log
			n.current.Store(false)
			n.fail(err)
			slog.Warn("ticketgate: the log of revocations has lost its place; what this node remembers is appended again", "error", err)
			sleep(ctx, pause) // longer each time, should it have one whenever it is asked
			pause = min(2*pause, maxPause)
			continue
		}
		if err != nil {
			n.fail(err)
			sleep(ctx, pause+rand.N(pause/2))
			pause = min(2*pause, maxPause)
			continue
		}
		news := false
		for _, r := range rs {
			news = n.hear(r, ever) || news
		}
		if cursor != "" {
			pause = minPause
		}
		cursor, ever = next, true
		n.succeed()
		if gap {
			gap = false
			safely(func() { n.issuer.gaps.tell(ErrGap) })
		}
		n.tellAgain(ctx)
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

// hear puts another node's revocation in force here. Its own come back as well, and others may do so
// more than once: what is not news has been acted upon.
func (n *nodes) hear(r Revocation, tell bool) (news bool) {
	r.hash()
	if r.ofSession() == r.ofUser() {
		return false // nothing that an issuer has appended
	}
	now := time.Now()
	if r.At.After(now) { // their clock is ahead; who signs in from now on is let in
		r.At = now
	}
	r.At = r.At.Round(0)
	n.isTold(r)
	if news = n.issuer.revoked.add(&r, now); news && tell {
		safely(func() { n.issuer.listeners.tell(r) })
	}
	return news
}

// safely keeps a listener's panic from ending the process of every node: where a request calls one,
// net/http recovers it, and nobody would here.
func safely(tell func()) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("ticketgate: a listener panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	tell()
}

func (n *nodes) succeed() {
	n.mu.Lock()
	silent, warned := time.Since(n.heard), n.warned
	n.heard, n.err, n.deaf, n.warned = time.Now(), nil, false, false
	n.current.Store(true)
	if n.timer != nil {
		n.timer.Reset(n.maxStaleness)
	}
	n.mu.Unlock()
	if warned {
		slog.Info("ticketgate: revocations of other nodes are heard again", "after", silent)
	}
}

func (n *nodes) fail(err error) {
	n.mu.Lock()
	n.err = err
	silent := time.Since(n.heard)
	warn := silent > deafAfter && !n.warned
	n.warned = n.warned || warn
	n.mu.Unlock()
	if warn {
		slog.Warn("ticketgate: revocations of other nodes are not heard", "for", silent, "error", err)
	}
}

// goStale is the end of hoping: it runs when nothing was heard for maxStaleness.
func (n *nodes) goStale() {
	n.mu.Lock()
	deaf := time.Since(n.heard) >= n.maxStaleness // else it was heard just now
	n.deaf = deaf
	n.mu.Unlock()
	if deaf {
		safely(func() { n.issuer.gaps.tell(ErrStale) })
	}
}

// admits returns nil, or why nobody may come in.
func (n *nodes) admits() error {
	if n.current.Load() && n.maxStaleness == 0 {
		return nil
	}
	if err := n.health(); errors.Is(err, ErrStale) {
		return err
	}
	return nil
}

func (n *nodes) health() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	current := n.current.Load() && !n.deaf
	silent := time.Since(n.heard)
	if current && n.err == nil && silent < deafAfter {
		if n.mute != nil && time.Since(n.muted) > deafAfter {
			return fmt.Errorf("other nodes are not told of revocations: %w", n.mute)
		}
		return nil
	}
	err := n.err
	if err == nil {
		err = errors.New("the log does not answer")
	}
	if !current {
		err = fmt.Errorf("%w: %w", ErrStale, err)
	}
	return fmt.Errorf("no revocations heard for %v: %w", silent.Round(time.Millisecond), err)
}

// tell appends r to the log, now or when the log is back.
func (n *nodes) tell(ctx context.Context, r Revocation) error {
	err := n.log.Append(ctx, r)
	if err != nil {
		n.remind(r)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mute == nil {
		n.muted = time.Now()
	}
	n.mute = err
	return err
}

// remind has r appended again. It keeps no name.
func (n *nodes) remind(r Revocation) {
	r.SessionID, r.Provider, r.UserID = "", "", ""
	key := r.SessionHash
	if r.ofUser() {
		key = r.UserHash
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if later, ok := n.untold[key]; !ok || r.At.After(later.At) {
		n.untold[key] = r
	}
}

// isTold has r, which is in the log, appended no more. Logs may cut its time to the millisecond.
func (n *nodes) isTold(r Revocation) {
	key := r.SessionHash
	if r.ofUser() {
		key = r.UserHash
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if u, ok := n.untold[key]; ok && !u.At.After(r.At.Add(time.Millisecond)) {
		delete(n.untold, key)
	}
}

// tellAll has everything that stands here appended again: after a gap nobody knows what the others
// have missed.
func (n *nodes) tellAll() {
	for _, r := range n.issuer.revoked.all() {
		n.remind(r)
	}
}

// tellAgain appends some of what the others may not have heard.
func (n *nodes) tellAgain(ctx context.Context) {
	n.mu.Lock()
	some := make([]Revocation, 0, min(len(n.untold), tellAtOnce))
	for key, r := range n.untold {
		if len(some) == cap(some) {
			break
		}
		some = append(some, r)
		delete(n.untold, key)
	}
	n.mu.Unlock()
	began := time.Now()
	for k, r := range some {
		if !n.issuer.revoked.stands(&r) || time.Since(began) < tellFor && n.tell(ctx, r) == nil {
			continue
		}
		for _, r := range some[k:] {
			n.remind(r)
		}
		return
	}
}
