package middleware

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

// sessionHash is the first half of a session id's SHA-256: the id itself may be
// a cookie, and other nodes' revocations tell no more than the hash. userHash is
// the same of a person.
type (
	sessionHash [sha256.Size / 2]byte
	userHash    [sha256.Size / 2]byte
)

func hashSession(id string) sessionHash {
	h := tickets.HashSession(id)
	return sessionHash(h[:])
}

func hashUser(u User) userHash {
	h := tickets.HashUser(u.Provider, u.UserID)
	return userHash(h[:])
}

// A socket is in two rosters: its session's, and its person's.
const (
	bySession = iota
	byUser
)

type link struct{ prev, next *socket }

// roster is a list of sockets, in the order in which they were admitted.
type roster struct {
	first, last *socket
	n           int32 // admitted or live
	live        int32
}

func (r *roster) push(k *socket, by int) {
	k.links[by].prev = r.last
	if r.last == nil {
		r.first = k
	} else {
		r.last.links[by].next = k
	}
	r.last = k
	r.n++
}

func (r *roster) remove(k *socket, by int) {
	l := k.links[by]
	if l.prev == nil {
		r.first = l.next
	} else {
		l.prev.links[by].next = l.next
	}
	if l.next == nil {
		r.last = l.prev
	} else {
		l.next.links[by].prev = l.prev
	}
	k.links[by] = link{}
	r.n--
	if k.live {
		r.live--
	}
}

// collect appends the roster's sockets to ks.
func (r *roster) collect(ks []*socket, by int) []*socket {
	for k := r.first; k != nil; k = k.links[by].next {
		ks = append(ks, k)
	}
	return ks
}

// overflow appends to ks the oldest live sockets beyond limit, but for k.
func (r *roster) overflow(ks []*socket, by, limit int, k *socket) []*socket {
	if limit == 0 {
		return ks
	}
	over := int(r.live) - limit - len(ks) // those are going already
	for old := r.first; old != nil && over > 0; old = old.links[by].next {
		if old.live && old != k && !slices.Contains(ks, old) {
			ks = append(ks, old)
			over--
		}
	}
	return ks
}

type liveUser struct {
	roster
	User
	hash userHash
}

// look looks whether one more could come in at all. Nothing is taken.
func (s *Sockets) look(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.gaps = s.gaps
	return s.vacant(a)
}

func (s *Sockets) vacant(a *attempt) bool {
	if s.shut {
		a.refuse(http.StatusServiceUnavailable, codeUnavailable, reasonGoingAway)
		a.rej.CloseCode = closeGoingAway
		return false
	}
	if s.opts.Max > 0 && s.n >= s.opts.Max {
		return a.refuse(http.StatusTooManyRequests, codeTooMany, reasonTooMany)
	}
	return true
}

// enter takes a place for a, or says why there is none for it. It asks about
// revocation only once the place is taken: one that comes later finds the
// socket here.
func (s *Sockets) enter(a *attempt, grant *tickets.Grant) *socket {
	k := newSocket(a)
	hash := hashSession(a.session.ID)
	if a.session.ID == "" { // a session of its own, that nobody can name
		binary.BigEndian.PutUint64(hash[:], rand.Uint64())
		binary.BigEndian.PutUint64(hash[8:], rand.Uint64())
	}
	user := hashUser(User{a.session.Provider, a.session.UserID})

	s.mu.Lock()
	ok := s.vacant(a)
	if ok && !s.room(hash, user, a.session.UserID != "") {
		ok = a.refuse(http.StatusTooManyRequests, codeTooMany, reasonTooMany)
	}
	if !ok {
		s.mu.Unlock()
		return nil
	}
	s.add(k, hash, user)
	if s.gaps != a.gaps && k.ls.restorer() != nil { // found since: nobody has asked about this one
		s.owe(k.ls)
	}
	var evicted []*socket
	if a.stream {
		evicted = s.enliven(k)
	}
	s.mu.Unlock()

	if err := a.guard.meanwhile(grant); err != nil {
		k.withdraw()
		a.refuseConsume(err)
		return nil
	}
	s.end(evicted, causeEvicted)
	if a.stream {
		k.recordOpened()
	}
	return k
}

