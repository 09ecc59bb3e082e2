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

// group is the sockets of one session or of one person that hold a place.
type group struct {
	sockets map[*socket]struct{}
	open    int // of them
}

// admitted is how many of the group have not opened yet.
func (g *group) admitted() int { return len(g.sockets) - g.open }

// oldest returns the open socket that was admitted first, but for newest; or nil.
func (g *group) oldest(newest *socket) *socket {
	var oldest *socket
	for k := range g.sockets {
		if k != newest && k.state == stateOpen && (oldest == nil || k.sequence < oldest.sequence) {
			oldest = k
		}
	}
	return oldest
}

func (g *group) list() []*socket { return slices.Collect(maps.Keys(g.sockets)) }

type liveUser struct {
	group
	user User
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
	sessionKey := tickets.HashSession(c.session.ID)
	if c.session.ID == "" { // a session of its own, that nobody can name
		_, _ = rand.Read(sessionKey[:])
	}
	userKey := tickets.HashUser(c.session.Provider, c.session.UserID)

	s.mu.Lock()
	var k *socket
	rej := s.full()
	if rej == nil && !s.withinLimits(sessionKey, userKey, c.session.UserID != "") {
		rej = reject(refusedTooMany, nil)
	}
	if rej == nil {
		k = newSocket(s, c)
		s.reserve(k, sessionKey, userKey)
		if s.gaps != c.gaps { // its session was not among those that were rechecked
			s.scheduleRecheck(k.ls)
		}
	}
	s.mu.Unlock()
	if rej != nil {
		return nil, rej
	}
	err := s.stillValid(&c.grant)
	if err == nil && c.stream && !s.openStream(k) {
		err = tickets.ErrRevoked
	}
	if err != nil {
		k.withdraw()
		return nil, rejectConsume(err)
	}
	return k, nil
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

// withinLimits reports whether a session and a person have a place left. Where
// the oldest is evicted, that happens when the new socket opens: until then, only
// those that have not opened must be within the limit.
func (s *Sockets) withinLimits(sessionKey, userKey hash, named bool) bool {
	within := func(g *group, limit int) bool {
		if s.opts.EvictOldest {
			return g.admitted() < limit
		}
		return len(g.sockets) < limit
	}
	if limit := s.opts.MaxPerSession; limit > 0 {
		if ls := s.sessions[sessionKey]; ls != nil && !within(&ls.group, limit) {
			return false
		}
	}
	if limit := s.opts.MaxPerUser; limit > 0 && named {
		if lu := s.users[userKey]; lu != nil && !within(&lu.group, limit) {
			return false
		}
	}
	return true
}

// reserve gives k a place.
func (s *Sockets) reserve(k *socket, sessionKey, userKey hash) {
	session := k.session.Load()
	ls := s.sessions[sessionKey]
	if ls == nil {
		ls = &liveSession{key: sessionKey, group: group{sockets: make(map[*socket]struct{})}}
		s.sessions[sessionKey] = ls
	}
	lu := s.users[userKey]
	if lu == nil {
		lu = &liveUser{
			user:  User{session.Provider, session.UserID},
			group: group{sockets: make(map[*socket]struct{})},
		}
		s.users[userKey] = lu
	}
	s.sequence++
	k.ls, k.lu, k.userKey, k.sequence = ls, lu, userKey, s.sequence
	ls.sockets[k] = struct{}{}
	lu.sockets[k] = struct{}{}
	s.unfinished[k] = struct{}{}
	s.places++
	s.watch(ls, session.ExpiresAt)
}

// release gives back k's place.
func (s *Sockets) release(k *socket, wasOpen bool) {
	delete(k.ls.sockets, k)
	delete(k.lu.sockets, k)
	s.places--
	if wasOpen {
		k.ls.open--
		k.lu.open--
		s.open--
	}
	if len(k.ls.sockets) == 0 {
		delete(s.sessions, k.ls.key)
		k.ls.stop()
	}
	if len(k.lu.sockets) == 0 {
		delete(s.users, k.userKey)
	}
}

// openStream opens a stream, which has its connection from the start, and reports
// whether it was still admitted.
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

// evictFor moves the sockets to closing that are over a limit now that k is open.
// The caller calls startClosing for them after unlocking.
func (s *Sockets) evictFor(k *socket) (evicted []*socket) {
	if !s.opts.EvictOldest || k.state != stateOpen {
		return nil
	}
	evict := func(g *group, limit int) {
		for limit > 0 && g.open > limit {
			oldest := g.oldest(k)
			oldest.move(stateClosing)
			oldest.cause = causeEvicted
			evicted = append(evicted, oldest)
		}
	}
	evict(&k.ls.group, s.opts.MaxPerSession)
	if k.session.Load().UserID != "" {
		evict(&k.lu.group, s.opts.MaxPerUser)
	}
	return evicted
}

func (s *Sockets) ofSession(key hash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ls := s.sessions[key]; ls != nil {
		return ls.list()
	}
	return nil
}

func (s *Sockets) ofUser(key hash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lu := s.users[key]; lu != nil && lu.user.UserID != "" {
		return lu.list()
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

const (
	reasonRecheck      = "recheck"
	closeInternalError = 1011
)
