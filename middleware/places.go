package middleware

import (
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/ticketgate/ticketgate/tickets"
)

// candidate is a request whose ticket is consumed, and that asks for a place.
type candidate struct {
	request          *http.Request // for its context; no socket keeps it
	grant            tickets.Grant
	session          *Session
	ip, path, origin string
	ticketID         string
	stream           bool   // AdmitRequests: no upgrade
	gaps             uint64 // what hasRoom returned
}

// group is the sockets of one session, or of one person, that hold a place.
type group struct {
	key     hash
	limit   int // 0: none
	sockets map[*socket]struct{}
	open    int // of them
	user    User
	expiry  // of a session
}

// hasRoom returns a Rejection if nobody can be admitted now. It reserves nothing.
// gaps goes into the candidate.
func (s *Sockets) hasRoom() (gaps uint64, rej *Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gaps, s.full()
}

func (s *Sockets) full() *Rejection {
	switch {
	case s.shut:
		return reject(refusedGoingAway, nil)
	case s.opts.Max > 0 && s.places >= s.opts.Max:
		return reject(refusedTooMany, nil)
	}
	return nil
}

// admit reserves a place for c, or says why there is none. It asks about
// revocations only when the place is reserved: one that comes later finds the
// socket here.
func (s *Sockets) admit(c *candidate) (*socket, *Rejection) {
	k, rej := s.reserve(c)
	if rej != nil {
		return nil, rej
	}
	if err := s.stillValid(&c.grant); err != nil {
		k.withdraw()
		return nil, rejectConsume(err)
	}
	if c.stream && !s.openStream(k) {
		k.withdraw()
		return nil, rejectClosed(k.cause)
	}
	return k, nil
}

// rejectClosed returns the Rejection of a stream that was closed before it opened.
func rejectClosed(cause *CloseError) *Rejection {
	switch cause.Reason {
	case reasonGoingAway:
		return reject(refusedGoingAway, nil)
	case codeUnavailable:
		return rejectConsume(cause.Err)
	}
	return rejectConsume(tickets.ErrRevoked)
}

// stillValid reports a revocation, or a stale revocation log, since the ticket
// was consumed.
func (s *Sockets) stillValid(grant *tickets.Grant) error {
	if err := s.issuer.Revoked(*grant); err != nil {
		return err
	}
	if err := s.issuer.Health(); errors.Is(err, tickets.ErrStale) {
		return err
	}
	return nil
}

// reserve gives c a place, if its session and its person have one left.
func (s *Sockets) reserve(c *candidate) (*socket, *Rejection) {
	sessionKey := tickets.HashSession(c.session.ID)
	if c.session.ID == "" { // a session of its own, that nobody can name
		_, _ = rand.Read(sessionKey[:])
	}
	userKey := tickets.HashUser(c.session.Provider, c.session.UserID)

	s.mu.Lock()
	defer s.mu.Unlock()
	session, user := s.sessions[sessionKey], s.users[userKey]
	if rej := s.full(); rej != nil {
		return nil, rej
	}
	if !s.hasPlace(session) || !s.hasPlace(user) {
		return nil, reject(refusedTooMany, nil)
	}
	if session == nil {
		session = newGroup(s.sessions, sessionKey, c.session, c.session.ID, s.opts.MaxPerSession)
	}
	if user == nil {
		user = newGroup(s.users, userKey, c.session, c.session.UserID, s.opts.MaxPerUser)
	}
	s.sequence++
	k := newSocket(s, c)
	k.bySession, k.byUser, k.sequence = session, user, s.sequence
	session.sockets[k], user.sockets[k] = struct{}{}, struct{}{}
	s.unfinished[k] = struct{}{}
	s.places++
	s.watch(session, c.session.ExpiresAt)
	if s.gaps != c.gaps { // its session was not among those that were rechecked
		s.scheduleRecheck(session)
	}
	return k, nil
}

// newGroup adds an empty group. One without a name has no limit.
func newGroup(groups map[hash]*group, key hash, c *Session, name string, limit int) *group {
	if name == "" {
		limit = 0
	}
	groups[key] = &group{
		key: key, limit: limit, sockets: make(map[*socket]struct{}),
		user: User{c.Provider, c.UserID},
	}
	return groups[key]
}

// hasPlace reports whether g is below its limit. Where the oldest is evicted, that
// happens when the new socket opens: until then, only those that have not opened
// must be below the limit.
func (s *Sockets) hasPlace(g *group) bool {
	if g == nil {
		return true // the first
	}
	n := len(g.sockets)
	if s.opts.EvictOldest {
		n -= g.open
	}
	return g.limit == 0 || n < g.limit
}

// release gives back k's place.
func (s *Sockets) release(k *socket, wasOpen bool) {
	s.places--
	if wasOpen {
		s.open--
	}
	for _, g := range []*group{k.bySession, k.byUser} {
		delete(g.sockets, k)
		if wasOpen {
			g.open--
		}
	}
	if len(k.bySession.sockets) == 0 {
		delete(s.sessions, k.bySession.key)
		k.bySession.stop()
	}
	if len(k.byUser.sockets) == 0 {
		delete(s.users, k.byUser.key)
	}
}

// openStream opens a stream, which has its connection from the start. It reports
// whether the stream was not closed before.
func (s *Sockets) openStream(k *socket) bool {
	s.mu.Lock()
	opened := k.move(stateOpen)
	evicted := s.evictFor(k)
	s.mu.Unlock()
	s.startClosing(evicted)
	if opened {
		k.recordOpened()
	}
	return opened
}

// evictFor moves the oldest sockets to closing that are over a limit now that k is
// open. The caller calls startClosing for them after unlocking.
func (s *Sockets) evictFor(k *socket) (evicted []*socket) {
	if !s.opts.EvictOldest || k.state != stateOpen {
		return nil
	}
	for _, g := range []*group{k.bySession, k.byUser} {
		for g.limit > 0 && g.open > g.limit {
			evicted = append(evicted, s.moveToClosing([]*socket{g.oldest(k)}, causeEvicted)...)
		}
	}
	return evicted
}

// oldest returns the open socket that was admitted first, other than newest.
func (g *group) oldest(newest *socket) *socket {
	var oldest *socket
	for k := range g.sockets {
		if k != newest && k.state == stateOpen && (oldest == nil || k.sequence < oldest.sequence) {
			oldest = k
		}
	}
	return oldest
}

// ofSession returns the sockets of a session; ofUser, those of a person.
func (s *Sockets) ofSession(key hash) []*socket { return s.list(s.sessions, key) }

func (s *Sockets) ofUser(key hash) []*socket { return s.list(s.users, key) }

func (s *Sockets) list(groups map[hash]*group, key hash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := groups[key]; g != nil {
		return slices.Collect(maps.Keys(g.sockets))
	}
	return nil
}

// finished is called once for each socket that was admitted, when its last audit
// line is written.
func (s *Sockets) finished(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unfinished, k)
	s.checkDrained()
}

func (s *Sockets) checkDrained() {
	if !s.shut || len(s.unfinished) > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}
