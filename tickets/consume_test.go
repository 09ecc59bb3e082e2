package tickets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

func TestConsume_ErrorTexts(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	fresh := mustMint(t, i, tickets.Grant{})
	used := mustMint(t, i, tickets.Grant{})
	_, err := i.Consume(t.Context(), used)
	require.NoError(t, err)
	unknown := tickets.Ticket(strings.Repeat("Ab-_", 11)[:42] + "A")

	for name, row := range map[string]struct {
		ticket tickets.Ticket
		want   string
		kind   error
	}{
		"unknown": {unknown, "unknown ticket: Ab-_Ab-_", tickets.ErrUnknown},
		"used": {
			used, "unknown ticket: " + string(used)[:8], tickets.ErrUsed,
		},
		"empty": {"", "unknown ticket: ", tickets.ErrUnknown},
		"a hundred": {
			tickets.Ticket(strings.Repeat("a", 100)), "unknown ticket: aaaaaaaa",
			tickets.ErrUnknown,
		},
		"nope-never-minted": {
			"nope-never-minted", "unknown ticket: nope-nev", tickets.ErrUnknown,
		},
		"sixteen: 8 is half": {
			"0123456789abcdef", "unknown ticket: ", tickets.ErrUnknown,
		},
		"seventeen characters, longer": {
			"ü123456789abcdefg", "unknown ticket: ?1234567", tickets.ErrUnknown,
		},
		"sixteen characters, 32 bytes": {
			tickets.Ticket(strings.Repeat("ü", 16)), "unknown ticket: ", tickets.ErrUnknown,
		},
		"control characters": {
			tickets.Ticket("\x00\r\n\x1b[2J" + strings.Repeat("x", 40)), "unknown ticket: ????[2Jx",
			tickets.ErrUnknown,
		},
		"the ends of ASCII": {
			tickets.Ticket(" ~!}" + strings.Repeat("x", 40)), "unknown ticket:  ~!}xxxx",
			tickets.ErrUnknown,
		},
		"bidi, delete, not UTF-8": {
			tickets.Ticket("\u202e\u0085\x7f\xff\ufeffabc" + strings.Repeat("x", 40)),
			"unknown ticket: ?????abc", tickets.ErrUnknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.Consume(t.Context(), row.ticket)
			require.EqualError(t, err, row.want)
			require.ErrorIs(t, err, row.kind)
			require.ErrorIs(t, err, tickets.ErrInvalid)
			if len(row.ticket) > 16 {
				require.NotContains(
					t,
					fmt.Sprintf("%v %+v %#v", err, err, err),
					string(row.ticket)[:9],
				)
			}
		})
	}
	_, err = i.Consume(t.Context(), fresh)
	require.NoError(t, err)
}

// spy counts what reaches a store.
type spy struct {
	tickets.Store
	puts, takes atomic.Int32
	put, take   error
	ctx         context.Context
}

func (s *spy) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	s.puts.Add(1)
	if s.put != nil {
		return s.put
	}
	return s.Store.Put(ctx, key, g)
}

func (s *spy) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	s.takes.Add(1)
	s.ctx = ctx
	if s.take != nil {
		return tickets.Grant{SessionID: "leak"}, s.take
	}
	return s.Store.Take(ctx, key)
}

func TestConsume_MalformedTicketReachesNoStore(t *testing.T) {
	store := &spy{Store: tickets.NewMemoryStore(nil)}
	i := mustIssuer(t, store, nil)
	good := mustMint(t, i, tickets.Grant{UserID: "u1"})
	raw := string(good)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, raw[42])
	hostile := map[string]string{
		"empty":         "",
		"short":         raw[:42],
		"long":          raw + "A",
		"padded":        raw + "=",
		"padded inside": raw[:42] + "=",
		"NUL":           raw[:42] + "\x00",
		"CR LF":         raw[:41] + "\r\n",
		"LF":            raw[:42] + "\n",
		"LF added":      raw + "\n",
		"LF in 44":      raw[:20] + "\n" + raw[20:],
		"plus":          raw[:42] + "+",
		"slash":         "/" + raw[1:],
		"space":         " " + raw[1:],
		"not ASCII":     raw[:41] + "ü",
		"not UTF-8":     raw[:42] + "\xff",
		"hash":          raw[:42] + "#",
		"percent":       raw[:40] + "%26",
		"two":           raw + "&ticket=" + raw,
		"megabyte":      strings.Repeat(raw, 25000),
		// 43 characters are 258 bits, of which the last two must be zero (RFC 4648, section 3.5).
		"other trailing bits 1": raw[:42] + alphabet[last+1:last+2],
		"other trailing bits 2": raw[:42] + alphabet[last+2:last+3],
		"other trailing bits 3": raw[:42] + alphabet[last+3:last+4],
	}
	for name, value := range hostile {
		_, err := i.Consume(t.Context(), tickets.Ticket(value))
		assert.ErrorIs(t, err, tickets.ErrUnknown, name)
		assert.LessOrEqual(t, len(err.Error()), len("unknown ticket: ")+8, name)
	}
	assert.Zero(t, store.takes.Load())
	_, err := i.Consume(t.Context(), good)
	require.NoError(t, err)
}

