package otelaudit_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/audit/otelaudit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// Events go to a file, and into metrics.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	reader := sdk.NewManualReader() // or an exporter's: Prometheus, OTLP
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))

	file, err := audit.OpenFile(filepath.Join(dir, "auth.log"), nil)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	metrics, err := otelaudit.New(&otelaudit.Options{MeterProvider: provider, Stats: file.Stats})
	if err != nil {
		panic(err)
	}
	log := audit.New(slog.NewMultiHandler(file.Handler(), metrics))
	defer log.Close()

	for range 3 {
		log.Record(context.Background(), audit.TicketMinted, slog.String("user_id", "ann"))
	}
	log.Record(context.Background(), audit.TicketRejected,
		slog.String("reason", "used"), slog.String("ip", "203.0.113.9"))
	printCounters(reader)
	// Output:
	// ticketgate.audit.lines failed 0
	// ticketgate.audit.lines written 4
	// ticketgate.refusals ws_ticket_rejected used 1
	// ticketgate.ticket.minted 3
}

// printCounters prints the name, the attributes and the value of each counter.
func printCounters(reader sdk.Reader) {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		panic(err)
	}
	var lines []string
	for _, m := range all.ScopeMetrics[0].Metrics {
		for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
			line := m.Name
			for _, kv := range point.Attributes.ToSlice() {
				line += " " + kv.Value.AsString()
			}
			lines = append(lines, fmt.Sprint(line, " ", point.Value))
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}

// A server measures its store, its issuer, its sockets and its audit file.
func Example() {
	reader := sdk.NewManualReader()
	server, err := newServer(sdk.NewMeterProvider(sdk.WithReader(reader)))
	if err != nil {
		panic(err)
	}
	defer server.close()
	if _, err := server.issuer.Mint(context.Background(), tickets.Grant{}); err != nil {
		panic(err)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		panic(err)
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		fmt.Println(m.Name, "in", m.Unit)
	}
	// Unordered output:
	// ticketgate.store.operation.duration in s
	// ticketgate.issuer.healthy in {issuer}
	// ticketgate.audit.lines in {line}
	// ticketgate.socket.active in {socket}
}

type server struct {
	dir     string
	issuer  *tickets.Issuer
	file    *audit.Log
	sockets atomic.Pointer[middleware.Sockets]
	guard   *middleware.Guard
}

func newServer(provider metric.MeterProvider) (*server, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	store := otelaudit.Store(tickets.NewMemoryStore(nil),
		&otelaudit.Options{MeterProvider: provider})
	if s.issuer, err = tickets.NewIssuer(store, nil); err != nil {
		return nil, err
	}
	if s.file, err = audit.OpenFile(filepath.Join(dir, "auth.log"), nil); err != nil {
		return nil, err
	}
	metrics, err := otelaudit.New(&otelaudit.Options{
		MeterProvider: provider,
		Health:        s.issuer.Health,
		Stats:         s.file.Stats,
		Sockets:       s.openSockets,
	})
	if err != nil {
		return nil, err
	}
	log := audit.New(slog.NewMultiHandler(s.file.Handler(), metrics))
	sockets, err := middleware.NewSockets(s.issuer, &middleware.SocketsOptions{Audit: log})
	if err != nil {
		return nil, err
	}
	s.sockets.Store(sockets)
	s.guard, err = middleware.NewGuard(s.issuer, &middleware.GuardOptions{Sockets: sockets})
	return s, err
}

// openSockets may be called before there are Sockets: they need the log, and the log the metrics.
func (s *server) openSockets() int {
	if sockets := s.sockets.Load(); sockets != nil {
		return sockets.Len()
	}
	return 0
}

func (s *server) close() {
	_ = s.sockets.Load().Shutdown(context.Background())
	_ = s.issuer.Close()
	_ = s.file.Close()
	_ = os.RemoveAll(s.dir)
}