// room reports whether a session and a person have room for one more. Where the
// oldest is evicted, that happens when the new one is live; until then it is
// only those who have not upgraded yet that must not be more than the limit.
func (s *Sockets) room(session sessionHash, user userHash, named bool) bool {
	within := func(r *roster, limit int) bool {
		if s.opts.EvictOldest {
			return int(r.n-r.live) < limit
		}
		return int(r.n) < limit
	}
	if limit := s.opts.MaxPerSession; limit > 0 {
		if ls := s.sessions[session]; ls != nil && !within(&ls.roster, limit) {
			return false
		}
	}
	if limit := s.opts.MaxPerUser; limit > 0 && named {
		if lu := s.users[user]; lu != nil && !within(&lu.roster, limit) {
			return false
		}
	}
	return true
}

func (s *Sockets) add(k *socket, session sessionHash, user userHash) {
	ls := s.sessions[session]
	if ls == nil {
		ls = &liveSession{hash: session}
		s.sessions[session] = ls
	}
	lu := s.users[user]
	if lu == nil {
		lu = &liveUser{User: User{k.session.Provider, k.session.UserID}, hash: user}
		s.users[user] = lu
	}
	k.ls, k.lu = ls, lu
	ls.push(k, bySession)
	lu.push(k, byUser)
	s.n++
	s.open++
	s.watch(ls, k.endsAt())
}

// enliven makes k a live socket and returns those that must go for it.
func (s *Sockets) enliven(k *socket) (evicted []*socket) {
	k.live = true
	k.openedAt = time.Now().UnixNano()
	k.ls.live++
	k.lu.live++
	s.live++
	if s.opts.EvictOldest {
		evicted = k.ls.overflow(evicted, bySession, s.opts.MaxPerSession, k)
		if k.session.UserID != "" {
			evicted = k.lu.overflow(evicted, byUser, s.opts.MaxPerUser, k)
		}
	}
	return evicted
}

// remove frees k's place. It still counts as open until it is gone.
func (s *Sockets) remove(k *socket) {
	k.ls.remove(k, bySession)
	k.lu.remove(k, byUser)
	if k.ls.n == 0 {
		delete(s.sessions, k.ls.hash)
		k.ls.clock.stop()
	}
	if k.lu.n == 0 {
		delete(s.users, k.lu.hash)
	}
	s.n--
	if k.live {
		s.live--
	}
}

// gone is called once for each that was added, when nothing of it is left.
func (s *Sockets) gone(k *socket) {
	s.mu.Lock()
	delete(s.ending, k)
	s.open--
	s.drained()
	s.mu.Unlock()
}

func (s *Sockets) drained() {
	if s.shut && s.open == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// end ends those of ks that have not ended, for the same cause, and returns how
// many that were. It does not wait for them to be gone.
func (s *Sockets) end(ks []*socket, cause *CloseError) int {
	if len(ks) == 0 {
		return 0
	}
	type victim struct {
		*socket
		hijacked bool
	}
	ended := make([]victim, 0, len(ks))
	s.mu.Lock()
	for _, k := range ks {
		if !k.ended {
			k.ended, k.conn.ending = true, newEnding(cause)
			s.remove(k)
			s.ending[k] = struct{}{}
			ended = append(ended, victim{k, k.hijacked})
		}
	}
	s.mu.Unlock()
	for _, k := range ended {
		k.terminate(k.hijacked)
	}
	return len(ended)
}

func (s *Sockets) ofSession(hash sessionHash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ls := s.sessions[hash]; ls != nil {
		return ls.collect(nil, bySession)
	}
	return nil
}

func (s *Sockets) ofUser(hash userHash) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lu := s.users[hash]; lu != nil && lu.UserID != "" {
		return lu.collect(nil, byUser)
	}
	return nil
}

// ofIssuer returns the sockets that came in by an issuer's tickets.
func (s *Sockets) ofIssuer(issuer *tickets.Issuer) []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ks []*socket
	for _, ls := range s.sessions {
		for k := ls.first; k != nil; k = k.links[bySession].next {
			if k.guard.issuer == issuer {
				ks = append(ks, k)
			}
		}
	}
	return ks
}
