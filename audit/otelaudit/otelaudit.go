// Package otelaudit turns audit events into OpenTelemetry metrics, and measures a ticket store.
//
// [New] returns a slog.Handler for audit.New, alone or beside a file. [Store] wraps a
// tickets.Store. Both use whatever MeterProvider the application has.
//
// Every attribute has a fixed set of values: no user, session, path or address becomes a series.
// A reason, close code or error outside of its set is counted as "_OTHER".
package otelaudit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ticketgate/ticketgate/audit"
)

const scope = "github.com/ticketgate/ticketgate/audit/otelaudit"

// Options are the options of New and of Store. Nil is the defaults. Store reads MeterProvider only.
//
// The functions are called whenever metrics are collected, in any goroutine, for as long as the
// MeterProvider lives. They must be safe for concurrent use and must not wait.
type Options struct {
	// MeterProvider makes the instruments. Default: otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
	// Sockets returns the number of open sockets: Sockets.Len. It may be called before there are
	// Sockets, which need the log, which needs the handler: see the package's example. Default
	// nil: no such gauge.
	Sockets func() int
	// Health returns nil while the issuer is healthy: Issuer.Health. Default nil: no such gauge.
	Health func() error
	// Stats returns the counts of the log that writes the lines: Log.Stats of the file. Default
	// nil: lines are not counted.
	Stats func() audit.Stats
	// Reasons are the application's own reasons, of failed sign-ins and of sockets that it closes.
	// They are counted apart from each other. At most 50, each of 1 to 64 bytes. Default: none.
	Reasons []string
}

const (
	// With all close codes, this is fewer than the 2,000 series that the SDK keeps apart.
	maxReasons      = 50
	maxReasonLength = 64
)

func (o *Options) check() error {
	var errs []error
	if len(o.Reasons) > maxReasons {
		errs = append(errs, fmt.Errorf("there are %d Reasons, want at most %d: each is a series",
			len(o.Reasons), maxReasons))
	}
	for i, reason := range o.Reasons {
		if reason == "" || len(reason) > maxReasonLength {
			errs = append(errs, fmt.Errorf("element %d of Reasons has %d bytes, want 1 to %d",
				i, len(reason), maxReasonLength))
		}
	}
	return errors.Join(errs...)
}

func (o *Options) meter() metric.Meter {
	provider := o.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	return provider.Meter(scope)
}

// New returns a handler that counts audit events. Its error joins everything that is wrong with
// opts, or is the MeterProvider's.
//
// The handler reads the event from a record's message, and reason, close_code, seconds and
// suppressed from its attributes, as audit.Log records them. Refusals that the log suppressed are
// counted by the record that reports them, up to a minute late. An application's own events are
// not counted.
func New(opts *Options) (slog.Handler, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("otelaudit.New: %w", err)
	}
	h := newHandler(o.Reasons)
	meter := o.meter()
	if err := errors.Join(h.instruments(meter), o.observe(meter)); err != nil {
		return nil, fmt.Errorf("otelaudit.New: %w", err)
	}
	return h, nil
}

// observe makes the instruments that read from the application.
func (o *Options) observe(meter metric.Meter) error {
	var errs []error
	if o.Sockets != nil {
		_, err := meter.Int64ObservableGauge("ticketgate.socket.active",
			metric.WithUnit("{socket}"),
			metric.WithDescription("Open sockets."),
			metric.WithInt64Callback(func(_ context.Context, out metric.Int64Observer) error {
				out.Observe(int64(o.Sockets()))
				return nil
			}))
		errs = append(errs, err)
	}
	if o.Health != nil {
		_, err := meter.Int64ObservableGauge("ticketgate.issuer.healthy",
			metric.WithUnit("{issuer}"),
			metric.WithDescription("Whether the issuer is healthy: 0 or 1."),
			metric.WithInt64Callback(func(_ context.Context, out metric.Int64Observer) error {
				healthy := int64(0)
				if o.Health() == nil {
					healthy = 1
				}
				out.Observe(healthy)
				return nil
			}))
		errs = append(errs, err)
	}
	if o.Stats != nil {
		written := metric.WithAttributeSet(attribute.NewSet(keyOutcome.String("written")))
		failed := metric.WithAttributeSet(attribute.NewSet(keyOutcome.String("failed")))
		_, err := meter.Int64ObservableCounter("ticketgate.audit.lines",
			metric.WithUnit("{line}"),
			metric.WithDescription("Audit lines, by whether they were written."),
			metric.WithInt64Callback(func(_ context.Context, out metric.Int64Observer) error {
				stats := o.Stats()
				out.Observe(int64(stats.Written), written)
				out.Observe(int64(stats.Failed), failed)
				return nil
			}))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
