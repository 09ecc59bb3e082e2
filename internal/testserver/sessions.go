package testserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ticketgate/ticketgate/middleware"
)

const (
	cookieName  = "ticketgate_demo"
	provider    = "demo"
	maxSessions = 1000
	maxName     = 64 // characters
)

var errManySessions = errors.New("too many people are signed in")

// sessions is the identity of the application: whoever says a name is that
// person. Sessions live in memory, so a restart signs everybody out.
type sessions struct {
	ttl time.Duration

	mu   sync.Mutex
	byID map[string]middleware.Session
}

func newSessions(ttl time.Duration) *sessions {
	return &sessions{ttl: ttl, byID: make(map[string]middleware.Session)}
}

// start begins a session of its own at every sign-in.
func (s *sessions) start(user string) (middleware.Session, error) {
	now := time.Now()
	session := middleware.Session{
		ID:        rand.Text(),
		Provider:  provider,
		UserID:    user,
		StartedAt: now,
		ExpiresAt: now.Add(s.ttl),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxSessions {
		s.forgetExpired(now)
	}
	if len(s.byID) >= maxSessions {
		return middleware.Session{}, errManySessions
	}
	s.byID[session.ID] = session
	return session, nil
}

func (s *sessions) forgetExpired(now time.Time) {
	for id, session := range s.byID {
		if !now.Before(session.ExpiresAt) {
			delete(s.byID, id)
		}
	}
}

// lookup is what the gate asks about a cookie.
func (s *sessions) lookup(_ context.Context, id string) (*middleware.Session, error) {
	s.mu.Lock()
	session, ok := s.byID[id]
	s.mu.Unlock()
	if !ok {
		return nil, middleware.ErrNoSession
	}
	if !time.Now().Before(session.ExpiresAt) {
		return nil, middleware.ErrSessionExpired
	}
	return &session, nil
}

// end takes out the sessions that match and returns them.
func (s *sessions) end(match selection) []middleware.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ended []middleware.Session
	for id, session := range s.byID {
		if match(session) {
			ended = append(ended, session)
			delete(s.byID, id)
		}
	}
	return ended
}

// list returns the sessions that have not expired, the oldest first.
func (s *sessions) list() []middleware.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetExpired(time.Now())
	all := make([]middleware.Session, 0, len(s.byID))
	for _, session := range s.byID {
		all = append(all, session)
	}
	slices.SortFunc(all, func(a, b middleware.Session) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// shown is a session's id as the audit writes it: it joins lines and rows, and
// opens nothing.
func shown(sessionID string) string {
	sum := sha256.Sum256([]byte(sessionID))
	return hex.EncodeToString(sum[:6])
}

// name returns what somebody calls themselves, or what is wrong with it.
func name(raw string) (string, error) {
	user := strings.TrimSpace(raw)
	switch {
	case user == "":
		return "", errors.New("type a name: any will do")
	case !utf8.ValidString(user):
		return "", errors.New("that name is not UTF-8")
	case utf8.RuneCountInString(user) > maxName:
		return "", fmt.Errorf("that name is longer than %d characters", maxName)
	case strings.ContainsFunc(user, invisible):
		return "", errors.New("that name has characters that cannot be seen")
	}
	return user, nil
}

// invisible spares the joiners, which scripts and emoji need.
func invisible(r rune) bool {
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) && r != '\u200c' && r != '\u200d'
}