func TestIssuer_StoreFails(t *testing.T) {
	down := errors.New("connection refused")
	store := &spy{Store: tickets.NewMemoryStore(nil)}
	i := mustIssuer(t, store, &tickets.IssuerOptions{MaxPerSession: 2})
	g := tickets.Grant{SessionID: "s1"}

	store.put = down
	for range 10 {
		ticket, err := i.Mint(t.Context(), g)
		require.ErrorIs(t, err, down)
		require.NotErrorIs(t, err, tickets.ErrInvalid)
		require.Empty(t, string(ticket))
	}
	store.put = nil
	ticket := mustMint(t, i, g)
	mustMint(t, i, g) // failed mints do not count
	_, err := i.Mint(t.Context(), g)
	require.ErrorIs(t, err, tickets.ErrTooMany)

	for _, fail := range []error{
		down, context.DeadlineExceeded, tickets.ErrFull, tickets.ErrTooMany,
	} {
		store.take = fail
		got, err := i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, fail)
		require.NotErrorIs(t, err, tickets.ErrInvalid)
		require.Zero(t, got, "a grant came with an error")
		holdsPart(t, err.Error(), ticket)
	}
	// A store may wrap what it says, and may not know the kind.
	for said, kind := range map[error]error{
		fmt.Errorf("redis: %w", tickets.ErrUsed):    tickets.ErrUsed,
		fmt.Errorf("redis: %w", tickets.ErrExpired): tickets.ErrExpired,
		tickets.ErrInvalid:                          tickets.ErrUnknown,
		tickets.ErrRevoked:                          tickets.ErrRevoked,
	} {
		store.take = said
		got, err := i.Consume(t.Context(), ticket)
		require.ErrorIs(t, err, kind)
		require.Zero(t, got)
	}
	store.take = nil
	_, err = i.Consume(t.Context(), ticket)
	require.NoError(t, err)
}

type ctxKey struct{}

func TestConsume_ContinuesWhenContextIsDone(t *testing.T) {
	store := &spy{Store: tickets.NewMemoryStore(nil)}
	i := mustIssuer(t, store, nil)
	ticket := mustMint(t, i, tickets.Grant{UserID: "u1"})
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "trace"), time.Hour)
	cancel()
	got, err := i.Consume(ctx, ticket)
	require.NoError(t, err)
	assert.Equal(t, "u1", got.UserID)
	assert.NoError(t, store.ctx.Err())
	_, deadline := store.ctx.Deadline()
	assert.False(t, deadline)
	assert.Equal(t, "trace", store.ctx.Value(ctxKey{}), "values stay")
}

func FuzzConsume(f *testing.F) {
	store := &spy{Store: tickets.NewMemoryStore(nil)}
	i := mustIssuer(f, store, nil)
	for _, seed := range []string{
		"", "A", strings.Repeat("A", 43), strings.Repeat("A", 42) + "B",
		strings.Repeat("A", 42) + "\n", strings.Repeat("\xff", 43), strings.Repeat("ü", 20),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		before := store.takes.Load()
		g, err := i.Consume(t.Context(), tickets.Ticket(value))
		if !errors.Is(err, tickets.ErrUnknown) || g != (tickets.Grant{}) {
			t.Fatalf("a ticket that was never minted: %v", err)
		}
		text := err.Error()
		hint, ok := strings.CutPrefix(text, "unknown ticket: ")
		if !ok || len(hint) > 8 ||
			strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("the text is %q", text)
		}
		if asked := store.takes.Load() > before; asked != spelled(value) {
			t.Fatalf("asked the store about %q: %v", value, asked)
		}
	})
}

// spelled says by hand what a ticket is: 42 characters of the alphabet, and one whose two lowest
// bits are zero.
func spelled(value string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for n := range len(value) {
		if strings.IndexByte(alphabet, value[n]) < 0 {
			return false
		}
	}
	return len(value) == 43 && strings.IndexByte(alphabet, value[42])%4 == 0
}

// slow is a store that answers late: the revocation happens in between.
type slow struct {
	tickets.Store
	between func()
}

func (s slow) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	g, err := s.Store.Take(ctx, key)
	s.between()
	return g, err
}

func TestConsume_RevokedWhileTheStoreAnswers(t *testing.T) {
	var i *tickets.Issuer
	i = mustIssuer(t, slow{tickets.NewMemoryStore(nil), func() {
		assert.NoError(t, i.Revoke(t.Context(), tickets.Revocation{SessionID: "s"}))
	}}, nil)
	_, err := i.Consume(t.Context(), mustMint(t, i, tickets.Grant{SessionID: "s"}))
	require.ErrorIs(t, err, tickets.ErrRevoked)
}

func TestConsumeKey_AnswersAsConsume(t *testing.T) {
	memory := tickets.NewMemoryStore(nil)
	for name, s := range map[string]tickets.Store{"memory": memory, "other": &spy{Store: memory}} {
		t.Run(name, func(t *testing.T) {
			i := mustIssuer(t, s, nil)
			for _, value := range []tickets.Ticket{
				"", "nope-never-minted", tickets.Ticket(strings.Repeat("A", 43)),
			} {
				_, err := i.ConsumeKey(t.Context(), value.Key())
				_, want := i.Consume(t.Context(), value)
				require.Equal(t, want, err)
			}
			_, err := i.ConsumeKey(t.Context(), tickets.Key{})
			require.ErrorIs(t, err, tickets.ErrUnknown)

			ticket := mustMint(t, i, tickets.Grant{UserID: "u1"})
			g, err := i.ConsumeKey(t.Context(), ticket.Key())
			require.NoError(t, err)
			require.Equal(t, "u1", g.UserID)
			_, err = i.ConsumeKey(t.Context(), ticket.Key())
			require.ErrorIs(t, err, tickets.ErrUsed)
			require.EqualError(t, err, "unknown ticket: "+string(ticket)[:8])
		})
	}
	store := &spy{Store: memory}
	i := mustIssuer(t, store, nil)
	long := strings.Repeat("A", 44)
	for _, value := range []string{"", "a", long[:42] + "B", long} {
		_, err := i.ConsumeKey(t.Context(), tickets.Ticket(value).Key())
		require.ErrorIs(t, err, tickets.ErrUnknown)
	}
	require.Zero(t, store.takes.Load(), "a malformed ticket reaches no store")
}
