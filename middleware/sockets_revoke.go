package middleware

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"weak"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

// follower ends the sockets of an issuer's tickets when they are revoked, and
// writes the revocation's one line: there may be several guards, each with
// Sockets of its own, but a revocation takes effect once.
type follower struct {
	mu      sync.Mutex
	sockets []*Sockets
	logs    []*audit.Log
}

// followers has the follower of each issuer that a guard was made for, for as
// long as the issuer is there.
var followers = struct {
	sync.Mutex
	of map[weak.Pointer[tickets.Issuer]]*follower
}{of: make(map[weak.Pointer[tickets.Issuer]]*follower)}

// follow makes issuer's revocations end the sockets of s, and be recorded in
// log. A second time for the same ones does nothing.
func (s *Sockets) follow(issuer *tickets.Issuer, log *audit.Log) {
	key := weak.Make(issuer)
	followers.Lock()
	f := followers.of[key]
	if f == nil {
		f = &follower{}
		followers.of[key] = f
		runtime.AddCleanup(issuer, func(key weak.Pointer[tickets.Issuer]) {
			followers.Lock()
			delete(followers.of, key)
			followers.Unlock()
		}, key)
		issuer.OnRevoke(f.revoked)
		issuer.OnGap(func(err error) { f.missed(key.Value(), err) })
	}
	followers.Unlock()

	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.sockets, s) {
		f.sockets = append(f.sockets, s)
	}
	if !slices.Contains(f.logs, log) {
		f.logs = append(f.logs, log)
	}
}

func (f *follower) revoked(r tickets.Revocation) {
	f.mu.Lock()
	sockets, logs := slices.Clone(f.sockets), slices.Clone(f.logs)
	f.mu.Unlock()
	n := 0
	for _, s := range sockets {
		ks := s.covered(r)
		if len(ks) > 0 && r.SessionHash == noHash { // heard from another node, which tells no names
			r.Provider, r.UserID = ks[0].session.Provider, ks[0].session.UserID
		}
		n += s.end(ks, causeRevoked)
	}
	attrs := make([]slog.Attr, 0, 4)
	switch {
	case r.SessionHash != noHash:
		attrs = append(attrs, slog.String("session", shortHash(r.SessionHash[:])))
	case r.UserID != "":
		attrs = append(attrs, slog.String("provider", r.Provider), slog.String("user_id", r.UserID))
	default:
		attrs = append(attrs, slog.String("user", shortHash(r.UserHash[:])))
	}
	attrs = append(attrs, slog.String("reason", r.Reason), slog.Int("sockets", n))
	for _, log := range logs {
		log.Record(context.Background(), audit.Revoke, attrs...)
	}
}

// missed does what can be done about revocations that issuer may have missed.
func (f *follower) missed(issuer *tickets.Issuer, err error) {
	f.mu.Lock()
	sockets := slices.Clone(f.sockets)
	f.mu.Unlock()
	for _, s := range sockets {
		if errors.Is(err, tickets.ErrStale) {
			s.end(s.ofIssuer(issuer), causeStale)
		} else {
			s.recheck(issuer)
		}
	}
}

var noHash [sha256.Size]byte

// covered returns the sockets that r ends.
func (s *Sockets) covered(r tickets.Revocation) []*socket {
	var ks []*socket
	if r.SessionHash != noHash {
		ks = s.ofSession(sessionHash(r.SessionHash[:]))
	} else {
		ks = s.ofUser(userHash(r.UserHash[:]))
	}
	return slices.DeleteFunc(ks, func(k *socket) bool { return !r.Covers(k.grant()) })
}
