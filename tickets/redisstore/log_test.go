package redisstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

const logKey = "ticketgate:revocations"

// reasons calls Next once, and returns the reasons and the cursor.
func reasons(t *testing.T, s *redisstore.Store, after string) ([]string, string) {
	t.Helper()
	rs, next, err := s.Next(ctx, after)
	require.NoError(t, err)
	var got []string
	for _, r := range rs {
		got = append(got, r.Reason)
	}
	return got, next
}

func revoke(t *testing.T, s *redisstore.Store, reason string) {
	t.Helper()
	require.NoError(
		t,
		s.Append(ctx, tickets.Revocation{SessionID: "s1", Reason: reason, At: time.Now()}),
	)
}

// addOld writes what Append wrote in 1970.
func addOld(t *testing.T, client *redis.Client, id, reason string) {
	t.Helper()
	require.NoError(t, client.XAdd(ctx, &redis.XAddArgs{Stream: logKey, ID: id, Values: []string{
		"nonce", id, "reason", reason, "at", "1970-01-01T00:00:01Z", "session",
		fmt.Sprintf("%064x", 1),
	}}).Err())
}

// A reader of everything misses nothing when all of it is trimmed, however long ago that was.
func TestLog_Trim(t *testing.T) {
	client := newClient(t, newRedis(t).Addr)
	store := newStore(t, client, nil)
	require.NoError(t, client.Del(ctx, logKey).Err())
	for i, reason := range []string{"first", "second", "third"} {
		addOld(t, client, fmt.Sprint("1-", i+1), reason)
	}
	got, upToDate := reasons(t, store, "")
	require.Empty(t, got, "old entries are not in force again")
	require.Equal(
		t,
		int64(2),
		client.XLen(ctx, logKey).Val(),
		"the third, and that the log was opened",
	)

	revoke(t, store, "new")
	got, _ = reasons(t, store, upToDate)
	require.Equal(t, []string{"new"}, got)
	mark, _, _ := strings.Cut(upToDate, "/")
	_, _, err := store.Next(ctx, mark+"/1-1/first")
	require.ErrorIs(t, err, tickets.ErrGap, "who has read the first only has missed some")
}

func TestLog_IsReadInPages(t *testing.T) {
	store := newStore(t, newClient(t, newRedis(t).Addr), nil)
	_, cursor := reasons(t, store, "")
	var want []string
	for i := range 1100 { // two pages and some
		want = append(want, fmt.Sprint(i))
		revoke(t, store, want[i])
	}
	for _, after := range []string{cursor, ""} {
		got, next := reasons(t, store, after)
		require.Equal(t, want, got)
		got, _ = reasons(t, store, next)
		require.Empty(t, got)
	}
}

func TestNext_Gaps(t *testing.T) {
	r := newRedis(
		t,
		"--enable-debug-command",
		"yes",
		"--appendonly",
		"yes",
		"--appendfsync",
		"always",
	)
	client := newClient(t, r.Addr)
	do := func(args ...string) func() {
		return func() {
			_, err := r.Do(args...)
			require.NoError(t, err)
		}
	}
	for _, gap := range []struct {
		name string
		make func()
	}{
		{"promotion", do("DEBUG", "CHANGE-REPL-ID")},
		{"restart, nothing lost", func() {
			r.Kill()
			require.NoError(t, r.Start())
		}},
		{"flushed", do("FLUSHALL")},
		{"flushed and begun again", func() {
			do("FLUSHALL")()
			newStore(t, client, nil)
		}},
		{
			"the entry is gone",
			func() { require.NoError(t, client.XTrimMaxLen(ctx, logKey, 0).Err()) },
		},
		{"another entry of the same id", func() {
			last := client.XRevRangeN(ctx, logKey, "+", "-", 1).Val()[0].ID
			require.NoError(t, client.Del(ctx, logKey).Err())
			addOld(t, client, last, "other")
		}},
	} {
		t.Run(gap.name, func(t *testing.T) {
			store := newStore(t, client, nil)
			revoke(t, store, "one")
			_, cursor := reasons(t, store, "")
			gap.make()
			_, _, err := store.Next(ctx, cursor)
			require.ErrorIs(t, err, tickets.ErrGap)
			_, cursor = reasons(t, store, "") // which goes on from here
			revoke(t, store, "two")
			got, _ := reasons(t, store, cursor)
			require.Equal(t, []string{"two"}, got)
		})
	}
}

// An entry that cannot be read may be a revocation, so Next does not pass over it.
func TestNext_MalformedEntryIsAnError(t *testing.T) {
	client := newClient(t, newRedis(t).Addr)
	store := newStore(t, client, nil)
	_, cursor := reasons(t, store, "")
	for name, fields := range map[string][]string{
		"of nobody": {"nonce", "1", "reason", "x", "at", "1970-01-01T00:00:01Z"},
		"of two": {
			"nonce", "1", "session", fmt.Sprintf("%064x", 1), "user", fmt.Sprintf("%064x", 1),
		},
		"no time":    {"nonce", "1", "session", fmt.Sprintf("%064x", 1)},
		"short hash": {"nonce", "1", "user", "ff", "at", "1970-01-01T00:00:01Z"},
		"long hash": {
			"nonce", "1", "user", fmt.Sprintf("%066x", 1), "at", "1970-01-01T00:00:01Z",
		},
		"no hash":       {"nonce", "1", "user", "u1", "at", "1970-01-01T00:00:01Z"},
		"other's entry": {"job", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := client.XAdd(ctx, &redis.XAddArgs{Stream: logKey, Values: fields}).Result()
			require.NoError(t, err)
			_, _, err = store.Next(ctx, cursor)
			require.ErrorContains(t, err, "entry "+id)
			require.NotErrorIs(t, err, tickets.ErrGap)
			require.NoError(t, client.XDel(ctx, logKey, id).Err())
		})
	}
	require.Error(t, store.Append(ctx, tickets.Revocation{Reason: "nobody"}))
}
