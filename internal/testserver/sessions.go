package testserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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

// Sessions keeps who is signed in. Servers that share one know each other's people.
type Sessions interface {
	Put(ctx context.Context, s middleware.Session) error
	Get(ctx context.Context, id string) (middleware.Session, bool, error)
	Delete(ctx context.Context, id string) (existed bool, err error)
	All(ctx context.Context) ([]middleware.Session, error)
}

// memory keeps them in this process, so that a restart signs everybody out.
type memory struct {
	mu   sync.Mutex
	byID map[string]middleware.Session
}

func (m *memory) Put(_ context.Context, s middleware.Session) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[s.ID] = s
	return nil
}

func (m *memory) Get(_ context.Context, id string) (middleware.Session, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.byID[id]
	return s, ok, nil
}

func (m *memory) Delete(_ context.Context, id string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.byID[id]
	delete(m.byID, id)
	return ok, nil
}

func (m *memory) All(context.Context) ([]middleware.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.byID)), nil
}

// sessions is the identity of the application: a person who types a name is that
// person.
type sessions struct {
	ttl  time.Duration
	kept Sessions
}

// start begins a session of its own at every sign-in.
func (s *sessions) start(ctx context.Context, user string) (middleware.Session, error) {
	others, err := s.list(ctx)
	if err != nil {
		return middleware.Session{}, err
	}
	if len(others) >= maxSessions {
		return middleware.Session{}, errManySessions
	}
	now := time.Now()
	session := middleware.Session{
		ID:        rand.Text(),
		Provider:  provider,
		UserID:    user,
		StartedAt: now,
		ExpiresAt: now.Add(s.ttl),
	}
	return session, s.kept.Put(ctx, session)
}

// lookup is what the gate asks about a cookie.
func (s *sessions) lookup(ctx context.Context, id string) (*middleware.Session, error) {
	session, ok, err := s.kept.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, middleware.ErrNoSession
	}
	if !time.Now().Before(session.ExpiresAt) {
		return nil, middleware.ErrSessionExpired
	}
	return &session, nil
}

// end takes out the sessions that match and returns them.
func (s *sessions) end(ctx context.Context, match selection) ([]middleware.Session, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var ended []middleware.Session
	for _, session := range all {
		if !match(session) {
			continue
		}
		existed, err := s.kept.Delete(ctx, session.ID)
		if err != nil {
			return ended, err
		}
		if existed {
			ended = append(ended, session)
		}
	}
	return ended, nil
}

// list returns the sessions that have not expired, the oldest first.
func (s *sessions) list(ctx context.Context) ([]middleware.Session, error) {
	all, err := s.kept.All(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	live := make([]middleware.Session, 0, len(all))
	for _, session := range all {
		if now.Before(session.ExpiresAt) {
			live = append(live, session)
		} else if _, err := s.kept.Delete(ctx, session.ID); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(live, func(a, b middleware.Session) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return live, nil
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
