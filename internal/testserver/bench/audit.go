package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ticketgate/ticketgate/audit"
)

const (
	writeName   = "write(2) of the ready line"
	slogName    = "slog.JSONHandler"
	zerologName = "zerolog v1.35.1"
)

// auditRow is a line of a time, an event and six strings, each to a file of its own.
func auditRow(r *report) {
	dir := must(os.MkdirTemp("", "bench"))
	defer os.RemoveAll(dir)
	path := func(name string) string { return filepath.Join(dir, name) }
	file := func(name string) *os.File {
		return must(os.OpenFile(path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))
	}
	ctx, event := context.Background(), string(audit.TicketMinted)
	l := must(audit.OpenFile(path("audit"), nil))
	defer l.Close()
	own := func() {
		l.Record(ctx, audit.TicketMinted,
			slog.String("provider", "oidc"), slog.String("user_id", "u-2041"),
			slog.String("ip", "203.0.113.9"), slog.String("ticket_id", "c0ffee123456"),
			slog.String("endpoint", "/ws/pty"), slog.String("reason", "logout"))
	}
	own()
	ready := must(os.ReadFile(path("audit")))

	raw, reopened := file("write"), path("reopened")
	h := slog.New(slog.NewJSONHandler(file("slog"), nil))
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000000Z07:00"
	z := zerolog.New(file("zerolog"))
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.TimeEncoderOfLayout(zerolog.TimeFieldFormat)
	u := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(config), file("zap"), zapcore.InfoLevel))
	t := r.inTurns(6*time.Second, r.many(64),
		thing{name: writeName, do: repeat(func() { _, _ = raw.Write(ready) })},
		thing{name: ours, do: repeat(own)},
		thing{name: slogName, do: repeat(func() {
			h.LogAttrs(ctx, slog.LevelInfo, event,
				slog.String("provider", "oidc"), slog.String("user_id", "u-2041"),
				slog.String("ip", "203.0.113.9"), slog.String("ticket_id", "c0ffee123456"),
				slog.String("endpoint", "/ws/pty"), slog.String("reason", "logout"))
		})},
		thing{name: zerologName, do: repeat(func() {
			z.Info().Timestamp().Str("provider", "oidc").Str("user_id", "u-2041").
				Str("ip", "203.0.113.9").Str("ticket_id", "c0ffee123456").
				Str("endpoint", "/ws/pty").Str("reason", "logout").Msg(event)
		})},
		thing{name: "zap v1.28.0", do: repeat(func() {
			u.Info(event,
				zap.String("provider", "oidc"), zap.String("user_id", "u-2041"),
				zap.String("ip", "203.0.113.9"), zap.String("ticket_id", "c0ffee123456"),
				zap.String("endpoint", "/ws/pty"), zap.String("reason", "logout"))
		})},
		thing{name: "open, write, close", do: repeat(func() {
			f, err := os.OpenFile(reopened, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				panic(err)
			}
			_, _ = f.Write(ready)
			_ = f.Close()
		})})
	t.print(r, "audit line")
	r.atMost("audit line against slog.JSONHandler", t.ratio(ours, slogName), 1.0, "%.2f")
	count, bytes := allocations(r.many(10_000), own)
	r.bench("audit line, allocations", ours, r.many(10_000), count, "allocs/op", bytes, "B/op")
	r.atMost("its allocations", count, 2, "%.0f")
}
