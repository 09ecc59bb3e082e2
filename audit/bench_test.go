package audit_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// BenchmarkRecord is a line of six strings to a file, beside what else could
// write it. They take turns within one run, and "ratio" is the time of Record
// over the other's: below 1, Record is the faster.
func BenchmarkRecord(b *testing.B) {
	dir := b.TempDir()
	l, err := audit.OpenFile(filepath.Join(dir, "audit"), nil)
	require.NoError(b, err)
	defer l.Close()
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(b, err)
		b.Cleanup(func() { f.Close() })
		return f
	}
	h, g := slog.New(slog.NewJSONHandler(file("slog"), nil)), file("write")
	own := func() {
		l.Record(ctx, audit.TicketMinted,
			slog.String("provider", "oidc"), slog.String("user_id", "u-2041"),
			slog.String("ip", "203.0.113.9"),
			slog.String("ticket_id", "c0ffee123456"), slog.String("endpoint", "/ws/pty"),
			slog.String("reason", "logout"))
	}
	own()
	ready, err := os.ReadFile(filepath.Join(dir, "audit"))
	require.NoError(b, err)
	others := []struct {
		name string
		line func()
	}{
		{"slog.JSONHandler", func() {
			h.LogAttrs(ctx, slog.LevelInfo, string(audit.TicketMinted),
				slog.String("provider", "oidc"), slog.String("user_id", "u-2041"),
				slog.String("ip", "203.0.113.9"),
				slog.String("ticket_id", "c0ffee123456"), slog.String("endpoint", "/ws/pty"),
				slog.String("reason", "logout"))
		}},
		{"write(2)", func() { _, _ = g.Write(ready) }},
	}
	for _, other := range others {
		b.Run("over "+other.name, func(b *testing.B) {
			b.ReportAllocs()
			var mine, theirs []time.Duration
			for b.Loop() {
				mine = append(mine, timed(own))
				theirs = append(theirs, timed(other.line))
			}
			b.ReportMetric(float64(median(mine))/float64(median(theirs)), "ratio")
			b.ReportMetric(float64(median(mine))/turn, "ns/line")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkSync is lines that are on the disk when Record returns, beside one
// fsync for each line.
func BenchmarkSync(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			l, _ := open(b, &audit.FileOptions{Sync: true})
			f, err := os.CreateTemp(b.TempDir(), "")
			require.NoError(b, err)
			defer f.Close()
			const lines = 8
			var mine, theirs time.Duration
			for b.Loop() {
				start := time.Now()
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						for range lines {
							l.Record(ctx, audit.TicketMinted, slog.String("provider", "oidc"),
								slog.String("ip", "203.0.113.9"))
						}
					})
				}
				wg.Wait()
				mine += time.Since(start) / time.Duration(writers)
				start = time.Now()
				for range lines {
					_, _ = f.WriteString(`{"ts":"2026-05-27T09:12:27.000123+00:00",` +
						`"event":"ws_ticket_minted","provider":"oidc","ip":"203.0.113.9"}` + "\n")
					_ = f.Sync()
				}
				theirs += time.Since(start)
			}
			b.ReportMetric(float64(mine)/float64(theirs), "ratio")
			b.ReportMetric(float64(mine.Nanoseconds())/float64(b.N)/lines, "ns/line")
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

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func BenchmarkRefusedIntoDiscard(b *testing.B) {
	l := audit.New(slog.DiscardHandler)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(ctx, audit.UpgradeRefused, slog.String("reason", "origin"),
			slog.String("ip", "203.0.113.9"))
	}
}
