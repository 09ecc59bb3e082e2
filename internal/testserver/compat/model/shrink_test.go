package model

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/ticketgate/ticketgate/tickets"
)

const lifetime = 30 * time.Second

// lives draws what may happen to two people, one thing after another and several at once, while
// time passes; rapid makes it short where it went wrong. It must be called in a bubble: there time
// stands still until everybody waits.
func lives(newStore func() tickets.Store, forget func() func() bool, atOnce bool) func(*rapid.T) {
	return func(t *rapid.T) {
		w, err := newWorld(newStore(), lifetime)
		require.NoError(t, err)
		defer w.issuer.Close()
		if forget != nil {
			w.forget = forget()
		}
		people := []*person{{name: "ann"}, {name: "bob"}}
		for _, p := range people {
			p.begin(w, 0)
		}
		// draw returns one call, decided but not made.
		draw := func(t *rapid.T) func() {
			p := people[rapid.IntRange(0, 1).Draw(t, "person")]
			switch what := rapid.IntRange(0, 9).Draw(t, "call"); {
			case what < 4 && len(p.tickets) > 0:
				n := rapid.IntRange(0, len(p.tickets)-1).Draw(t, "ticket")
				return func() { w.consume(p, n) }
			case what == 8:
				n := rapid.IntRange(-1, len(p.sessions)-1).Draw(t, "revoked")
				return func() { w.revoke(p, n) }
			case what == 9:
				value := strings.Repeat(
					"A",
					42,
				) + rapid.StringMatching(`[AEIMQUYcgkosw048]`).
					Draw(t, "guess")
				return func() { w.guess(tickets.Ticket(value)) }
			default:
				n := rapid.IntRange(0, len(p.sessions)-1).Draw(t, "session")
				return func() { w.mint(p, n) }
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"call": func(t *rapid.T) {
				if full(people) {
					t.Skip()
				}
				draw(t)()
			},
			"calls at once": func(t *rapid.T) {
				if !atOnce || full(people) {
					t.Skip()
				}
				var wg sync.WaitGroup
				var calls []func()
				for range rapid.IntRange(2, 6).Draw(t, "calls") {
					calls = append(calls, draw(t))
				}
				for _, call := range calls {
					wg.Go(call)
				}
				wg.Wait()
			},
			"begin": func(t *rapid.T) {
				if full(people) {
					t.Skip()
				}
				people[rapid.IntRange(0, 1).Draw(t, "person")].begin(
					w,
					time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds"))*time.Second,
				)
			},
			"wait": func(t *rapid.T) {
				time.Sleep(
					rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second,
						2*time.Second + 1, 10 * time.Second, lifetime - 1, lifetime, lifetime + 1}).
						Draw(t, "for"),
				)
			},
			"": func(t *rapid.T) {
				if wrong := w.explain(people...); wrong != "" {
					t.Fatal(wrong)
				}
			},
		})
	}
}

func full(people []*person) bool {
	for _, p := range people {
		if len(p.tickets) > maxTickets-8 || len(p.sessions) > maxTickets-8 {
			return true
		}
	}
	return false
}

func memory() tickets.Store { return tickets.NewMemoryStore(nil) }

// MODEL_LIVES is how many lives are led.
func TestLives(t *testing.T) {
	rapidFlags(t)
	const atOnce = 500 // in one bubble: rapid stops after a day, and a life has many minutes
	for left := number(t, "MODEL_LIVES", 300); left > 0; left -= atOnce {
		require.NoError(t, flag.Set("rapid.checks", strconv.Itoa(min(left, atOnce))))
		synctest.Test(t, func(t *testing.T) {
			tape := check(lives(memory, nil, true))
			require.False(t, tape.failed, tape.text.String())
			require.Contains(
				t,
				tape.text.String(),
				fmt.Sprintf("passed %d tests", min(left, atOnce)),
			)
		})
	}
}

// What breaks a promise is found, and made short.
func TestBrokenLives(t *testing.T) {
	rapidFlags(t)
	require.NoError(t, flag.Set("rapid.checks", "500")) // it ends with the first that fails
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memory
				if b.store != nil {
					store = func() tickets.Store { return b.store(memory()) }
				}
				var forget func() func() bool
				if b.forget != nil {
					forget = func() func() bool { return every(1) }
				}
				// One call after another, so that what went wrong does so every time.
				tape := check(lives(store, forget, false))
				require.True(t, tape.failed, "nobody noticed")
				calls := strings.Count(tape.text.String(), "draw call:")
				require.LessOrEqual(t, calls, 20, "shrunk to\n%s", tape.text.String())
				t.Logf("noticed, and shrunk to %d calls", calls)
			})
		})
	}
}

// rapidFlags keeps rapid from writing files, since what it says is enough, and gives it time to
// shrink: it looks at the bubble's clock, which every try moves on by minutes.
func rapidFlags(t *testing.T) {
	t.Helper()
	require.NoError(t, flag.Set("rapid.nofailfile", "true"))
	require.NoError(t, flag.Set("rapid.checks", "100"))
	require.NoError(t, flag.Set("rapid.shrinktime", "10000h"))
}

// check runs rapid's check in a bubble, where a test has no deadline for rapid to read.
func check(property func(*rapid.T)) (t *tape) {
	t = new(tape)
	defer func() {
		if v := recover(); v != nil && v != any(t) {
			panic(v)
		}
	}()
	rapid.Check(t, property)
	return t
}

// tape keeps what a check says, and that it failed.
type tape struct {
	failed bool
	text   strings.Builder
}

func (t *tape) Helper()                           {}
func (t *tape) Name() string                      { return "check" }
func (t *tape) Logf(format string, args ...any)   { fmt.Fprintf(&t.text, format+"\n", args...) }
func (t *tape) Log(args ...any)                   { fmt.Fprintln(&t.text, args...) }
func (t *tape) Errorf(format string, args ...any) { t.Logf(format, args...); t.Fail() }
func (t *tape) Error(args ...any)                 { t.Log(args...); t.Fail() }
func (t *tape) Fatalf(format string, args ...any) { t.Logf(format, args...); t.FailNow() }
func (t *tape) Fatal(args ...any)                 { t.Log(args...); t.FailNow() }
func (t *tape) Skipf(format string, args ...any)  { t.Fatalf(format, args...) }
func (t *tape) Skip(args ...any)                  { t.Fatal(args...) }
func (t *tape) SkipNow()                          { t.FailNow() }
func (t *tape) Fail()                             { t.failed = true }
func (t *tape) FailNow()                          { t.failed = true; panic(t) }
func (t *tape) Failed() bool                      { return t.failed }
