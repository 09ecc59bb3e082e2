package middleware

import (
	"cmp"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// hasRoom returns a Rejection if nobody can be admitted now, and the gaps for admit.
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

// admit reserves a place for a request, or says why there is none. Then it checks for revocations:
// a later one finds the socket in s. gaps is what hasRoom returned.
func (s *Sockets) admit(in *incoming, gaps uint64) (*socket, *Rejection) {
	k := newSocket(s, in)
	rej := s.reserve(k, gaps)
	if rej != nil {
		k.end(causeRevoked)
		return nil, rej
	}
	if err := s.issuer.Revoked(k.grant()); err != nil {
		rej = rejectConsume(err)
	} else if err := s.issuer.Health(); errors.Is(err, tickets.ErrStale) {
		rej = rejectConsume(err)
	} else if in.stream {
		rej = s.openStream(k)
	}
	if rej != nil {
		k.finish(k.link, "", causeRevoked) // no line: the Rejection is recorded
		return nil, rej
	}
	return k, nil
}

// reserve gives k a place, if its session and its person have one left.
func (s *Sockets) reserve(k *socket, gaps uint64) *Rejection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rej := s.full(); rej != nil {
		return rej
	}
	session := s.sessions[k.sessionKey]
	if session == nil {
		session = &liveSession{cancel: func() {}}
	}
	if !s.hasPlace(session.sockets, s.opts.MaxPerSession) ||
		!s.hasPlace(s.users[k.userKey], s.opts.MaxPerUser) {
		return reject(refusedTooMany, nil)
	}
	s.sessions[k.sessionKey] = session
	session.sockets = append(session.sockets, k)
	s.users[k.userKey] = append(s.users[k.userKey], k)
	s.unfinished[k] = struct{}{}
	s.places++
	s.wakeBy(session, k.current.Load().ExpiresAt)
	if s.gaps != gaps { // its session was not among those that were rechecked
		s.scheduleRecheck(session)
	} else if session.recheckAt.IsZero() {
		s.planRecheck(session)
	}
	return nil
}

// keyOf returns key, or a random one if name is empty: sockets without a name share no limit.
func keyOf(name string, key hash) hash {
	if name == "" {
		_, _ = rand.Read(key[:])
	}
	return key
}

// hasPlace reports whether sockets are below limit. With EvictOldest, open sockets do not count:
// they are evicted when the new one opens.
func (s *Sockets) hasPlace(sockets []*socket, limit int) bool {
	if s.opts.EvictOldest && limit > 0 {
		isOpen := func(k *socket) bool { return k.state == stateOpen }
		sockets = slices.DeleteFunc(slices.Clone(sockets), isOpen)
	}
	return limit == 0 || len(sockets) < limit
}

// release gives back k's place.
func (s *Sockets) release(k *socket) {
	s.places--
	session := s.sessions[k.sessionKey]
	session.sockets = without(session.sockets, k)
	if len(session.sockets) == 0 {
		delete(s.sessions, k.sessionKey)
		if session.timer != nil {
			session.timer.Stop()
		}
		session.cancel()
	}
	s.users[k.userKey] = without(s.users[k.userKey], k)
	if len(s.users[k.userKey]) == 0 {
		delete(s.users, k.userKey)
	}
}

func without(sockets []*socket, k *socket) []*socket {
	i := slices.Index(sockets, k)
	return slices.Delete(sockets, i, i+1)
}

// openStream opens a stream, or says why it was closed before.
func (s *Sockets) openStream(k *socket) *Rejection {
	s.mu.Lock()
	opened := k.move(stateOpen)
	evicted := s.evictFor(k)
	s.mu.Unlock()
	s.startClosing(evicted)
	if opened {
		k.record(audit.SocketOpened, k.facts()...)
		return nil
	}
	switch err := k.cause.Err; err {
	case http.ErrServerClosed:
		return reject(refusedGoingAway, nil)
	case ErrSessionExpired:
		return reject(refusedSessionEnd, err)
	default: // nil: CloseSession
		return rejectConsume(cmp.Or(err, tickets.ErrRevoked))
	}
}

// evictFor moves to closing what is too many now that k is open; the caller calls startClosing.
func (s *Sockets) evictFor(k *socket) []*socket {
	if !s.opts.EvictOldest || k.state != stateOpen {
		return nil
	}
	evicted := s.evict(s.sessions[k.sessionKey].sockets, s.opts.MaxPerSession, k)
	return append(evicted, s.evict(s.users[k.userKey], s.opts.MaxPerUser, k)...)
}

// evict moves the oldest open sockets to closing, so that k and the others are within limit.
func (s *Sockets) evict(sockets []*socket, limit int, k *socket) []*socket {
	if limit == 0 {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(sockets), func(other *socket) bool {
		return other == k || other.state != stateOpen
	})
	return s.moveToClosing(others[:max(0, len(others)+1-limit)], causeEvicted)
}
