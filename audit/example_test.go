package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/ticketgate/ticketgate/audit"
)

func ExampleNew() {
	log := audit.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	log.Record(context.Background(), audit.LoginFailure,
		slog.String("reason", "wrong_password"), slog.String("password", "hunter2"))
	// Output: level=WARN msg=login_failure event=login_failure reason=wrong_password
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func ExampleOpenFile() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "logs", "auth.log")

	log, err := audit.OpenFile(path, nil)
	if err != nil {
		panic(err)
	}
	log.Record(context.Background(), audit.LoginSuccess,
		slog.String("provider", "oidc"), slog.String("user_id", "u1"), slog.String("ip", "203.0.113.9"))
	if err := log.Close(); err != nil {
		panic(err)
	}

	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	_, line, _ := strings.Cut(string(b), ",")
	fmt.Print(line)
	// Output: "event":"login_success","provider":"oidc","user_id":"u1","ip":"203.0.113.9"}
}

func ExampleHomePath() {
	os.Setenv("HERMES_HOME", "/srv/hermes")
	defer os.Unsetenv("HERMES_HOME")
	path, err := audit.HomePath("hermes", "dashboard-auth.log")
	fmt.Println(filepath.ToSlash(path), err)
	// Output: /srv/hermes/logs/dashboard-auth.log <nil>
}

// Secrets are left out by their names, and masked inside of values.
func ExampleLog_Record() {
	log := audit.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	log.Record(context.Background(), audit.TicketRejected,
		slog.String("reason", "used"),
		slog.String("path", "/ws?room=7&ticket=3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
		slog.String("ticket", "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
		slog.String("ticket_id", "c0ffee123456"))
	// Output: level=WARN msg=ws_ticket_rejected event=ws_ticket_rejected reason=used path="/ws?room=7&ticket=***" ticket_id=c0ffee123456
}
