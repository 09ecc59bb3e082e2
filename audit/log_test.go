package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func readAll(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// handler is a slog.Handler that is one function.
type handler func(ctx context.Context, r slog.Record) error

func (h handler) Enabled(context.Context, slog.Level) bool        { return false }
func (h handler) Handle(ctx context.Context, r slog.Record) error { return h(ctx, r) }
func (h handler) WithAttrs([]slog.Attr) slog.Handler              { panic("not asked") }
func (h handler) WithGroup(string) slog.Handler                   { panic("not asked") }

// asDefault makes h slog's default handler until the test ends.
func asDefault(t *testing.T, h slog.Handler) {
	t.Helper()
	was := slog.Default()
	slog.SetDefault(slog.New(h))
	t.Cleanup(func() { slog.SetDefault(was) })
}

type ctxKey struct{}

func TestNew_HandlerGetsEventAndPlainValues(t *testing.T) {
	var got slog.Record
	var gotCtx context.Context
	l := audit.New(handler(func(ctx context.Context, r slog.Record) error {
		gotCtx, got = ctx, r.Clone()
		return nil
	}))
	l.Record(context.WithValue(ctx, ctxKey{}, "passed on"), audit.TicketRejected,
		slog.String("reason", "used"), slog.String("token", "CANARY"),
		slog.Duration("d", time.Second),
		slog.Float64("seconds", 1.5), slog.String("url", "/ws?ticket=CANARY&a=b"),
		slog.String("reason", "again"),
		slog.String("event", "forged"), slog.String("ts", "forged"),
		slog.String("control", "a\nb\u202e"),
		slog.Any("err", errors.New("Bearer CANARY")), slog.Any("chan", make(chan int)),
		slog.Any("m", map[string]any{
			"a": 1, "password": "CANARY", "f": 1.5, "n": nil, "l": []any{true, "x"}}),
		slog.Group("g", slog.Int("in", 1), slog.String("secret", "CANARY")),
		slog.Group("", slog.Int("inlined", 1)),
		slog.Any("v", group{[]slog.Attr{slog.String("ticket", "CANARY"), slog.Int("a", 1)}}),
		slog.Any("bad", chain(-2)))

	assert.Equal(t, "passed on", gotCtx.Value(ctxKey{}))
	assert.Equal(t, "ws_ticket_rejected", got.Message)
	assert.Equal(t, slog.LevelWarn, got.Level)
	assert.WithinDuration(t, time.Now(), got.Time, time.Minute)
	want := []slog.Attr{
		slog.String("event", "ws_ticket_rejected"), slog.String("reason", "used"),
		slog.Duration("d", time.Second),
		slog.Float64("seconds", 1.5), slog.String("url", "/ws?ticket=***&a=b"),
		slog.String("control", "a\nb\u202e"),
		slog.String("err", "Bearer ***"), slog.String("chan", "!ERROR"),
		slog.Group("m", slog.Int("a", 1), slog.Float64("f", 1.5),
			slog.Any("l", []any{true, "x"}), slog.Any("n", nil)),
		slog.Group("g", slog.Int("in", 1)), slog.Int("inlined", 1),
		slog.Group("v", slog.Int("a", 1)), slog.String("bad", "!ERROR"),
	}
	i := 0
	got.Attrs(func(a slog.Attr) bool {
		if assert.Less(t, i, len(want)) {
			assert.Equal(t, want[i].Key, a.Key)
			assert.Equal(t, want[i].Value.Kind(), a.Value.Kind(), a.Key)
			assert.Equal(t, want[i].Value.Resolve().Any(), a.Value.Resolve().Any(), a.Key)
		}
		i++
		return true
	})
	assert.Equal(t, len(want), i)
	assert.Equal(t, audit.Stats{Written: 1}, l.Stats())

	l.Record(ctx, audit.TicketMinted)
	assert.Equal(t, slog.LevelInfo, got.Level)
}

func TestNew_HandlerGetsAtMostALine(t *testing.T) {
	var out bytes.Buffer
	l := audit.New(slog.NewJSONHandler(&out, nil))
	l.Record(ctx, "e", slog.String("v", strings.Repeat("x", 10<<20)), slog.String("b", "kept"))
	var got map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	assert.Less(t, out.Len(), 64<<10)
	assert.Equal(t, true, got["truncated"])
	assert.Equal(t, "kept", got["b"])
}

func TestNew_HandlerGetsNoSecrets(t *testing.T) {
	for _, v := range secretsInside {
		var out bytes.Buffer
		l := audit.New(slog.NewJSONHandler(&out, nil))
		attrs := []slog.Attr{slog.String("s", v), slog.Any("e", errors.New(v)), slog.String(v, v),
			slog.Any("l", []any{v})}
		for _, name := range secretNames {
			attrs = append(attrs, slog.String(name, "CANARY"),
				slog.Group("g"+name, slog.String(name, "CANARY")))
		}
		l.Record(ctx, audit.Event(v), attrs...)
		assert.NotContains(t, out.String(), "CANARY", v)
		assert.Equal(t, audit.Stats{Written: 1}, l.Stats())
	}
}

func TestLog_NilRecordsToSlogDefault(t *testing.T) {
	var out bytes.Buffer
	asDefault(t, slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))
	var l *audit.Log
	l.Record(ctx, audit.LoginSuccess, slog.String("user_id", "u1"), slog.String("token", "CANARY"))
	audit.New(nil).Record(ctx, audit.Logout)
	assert.NoError(t, l.Close())
	assert.Positive(t, l.Stats().Written)
	lines := strings.Split(out.String(), "\n")
	require.Len(t, lines, 3)
	assert.Contains(t, lines[0], `"msg":"login_success","event":"login_success","user_id":"u1"}`)
	assert.Contains(t, lines[1], `"event":"logout"`)
}

