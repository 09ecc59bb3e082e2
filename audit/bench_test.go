package audit_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func sixFields() []slog.Attr {
	return []slog.Attr{
		slog.String("provider", "oidc"), slog.String("user_id", "u-2041"), slog.String("ip", "203.0.113.9"),
		slog.String("ticket_id", "c0ffee123456"), slog.String("endpoint", "/ws/pty"), slog.String("reason", "logout"),
	}
}

// BenchmarkRecord is a line of six strings to a file, beside what else could
// write it. Each is timed in turns within one run, and "ratio" is the time of
// Record over the other's: below 1, Record is the faster.
func BenchmarkRecord(b *testing.B) {
	dir := b.TempDir()
	l, err := audit.OpenFile(filepath.Join(dir, "audit"), nil)
	require.NoError(b, err)
	defer l.Close()
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(b, err)
		return f
	}
	f, g := file("slog"), file("write")
	defer f.Close()
	defer g.Close()
	h := slog.New(slog.NewJSONHandler(f, nil))
	l.Record(ctx, audit.TicketMinted, sixFields()...)
	ready, err := os.ReadFile(filepath.Join(dir, "audit"))
	require.NoError(b, err)

	// The attributes are made anew for each line, as callers do.
	own := func() { l.Record(ctx, audit.TicketMinted, sixFields()...) }
	others := []struct {
		name string
		line func()
	}{
		{"slog.JSONHandler", func() { h.LogAttrs(ctx, slog.LevelInfo, string(audit.TicketMinted), sixFields()...) }},
		{"write(2)", func() { _, _ = g.Write(ready) }},
	}
	for _, other := range others {
		b.Run("over "+other.name, func(b *testing.B) {
			b.ReportAllocs()
			var mine, theirs time.Duration
			for b.Loop() {
				mine += timed(own)
				theirs += timed(other.line)
			}
			b.ReportMetric(float64(mine)/float64(theirs), "ratio")
			b.ReportMetric(float64(mine.Nanoseconds())/float64(b.N)/turn, "ns/line")
			b.ReportMetric(0, "ns/op")
		})
	}
}

const turn = 64

func timed(line func()) time.Duration {
	start := time.Now()
	for range turn {
		line()
	}
	return time.Since(start)
}

func BenchmarkRefusedIntoDiscard(b *testing.B) {
	l := audit.New(slog.DiscardHandler)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(ctx, audit.UpgradeRefused, slog.String("reason", "origin"), slog.String("ip", "203.0.113.9"))
	}
}

func ExampleLog_Stats() {
	log := audit.New(slog.DiscardHandler)
	log.Record(ctx, audit.LoginStart)
	fmt.Printf("%+v\n", log.Stats())
	// Output: {Written:1 Failed:0}
}
