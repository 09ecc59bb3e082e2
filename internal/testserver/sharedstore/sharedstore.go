// Package sharedstore is a store that several nodes in one process share: tickets and a revocation
// log, with faults that a test can switch on. It uses the clock of the test's bubble.
package sharedstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ticketgate/ticketgate/tickets"
)

const heartbeat = time.Second

// Server is the state that is shared. Its zero value is empty and works.
type Server struct {
	// Fault is the name of a broken promise; the code below compares it.
	Fault string

	mu       sync.Mutex
	down     error
	entries  map[[32]byte]*entry
	log      []tickets.Revocation
	appended int           // calls of Append
	life     int           // a cursor of another life is refused
	more     chan struct{} // closed at the next change
}

type entry struct {
	g    tickets.Grant
	ends time.Time // by this server's clock
	used bool
}

// Fail makes everything fail with err, until Fail(nil).
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	s.changed()
}

// Flush empties the server, as FLUSHALL or a failover to an empty one does.
func (s *Server) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries, s.log = nil, nil
	s.life++
	s.changed()
}

// Log returns a copy of the log.
func (s *Server) Log() []tickets.Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *Server) changed() {
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
}

// Node is one node's handle of a Server: a tickets.Store and a tickets.RevocationLog.
type Node struct {
	server *Server
	own    map[[32]byte]bool // what was put here, under server.mu
}

// Node returns another handle.
func (s *Server) Node() *Node { return &Node{server: s, own: make(map[[32]byte]bool)} }

var (
	_ tickets.Store         = (*Node)(nil)
	_ tickets.RevocationLog = (*Node)(nil)
)

func (n *Node) Put(_ context.Context, key tickets.Key, g tickets.Grant) error {
	s := n.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	id := key.ID()
	if s.entries[id] != nil {
		return errors.New("key is known")
	}
	if s.entries == nil {
		s.entries = make(map[[32]byte]*entry)
	}
	ends := time.Now().Add(g.ExpiresAt.Sub(g.MintedAt))
	if s.Fault == "believes the node's clock" {
		ends = g.ExpiresAt
	}
	s.entries[id] = &entry{g: g, ends: ends}
	n.own[id] = true
	return nil
}

func (n *Node) Take(_ context.Context, key tickets.Key) (tickets.Grant, error) {
	s := n.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return tickets.Grant{}, s.down
	}
	id := key.ID()
	e := s.entries[id]
	switch {
	case e == nil, s.Fault == "keeps tickets to the node" && !n.own[id]:
		return tickets.Grant{}, tickets.ErrUnknown
	case s.Fault == "every node has a winner" && !n.own[id]:
		n.own[id] = true
		return e.g, nil
	case e.used:
		return tickets.Grant{}, tickets.ErrUsed
	case time.Now().After(e.ends):
		return tickets.Grant{}, tickets.ErrExpired
	}
	if s.Fault == "looks, then takes" {
		s.mu.Unlock()
		time.Sleep(time.Microsecond)
		s.mu.Lock()
	}
	e.used = true
	return e.g, nil
}

func (n *Node) Append(_ context.Context, r tickets.Revocation) error {
	s := n.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	hashed, err := r.Hashed()
	switch {
	case s.Fault == "keeps no hash of a name":
	case err != nil:
		return err
	case s.Fault == "keeps the session's id":
		r.SessionHash, r.UserHash = hashed.SessionHash, hashed.UserHash
	default:
		r = hashed
	}
	switch s.Fault {
	case "keeps no hash of a name":
		r.SessionID, r.Provider, r.UserID = "", "", ""
	case "drops every fifth":
		if s.appended++; s.appended%5 == 0 {
			return nil
		}
	case "moves the time":
		r.At = r.At.Add(time.Second)
	case "forgets persons":
		r.UserHash = [32]byte{}
	}
	s.log = append(s.log, r)
	if s.Fault != "wakes nobody" {
		s.changed()
	}
	return nil
}

func (n *Node) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	s := n.server
	from, life, err := s.place(after)
	if err != nil {
		return nil, "", err
	}
	wait := heartbeat
	switch {
	case after == "" && s.Fault != "waits at the beginning":
		wait = 0
	case s.Fault == "has no heartbeat":
		wait = time.Hour
	}
	beat := time.NewTimer(wait)
	defer beat.Stop()
	for over := wait == 0; ; {
		rs, next, more, err := s.read(from, life, after)
		if err != nil || len(rs) > 0 || over {
			return rs, next, err
		}
		done := ctx.Done()
		if s.Fault == "does not end with its context" {
			done = nil
		}
		select {
		case <-more:
		case <-beat.C:
			over = true
		case <-done:
			return nil, "", ctx.Err()
		}
	}
}

// place returns where in the log a cursor is, and in which life of it.
func (s *Server) place(cursor string) (from, life int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return 0, 0, s.down
	}
	if cursor == "" {
		if s.Fault == "begins at the end" {
			from = len(s.log)
		}
		return from, s.life, nil
	}
	_, err = fmt.Sscanf(cursor, "%d-%d", &life, &from)
	if err != nil || from > len(s.log) || cursor != s.cursor(from) {
		if s.Fault == "takes any cursor" {
			return len(s.log), s.life, nil
		}
		return 0, 0, fmt.Errorf("cursor %q: %w", cursor, tickets.ErrGap)
	}
	return from, life, nil
}

// read returns what there is from a place on, and a channel that is closed when there may be more.
func (s *Server) read(
	from, life int, after string,
) ([]tickets.Revocation, string, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, "", nil, s.down
	}
	if life != s.life {
		return nil, "", nil, tickets.ErrGap
	}
	rs := slices.Clone(s.log[from:])
	switch {
	case s.Fault == "gives the first only" && len(rs) > 0:
		rs = rs[:1]
	case s.Fault == "another order from the beginning" && after == "":
		slices.Reverse(rs)
	}
	if s.more == nil {
		s.more = make(chan struct{})
	}
	return rs, s.cursor(len(s.log)), s.more, nil
}

func (s *Server) cursor(place int) string { return fmt.Sprintf("%d-%d", s.life, place) }
