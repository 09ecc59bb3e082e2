package model

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// number is what an environment variable says, or else byDefault.
func number(t *testing.T, name string, byDefault int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

const (
	goroutines = 8
	round      = 20_000 // calls, after which the history is checked
	perPerson  = 100    // of them
)

// history makes calls at once until there were so many, and returns what is wrong with them.
func history(w *world, calls int) string {
	for made := 0; made < calls; made += round {
		people := make([]*person, round/perPerson)
		for i := range people {
			people[i] = &person{name: fmt.Sprint("person ", made+i)}
			people[i].begin(w, 0)
			people[i].begin(w, time.Duration(1+mathrand.N(40))*time.Millisecond)
			people[i].begin(w, 0)
		}
		var next atomic.Int64
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				for n := next.Add(1); n <= round; n = next.Add(1) {
					// Neighbours in time are of one person, so that they meet.
					w.any(people[(int(n)/(perPerson/2)+mathrand.N(2))%len(people)])
				}
			})
		}
		wg.Wait()
		if wrong := w.explain(people...); wrong != "" {
			return wrong
		}
	}
	return ""
}

// any makes a call for p.
func (w *world) any(p *person) {
	p.mu.Lock()
	minted, sessions := len(p.tickets), len(p.sessions)
	p.mu.Unlock()
	what := mathrand.N(100)
	switch {
	case what < 1:
		w.revoke(p, mathrand.N(sessions+1)-1)
	case what < 3:
		var secret [32]byte
		rand.Read(secret[:])
		w.guess(tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:])))
	case minted == 0, what < 40 && minted < maxTickets-goroutines:
		w.mint(p, mathrand.N(sessions))
	case what < 80:
		w.consume(p, max(0, minted-1-mathrand.N(3))) // a new one, which others want as well
	default:
		w.consume(p, mathrand.N(minted))
	}
}

// Goroutines mint, consume and revoke at once, while tickets expire and sessions end. There is an
// order of their calls that explains all answers. MODEL_CALLS is the number of calls.
func TestHistory(t *testing.T) {
	calls := number(t, "MODEL_CALLS", 100_000)
	w, err := newWorld(memory(), 20*time.Millisecond)
	require.NoError(t, err)
	defer w.issuer.Close()
	began := time.Now()
	wrong := history(w, calls)
	t.Logf("%s; %v with the check", w.counts(), time.Since(began).Round(time.Millisecond))
	require.Empty(t, wrong)
	for outcome, n := range w.seen {
		assert.NotZero(t, n, "nothing was %s: nothing was checked", outcomes[outcome])
	}
}

func TestBrokenHistory(t *testing.T) {
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			store := memory()
			if b.store != nil {
				store = b.store(store)
			}
			w, err := newWorld(store, 20*time.Millisecond)
			require.NoError(t, err)
			defer w.issuer.Close()
			w.forget = b.forget
			require.NotEmpty(t, history(w, 5*round), "nobody noticed: %s", w.counts())
		})
	}
}

// A hundred goroutines mint and want each other's tickets: each is accepted once. MODEL_TICKETS is
// how many are minted.
func TestEachTicketOnce(t *testing.T) {
	total := number(t, "MODEL_TICKETS", 50_000)
	store := tickets.NewMemoryStore(&tickets.MemoryOptions{MaxOutstanding: 1 << 24})
	issuer, err := tickets.NewIssuer(store, nil)
	require.NoError(t, err)
	defer issuer.Close()
	type shared struct {
		ticket tickets.Ticket
		user   string
		wins   atomic.Int32
	}
	var slots [256]atomic.Pointer[shared]
	var next, wins, losses, twice, odd atomic.Int64
	want := func(s *shared) {
		switch g, err := issuer.Consume(t.Context(), s.ticket); {
		case err == nil:
			wins.Add(1)
			if s.wins.Add(1) != 1 {
				twice.Add(1)
			}
			if g.UserID != s.user {
				odd.Add(1)
			}
		case errors.Is(err, tickets.ErrUsed):
			losses.Add(1)
		default:
			odd.Add(1)
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	for g := range 100 {
		wg.Go(func() {
			user := fmt.Sprint("user ", g)
			for n := 0; next.Add(1) <= int64(total); n++ {
				grant := tickets.Grant{
					SessionID: fmt.Sprint(user, "/", n/50),
					Provider:  "test",
					UserID:    user,
				}
				ticket, err := issuer.Mint(t.Context(), grant)
				if err != nil {
					odd.Add(1)
					return
				}
				s := &shared{ticket: ticket, user: user}
				slots[mathrand.N(len(slots))].Store(s)
				if other := slots[mathrand.N(len(slots))].Load(); other != nil {
					want(other)
				}
				want(s)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf(
		"%d tickets in %v: %d accepted, %d refused; %d MB of heap from the system",
		total,
		took.Round(time.Millisecond),
		wins.Load(),
		losses.Load(),
		m.HeapSys>>20,
	)
	assert.Zero(t, twice.Load(), "accepted twice")
	assert.Zero(t, odd.Load(), "neither accepted nor used")
	assert.EqualValues(t, total, wins.Load(), "accepted")
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