func TestNew_DiscardHandlerIsNotCalled(t *testing.T) {
	l := audit.New(slog.DiscardHandler)
	attr := slog.Any("v", chain(-2)) // would panic, were it asked
	allocs := testing.AllocsPerRun(100, func() {
		l.Record(ctx, audit.UpgradeRefused, attr, slog.String("reason", "origin"))
	})
	assert.LessOrEqual(t, allocs, 1.0, "the attributes")
	assert.EqualValues(t, 101, l.Stats().Written)
}

func TestRecord_FailureWarnsOnceAMinute(t *testing.T) {
	for name, fails := range map[string]handler{
		"error": func(context.Context, slog.Record) error {
			return errors.New("disk on fire, Bearer CANARY")
		},
		"panic": func(context.Context, slog.Record) error { panic("disk on fire, Bearer CANARY") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				asDefault(t, slog.NewJSONHandler(&out, nil))
				l := audit.New(fails)
				for range 10 {
					l.Record(ctx, audit.LoginFailure)
				}
				assert.Equal(t, 1, strings.Count(out.String(), "\n"))
				assert.Contains(t, out.String(), `"level":"WARN"`)
				assert.Contains(t, out.String(), "disk on fire")
				assert.NotContains(t, out.String(), "CANARY")

				time.Sleep(time.Minute - 1)
				l.Record(ctx, audit.LoginFailure)
				assert.Equal(t, 1, strings.Count(out.String(), "\n"))
				time.Sleep(1 * time.Nanosecond)
				l.Record(ctx, audit.LoginFailure)
				assert.Equal(t, 2, strings.Count(out.String(), "\n"))
				assert.Contains(t, out.String(), `"failed":12`)
				assert.Equal(t, audit.Stats{Failed: 12}, l.Stats())
			})
		})
	}
}

// The default logger may be the cause, or may lead back to the log.
func TestRecord_FaultyDefaultLoggerIsHarmless(t *testing.T) {
	failing := handler(func(context.Context, slog.Record) error { return errors.New("full") })
	t.Run("panics", func(t *testing.T) {
		asDefault(t, enabled{handler(func(context.Context, slog.Record) error {
			panic("no logger")
		})})
		l := audit.New(failing)
		l.Record(ctx, audit.Logout)
		assert.Equal(t, audit.Stats{Failed: 1}, l.Stats())
	})
	t.Run("blocks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			asDefault(t, enabled{handler(func(context.Context, slog.Record) error {
				<-release
				return nil
			})})
			l := audit.New(failing)
			for range 5 {
				l.Record(ctx, audit.Logout)
				time.Sleep(2 * time.Minute)
			}
			assert.Equal(t, audit.Stats{Failed: 5}, l.Stats())
			close(release)
		})
	})
	t.Run("calls the log", func(t *testing.T) {
		var l *audit.Log
		calls := 0
		asDefault(t, enabled{handler(func(context.Context, slog.Record) error {
			calls++
			l.Record(ctx, audit.Logout)
			return nil
		})})
		l = audit.New(failing)
		l.Record(ctx, audit.Logout)
		assert.Equal(t, 1, calls)
		assert.Equal(t, audit.Stats{Failed: 2}, l.Stats())
	})
	t.Run("a file's log too", func(t *testing.T) {
		var l *audit.Log
		asDefault(t, enabled{handler(func(context.Context, slog.Record) error {
			l.Record(ctx, audit.Logout)
			return l.Close()
		})})
		l, _ = open(t, nil)
		require.NoError(t, l.Close())
		l.Record(ctx, audit.Logout)
		assert.Equal(t, audit.Stats{Failed: 2}, l.Stats())
	})
	t.Run("a handler that records without end", func(t *testing.T) {
		asDefault(t, slog.DiscardHandler)
		var l *audit.Log
		l = audit.New(handler(func(ctx context.Context, r slog.Record) error {
			l.Record(ctx, audit.Logout)
			return nil
		}))
		l.Record(ctx, audit.Logout)
		assert.EqualValues(t, 1, l.Stats().Failed)
	})
}

// enabled is a handler that slog.Logger calls.
type enabled struct{ slog.Handler }

func (enabled) Enabled(context.Context, slog.Level) bool { return true }

func TestRecord_Concurrent(t *testing.T) {
	l, path := open(t, nil)
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 200 {
				l.Record(ctx, audit.SocketOpened, slog.Int("w", w), slog.Int("i", i),
					slog.Any("e", errors.New("x")))
			}
		})
	}
	wg.Wait()
	lines := strings.SplitAfter(readAll(t, path), "\n")
	require.Len(t, lines, 4001)
	seen := map[[2]int]bool{}
	for _, line := range lines[:4000] {
		var r struct{ W, I int }
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		seen[[2]int{r.W, r.I}] = true
	}
	assert.Len(t, seen, 4000)
	assert.Equal(t, audit.Stats{Written: 4000}, l.Stats())
}

// A value's method may record an event itself, as one that loads lazily does.
func TestRecord_ValueMayRecord(t *testing.T) {
	l, path := open(t, nil)
	l.Record(ctx, "outer", slog.Any("v", recorder{l}))
	assert.Equal(t, 2, strings.Count(readAll(t, path), "\n"))
}

type recorder struct{ l *audit.Log }

func (r recorder) LogValue() slog.Value {
	r.l.Record(ctx, "inner")
	return slog.IntValue(1)
}
