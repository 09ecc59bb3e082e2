package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2/memstore"
	"github.com/golang-jwt/jwt/v5"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/jellydator/ttlcache/v3"
	"github.com/maypok86/otter/v2"

	"github.com/ticketgate/ticketgate/tickets"
)

// held is what a rival keeps under a ticket. The rivals do less than ticketgate: no session has a
// limit, and none can be revoked. As they are commonly used, the ticket itself is the key. "hashed"
// means that its SHA-256 is the key, as in ticketgate's store, so that a reader of the store has no
// tickets.
type held struct {
	SessionID, Provider, UserID string
	StartedAt, SessionExpiresAt time.Time
}

// A keeper mints tickets, and takes each once.
type keeper struct {
	mint  func(g *tickets.Grant) string
	fill  func(g *tickets.Grant) string // mint, where that would take hours
	take  func(ticket string) (userID string, ok bool)
	close func()
}

// put is for filling a keeper.
func (k *keeper) put(g *tickets.Grant) {
	if k.fill != nil {
		k.fill(g)
		return
	}
	k.mint(g)
}

func (k *keeper) exchange(g *tickets.Grant) {
	if user, ok := k.take(k.mint(g)); !ok || user != g.UserID {
		panic("a good ticket was not taken")
	}
}

const (
	ours    = "ticketgate"
	goScan  = "the original's scan, in Go"
	ttlName = "ttlcache v3.4.1"
	lruName = "golang-lru v2.0.7, expirable"
	otterIs = "otter v2.4.0"
	scsName = "scs v2.9.0 memstore"
	jwtName = "golang-jwt v5.3.1 HS256, replay set"
	mapName = "bare map"
	hashed  = ", hashed"
)

// keepers by name; size is how many tickets there will be at most.
var keepers = map[string]func(size int, ttl time.Duration) *keeper{
	ours: newTicketgate, goScan: newScan, scsName: newMemstore, jwtName: newJWT, mapName: newMap,
	ttlName: newTTLCache(itself), lruName: newLRU(itself), otterIs: newOtter(itself),
	ttlName + hashed: newTTLCache(
		hash,
	), lruName + hashed: newLRU(hash), otterIs + hashed: newOtter(hash),
}

// rivals are those that forget unused tickets, and hashedRivals those of them with hashed keys.
var (
	rivals       = []string{goScan, ttlName, lruName, otterIs, scsName, jwtName}
	hashedRivals = []string{ttlName + hashed, lruName + hashed, otterIs + hashed}
)

func itself(ticket string) string          { return ticket }
func hash(ticket string) [sha256.Size]byte { return sha256.Sum256([]byte(ticket)) }

func newTicketgate(size int, ttl time.Duration) *keeper {
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: max(size, 1<<30)})
	issuer := must(
		tickets.NewIssuer(store, &tickets.IssuerOptions{TTL: ttl, MaxPerSession: 1 << 20}),
	)
	ctx := context.Background()
	return &keeper{
		mint: func(g *tickets.Grant) string { return string(must(issuer.Mint(ctx, *g))) },
		take: func(ticket string) (string, bool) {
			g, err := issuer.Consume(ctx, tickets.Ticket(ticket))
			return g.UserID, err == nil
		},
		close: func() { _ = issuer.Close() },
	}
}

// random is a ticket: 32 random bytes and their spelling.
func random() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	return base64.RawURLEncoding.EncodeToString(secret[:])
}

func heldOf(g *tickets.Grant) held {
	return held{g.SessionID, g.Provider, g.UserID, g.StartedAt, g.SessionExpiresAt}
}

type expiring struct {
	held
	expiresAt time.Time
}

// newMap forgets only used tickets: it is a floor, not a rival.
func newMap(_ int, ttl time.Duration) *keeper { return mapKeeper(ttl, false) }

// newScan is the Python original's algorithm: at every mint it looks through all tickets for those
// that have expired.
func newScan(_ int, ttl time.Duration) *keeper { return mapKeeper(ttl, true) }

func mapKeeper(ttl time.Duration, scan bool) *keeper {
	var mu sync.Mutex
	all := map[string]expiring{}
	mint := func(g *tickets.Grant, scan bool) string {
		ticket, now := random(), time.Now()
		mu.Lock()
		defer mu.Unlock()
		if scan {
			for other, e := range all {
				if e.expiresAt.Before(now) {
					delete(all, other)
				}
			}
		}
		all[ticket] = expiring{heldOf(g), now.Add(ttl)}
		return ticket
	}
	return &keeper{
		mint: func(g *tickets.Grant) string { return mint(g, scan) },
		fill: func(g *tickets.Grant) string { return mint(g, false) },
		take: func(ticket string) (string, bool) {
			mu.Lock()
			defer mu.Unlock()
			e, ok := all[ticket]
			delete(all, ticket)
			return e.UserID, ok && !e.expiresAt.Before(time.Now())
		},
		close: func() {},
	}
}

