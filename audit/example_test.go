package audit_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

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
		slog.String("provider", "oidc"), slog.String("user_id", "u1"),
		slog.String("ip", "203.0.113.9"))
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

// Events go to a file, and to the application's own logger, which shows
// refusals only.
func ExampleLog_Handler() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	file, err := audit.OpenFile(filepath.Join(dir, "auth.log"), nil)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	app := slog.NewTextHandler(os.Stdout,
		&slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: withoutTime})

	log := audit.New(slog.NewMultiHandler(file.Handler(), app))
	log.Record(context.Background(), audit.LoginSuccess, slog.String("user_id", "u1"))
	log.Record(context.Background(), audit.LoginFailure, slog.String("reason", "wrong_password"))
	fmt.Println("lines in the file:", file.Stats().Written)
	// Output:
	// level=WARN msg=login_failure event=login_failure reason=wrong_password
	// lines in the file: 2
}

// An async is a slog.Handler that does not wait: a goroutine hands on what it
// is given.
type async struct {
	slog.Handler
	records chan slog.Record
	done    chan struct{}
}

func newAsync(h slog.Handler, size int) *async {
	a := &async{h, make(chan slog.Record, size), make(chan struct{})}
	go func() {
		defer close(a.done)
		for r := range a.records {
			_ = a.Handler.Handle(context.Background(), r)
		}
	}()
	return a
}

func (a *async) Handle(_ context.Context, r slog.Record) error {
	select {
	case a.records <- r.Clone():
		return nil
	default:
		return errors.New("too many events are waiting") // the Log counts it as failed
	}
}

// Close waits for the events that are waiting. Nothing may be recorded later.
func (a *async) Close() {
	close(a.records)
	<-a.done
}

// A Log over a handler that does not wait keeps requests fast while the disk
// hangs. What is lost with it: a process that is killed loses the events that
// are waiting; where more than 1000 are, further ones are dropped; and the
// context's values do not reach the file.
func ExampleNew_async() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	file, err := audit.OpenFile(filepath.Join(dir, "auth.log"), nil)
	if err != nil {
		panic(err)
	}
	queue := newAsync(file.Handler(), 1000)
	log := audit.New(queue)

	log.Record(context.Background(), audit.LoginSuccess, slog.String("user_id", "u1"))

	log.Close()   // reports what was suppressed
	queue.Close() // then nothing is recorded any more
	fmt.Println(file.Close(), file.Stats().Written, log.Stats().Failed)
	// Output: <nil> 1 0
}

// Counters is a slog.Handler that counts events, and refusals by reason.
type Counters struct{ *expvar.Map }

func (c Counters) Enabled(context.Context, slog.Level) bool { return true }
func (c Counters) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c Counters) WithGroup(string) slog.Handler            { return c }
func (c Counters) Handle(_ context.Context, r slog.Record) error {
	name := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			name += "/" + a.Value.String()
		}
		return true
	})
	c.Add(name, 1)
	return nil
}

// Any slog.Handler serves: this one turns events into counters for a monitor.
func ExampleNew_counters() {
	counters := Counters{new(expvar.Map).Init()}
	log := audit.New(counters)
	for range 3 {
		log.Record(context.Background(), audit.TicketMinted, slog.String("user_id", "u1"))
	}
	log.Record(context.Background(), audit.TicketRejected, slog.String("reason", "used"))
	fmt.Println(counters)
	// Output: {"ws_ticket_minted": 3, "ws_ticket_rejected/used": 1}
}

// Lines that are on the disk before Record returns, in files of a week each,
// of which a year's are kept.
func ExampleFileOptions() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	log, err := audit.OpenFile(filepath.Join(dir, "auth.log"), &audit.FileOptions{
		Sync:      true,
		MaxAge:    7 * 24 * time.Hour,
		KeepFiles: 52,
		Compress:  true,
	})
	if err != nil {
		panic(err)
	}
	log.Record(context.Background(), audit.LoginSuccess, slog.String("user_id", "u1"))
	fmt.Println(log.Stats().Written, log.Close())
	// Output: 1 <nil>
}

func ExampleLog_Stats() {
	log := audit.New(slog.NewTextHandler(io.Discard, nil))
	log.Record(context.Background(), audit.LoginStart)
	fmt.Printf("%+v\n", log.Stats())
	// Output: {Written:1 Failed:0 Suppressed:0}
}
