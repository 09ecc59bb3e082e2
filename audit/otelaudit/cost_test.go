package otelaudit_test

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/audit/otelaudit"
)

// An opened socket's line has the most fields of those that come often.
var opened = []slog.Attr{
	slog.String("provider", "oidc"), slog.String("user_id", "u1"),
	slog.String("ip", "203.0.113.9"), slog.String("path", "/ws/room/7"),
	slog.String("ticket_id", "c0ffee123456"), slog.String("socket_id", "0123456789abcdef"),
	slog.String("session", "0123456789ab"),
}

// costs are events with as many fields as they have.
var costs = []struct {
	event audit.Event
	attrs []slog.Attr
}{
	{audit.TicketMinted, opened[:4]},
	{audit.SocketOpened, opened},
	{audit.SocketClosed, append(opened[:7:7], slog.String("reason", "closed"),
		slog.Int("close_code", 1000), slog.Float64("seconds", 61.5))},
}

func openFile(tb testing.TB) *audit.Log {
	tb.Helper()
	file, err := audit.OpenFile(filepath.Join(tb.TempDir(), "auth.log"), nil)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, file.Close()) })
	return file
}

func TestHandler_AllocatesNothing(t *testing.T) {
	h, _ := newHandler(t, otelaudit.Options{})
	record := func(event audit.Event, attrs []slog.Attr) {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, string(event), 0)
		r.AddAttrs(attrs...)
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = h.Handle(ctx, r) }), event)
	}
	for _, cost := range costs {
		record(cost.event, cost.attrs)
	}
	record(audit.TicketRejected, []slog.Attr{slog.String("reason", "used")})
}

// sinks are a file alone, and a file with metrics beside it.
func sinks(tb testing.TB) (alone, both *audit.Log) {
	tb.Helper()
	file := openFile(tb)
	h, _ := newHandler(tb, otelaudit.Options{})
	return openFile(tb), audit.New(slog.NewMultiHandler(file.Handler(), h))
}

// BenchmarkRecord compares the sinks: an event with both takes at most twice the
// time of the file alone.
func BenchmarkRecord(b *testing.B) {
	for _, cost := range costs {
		alone, both := sinks(b)
		h, _ := newHandler(b, otelaudit.Options{})
		for _, sink := range []struct {
			name string
			log  *audit.Log
		}{
			{"file", alone},
			{"file_and_metrics", both},
			{"metrics", audit.New(h)},
		} {
			b.Run(string(cost.event)+"/"+sink.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink.log.Record(ctx, cost.event, cost.attrs...)
				}
			})
		}
	}
}
