package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestShareIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = tickets.DefaultTTL
		i := mustIssuer(t, nil, nil)
		g := tickets.Grant{SessionID: "s1", UserID: "u1"}
		for n := range 64 {
			ticket := mustMint(t, i, g)
			if n%2 == 0 { // used ones count
				_, err := i.Consume(t.Context(), ticket)
				require.NoError(t, err)
			}
		}
		refused := func(want time.Duration) {
			t.Helper()
			ticket, err := i.Mint(t.Context(), g)
			require.ErrorIs(t, err, tickets.ErrTooMany)
			require.NotErrorIs(t, err, tickets.ErrInvalid)
			require.Empty(t, string(ticket))
			var tooMany *tickets.TooManyError
			require.ErrorAs(t, err, &tooMany)
			require.GreaterOrEqual(t, tooMany.RetryAfter, want)
			require.LessOrEqual(t, tooMany.RetryAfter, want+time.Millisecond)
		}
		refused(ttl + 1)
		mustMint(t, i, tickets.Grant{SessionID: "s2"}) // another session's share is its own
		for range 200 {
			mustMint(t, i, tickets.Grant{UserID: "u1"}) // and without a session there is none
		}
		time.Sleep(ttl / 2)
		refused(ttl/2 + 1)
		time.Sleep(ttl / 2)
		refused(1) // at exactly TTL they still live
		time.Sleep(time.Millisecond)
		for range 64 {
			mustMint(t, i, g)
		}
		refused(ttl + 1)
	})
}

// A session's share is its own, however many sessions there are.
func TestShareAmongManySessions(t *testing.T) {
	i := mustIssuer(t, nil, &tickets.IssuerOptions{MaxPerSession: 2})
	for _, want := range []error{nil, nil, tickets.ErrTooMany} {
		for n := range 5000 {
			_, err := i.Mint(t.Context(), tickets.Grant{SessionID: fmt.Sprint("s", n)})
			require.ErrorIs(t, err, want)
		}
	}
}

// RetryAfter is no guess: a millisecond before it the session is refused, and at it it is not.
func TestRetryAfterIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, &tickets.IssuerOptions{TTL: 10 * time.Second, MaxPerSession: 3})
		g := tickets.Grant{SessionID: "s1"}
		mustMint(t, i, g)
		time.Sleep(4*time.Second + 123456)
		mustMint(t, i, g)
		time.Sleep(time.Second)
		mustMint(t, i, g)
		for range 5 {
			_, err := i.Mint(t.Context(), g)
			var tooMany *tickets.TooManyError
			require.ErrorAs(t, err, &tooMany)
			time.Sleep(tooMany.RetryAfter - time.Millisecond)
			_, err = i.Mint(t.Context(), g)
			require.ErrorIs(t, err, tickets.ErrTooMany)
			time.Sleep(time.Millisecond)
			mustMint(t, i, g)
		}
	})
}

// Against the plainest sliding window there is.
func TestShareAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			ttl := time.Duration(1+random.IntN(5000)) * time.Millisecond
			limit := 1 + random.IntN(5)
			down := errors.New("down")
			store := &spy{Store: tickets.NewMemoryStore(nil)}
			i := mustIssuer(t, store, &tickets.IssuerOptions{TTL: ttl, MaxPerSession: limit})
			window := map[string][]time.Time{}
			for range 1500 {
				session := fmt.Sprint(random.IntN(6))
				now := time.Now()
				alive, surely := 0, 0 // the second without those that may be a millisecond too old
				for _, at := range window[session] {
					if age := now.Sub(at); age <= ttl {
						alive++
						surely++
					} else if age < ttl+time.Millisecond {
						surely++
					}
				}
				store.put = nil
				if random.IntN(4) == 0 {
					store.put = down
				}
				_, err := i.Mint(t.Context(), tickets.Grant{SessionID: session})
				switch {
				case errors.Is(err, tickets.ErrTooMany):
					require.GreaterOrEqual(t, surely, limit, "refused, and the session had %d of %d", surely, limit)
				case errors.Is(err, down):
					require.Less(t, alive, limit)
				default:
					require.NoError(t, err)
					require.Less(t, alive, limit, "one too many")
					window[session] = append(window[session], now)
				}
				switch random.IntN(10) {
				case 0:
					time.Sleep(ttl)
				case 1:
					time.Sleep(time.Duration(random.Int64N(int64(3 * ttl))))
				case 2, 3, 4:
					time.Sleep(time.Duration(random.Int64N(int64(ttl / 3))))
				}
			}
		})
	}
}

// slowStore answers each Put after a while of its own.
type slowStore struct {
	tickets.Store
	random *rand.Rand
	ttl    time.Duration
}

var errSlow = errors.New("timeout")

func (s slowStore) Put(context.Context, tickets.Key, tickets.Grant) error {
	wait, fails := time.Duration(s.random.Int64N(int64(2*s.ttl))), s.random.IntN(2) == 0
	time.Sleep(wait)
	if fails {
		return errSlow
	}
	return nil
}

// Mints that hang for longer than a ticket lives, and half of which fail: while one hangs it holds
// a place, and when it has failed it never did.
func TestShareAgainstModelWithASlowStore(t *testing.T) {
	type attempt struct {
		at              time.Time
		failed, refused atomic.Bool
	}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			ttl := time.Duration(20+random.IntN(2000)) * time.Millisecond
			limit := 1 + random.IntN(6)
			i := mustIssuer(t, slowStore{tickets.NewMemoryStore(nil), random, ttl}, &tickets.IssuerOptions{TTL: ttl, MaxPerSession: limit})
			var all []*attempt
			for range 800 {
				now := time.Now()
				sure, possible := 0, 0 // the second with those that may be a millisecond too old
				for _, a := range all {
					if age := now.Sub(a.at); !a.failed.Load() && age <= ttl {
						sure++
						possible++
					} else if !a.failed.Load() && age < ttl+time.Millisecond {
						possible++
					}
				}
				a := &attempt{at: now}
				go func() {
					_, err := i.Mint(t.Context(), tickets.Grant{SessionID: "s"})
					a.refused.Store(errors.Is(err, tickets.ErrTooMany))
					a.failed.Store(err != nil)
				}()
				synctest.Wait() // it hangs, or was refused
				if a.refused.Load() {
					require.GreaterOrEqual(t, possible, limit, "refused with %d of %d", possible, limit)
				} else {
					require.Less(t, sure, limit, "one too many")
					all = append(all, a)
				}
				time.Sleep(time.Duration(random.Int64N(int64(ttl)/int64(limit) + 1)))
				synctest.Wait()
			}
			time.Sleep(2 * ttl)
		})
	}
}

func TestShareOfOneUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := mustIssuer(t, nil, nil)
		results := make(chan error, 500)
		for range cap(results) {
			go func() {
				_, err := i.Mint(t.Context(), tickets.Grant{SessionID: "s1"})
				results <- err
			}()
		}
		minted := 0
		for range cap(results) {
			if err := <-results; err == nil {
				minted++
			} else {
				assert.ErrorIs(t, err, tickets.ErrTooMany)
			}
		}
		assert.Equal(t, 64, minted)
	})
}