func newTTLCache[K comparable](key func(ticket string) K) func(int, time.Duration) *keeper {
	return func(_ int, ttl time.Duration) *keeper {
		c := ttlcache.New(ttlcache.WithTTL[K, held](ttl), ttlcache.WithDisableTouchOnHit[K, held]())
		go c.Start()
		return &keeper{
			mint: func(g *tickets.Grant) string {
				ticket := random()
				c.Set(key(ticket), heldOf(g), ttlcache.DefaultTTL)
				return ticket
			},
			take: func(ticket string) (string, bool) {
				item, ok := c.GetAndDelete(key(ticket))
				if !ok || item == nil || item.IsExpired() {
					return "", false
				}
				return item.Value().UserID, true
			},
			close: c.Stop,
		}
	}
}

func newLRU[K comparable](key func(ticket string) K) func(int, time.Duration) *keeper {
	return func(size int, ttl time.Duration) *keeper {
		c := expirable.NewLRU[K, held](size, nil, ttl)
		return &keeper{
			mint: func(g *tickets.Grant) string {
				ticket := random()
				c.Add(key(ticket), heldOf(g))
				return ticket
			},
			take: func(ticket string) (string, bool) {
				k := key(ticket)
				h, ok := c.Get(k)
				return h.UserID, c.Remove(k) && ok // of two that get it, one removes it
			},
			close: c.Purge, // its goroutine goes on for good, and holds it
		}
	}
}

func newOtter[K comparable](key func(ticket string) K) func(int, time.Duration) *keeper {
	return func(size int, ttl time.Duration) *keeper {
		c := must(
			otter.New(
				&otter.Options[K, held]{
					MaximumSize:      size,
					ExpiryCalculator: otter.ExpiryWriting[K, held](ttl),
				},
			),
		)
		return &keeper{
			mint: func(g *tickets.Grant) string {
				ticket := random()
				c.Set(key(ticket), heldOf(g))
				return ticket
			},
			take: func(ticket string) (string, bool) {
				h, ok := c.Invalidate(key(ticket))
				return h.UserID, ok
			},
			close: func() { c.StopAllGoroutines() },
		}
	}
}

// newMemstore is not safe against a race for a ticket: the store can find and delete, but does not
// say whether it was there to delete.
func newMemstore(_ int, ttl time.Duration) *keeper {
	m := memstore.NewWithCleanupInterval(time.Second)
	return &keeper{
		mint: func(g *tickets.Grant) string {
			ticket := random()
			held := must(json.Marshal(heldOf(g)))
			if err := m.Commit(ticket, held, time.Now().Add(ttl)); err != nil {
				panic(err)
			}
			return ticket
		},
		take: func(ticket string) (string, bool) {
			b, ok, _ := m.Find(ticket)
			_ = m.Delete(ticket)
			var h held
			ok = ok && json.Unmarshal(b, &h) == nil
			return h.UserID, ok
		},
		close: func() {}, // StopCleanup races with the goroutine that New starts
	}
}

type claims struct {
	Provider string `json:"provider"`
	User     string `json:"user"`
	jwt.RegisteredClaims
}

// newJWT keeps nothing of a ticket that was not used: the grant is in the ticket, for all to read.
func newJWT(_ int, ttl time.Duration) *keeper {
	key := []byte(random())
	var mu sync.Mutex
	var used, before map[string]struct{} // two halves, of which the older is dropped whole
	var turned time.Time
	replayed := func(id string) bool {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(turned) > ttl {
			used, before, turned = map[string]struct{}{}, used, now
		}
		_, old := before[id]
		_, again := used[id]
		used[id] = struct{}{}
		return old || again
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	return &keeper{
		mint: func(g *tickets.Grant) string {
			c := claims{g.Provider, g.UserID, jwt.RegisteredClaims{
				ID: random(), Subject: g.SessionID,
				ExpiresAt: jwt.NewNumericDate(time.Now().Add(ttl)),
			}}
			return must(jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(key))
		},
		take: func(ticket string) (string, bool) {
			var c claims
			_, err := parser.ParseWithClaims(
				ticket,
				&c,
				func(*jwt.Token) (any, error) { return key, nil },
			)
			return c.User, err == nil && !replayed(c.ID)
		},
		close: func() {},
	}
}

// grantsOf returns grants of so many sessions that none comes near its limit.
func grantsOf(n int) []tickets.Grant {
	now := time.Now()
	all := make([]tickets.Grant, n)
	for i := range all {
		all[i] = tickets.Grant{
			SessionID: fmt.Sprintf("%032d", i), Provider: "oidc", UserID: fmt.Sprintf("%016d", i),
			StartedAt: now, SessionExpiresAt: now.Add(24 * time.Hour),
		}
	}
	return all
}
