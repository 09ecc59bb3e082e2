package otelaudit

import (
	"context"
	"errors"
	"os"
	"reflect"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ticketgate/ticketgate/tickets"
)

const (
	keyOperation = attribute.Key("ticketgate.store.operation")
	keyErrorType = attribute.Key("error.type")
)

// Store returns store with a histogram of the latency of Put, Take and Append. An operation that
// failed has an error.type: full, timeout, canceled or _OTHER. That a ticket is unknown, used or
// expired is an answer, and no failure.
//
// Where store is a tickets.RevocationLog, the returned one is too, and a gauge shows how long ago
// its Next last succeeded: about a second at most, while an issuer receives revocations.
//
// A nil store is returned as it is, for NewIssuer to refuse. Faults of the MeterProvider go to
// otel.Handle: a store without metrics is better than none.
func Store(store tickets.Store, opts *Options) tickets.Store {
	if v := reflect.ValueOf(store); store == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return store
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	meter := o.meter()
	s := newMeasured(store, meter)
	log, ok := store.(tickets.RevocationLog)
	if !ok {
		return s
	}
	l := newMeasuredLog(s, log, meter)
	if keeps, ok := store.(keeper); ok {
		return measuredKeeper{l, keeps}
	}
	return l
}

type measured struct {
	store      tickets.Store
	duration   metric.Float64Histogram
	attributes map[outcome][]metric.RecordOption
}

// An outcome is what the attributes of an operation are made of.
type outcome struct{ operation, errorType string }

func newMeasured(store tickets.Store, meter metric.Meter) *measured {
	duration, err := meter.Float64Histogram("ticketgate.store.operation.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Latency of the ticket store, by operation and error."),
		metric.WithExplicitBucketBoundaries(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
			0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
	if err != nil {
		otel.Handle(err)
	}
	attributes := make(map[outcome][]metric.RecordOption)
	for _, operation := range []string{"put", "take", "append"} {
		for _, errorType := range []string{"", "full", "timeout", "canceled", other} {
			kvs := []attribute.KeyValue{keyOperation.String(operation)}
			if errorType != "" {
				kvs = append(kvs, keyErrorType.String(errorType))
			}
			set := metric.WithAttributeSet(attribute.NewSet(kvs...))
			attributes[outcome{operation, errorType}] = []metric.RecordOption{set}
		}
	}
	return &measured{store: store, duration: duration, attributes: attributes}
}

func (m *measured) record(ctx context.Context, operation string, start time.Time, err error) {
	options := m.attributes[outcome{operation, errorType(err)}]
	m.duration.Record(ctx, time.Since(start).Seconds(), options...)
}

// errorType returns the value of error.type; "" is no error.
func errorType(err error) string {
	switch {
	case err == nil, errors.Is(err, tickets.ErrInvalid):
		return ""
	case errors.Is(err, tickets.ErrFull):
		return "full"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return other
}

// Put calls the store's.
func (m *measured) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	start := time.Now()
	err := m.store.Put(ctx, key, g)
	m.record(ctx, "put", start, err)
	return err
}

// Take calls the store's.
func (m *measured) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	start := time.Now()
	g, err := m.store.Take(ctx, key)
	m.record(ctx, "take", start, err)
	return g, err
}

// measuredLog is a measured store that is a tickets.RevocationLog.
type measuredLog struct {
	*measured
	log tickets.RevocationLog

	mu       sync.Mutex
	received time.Time // when Next last succeeded
}

func newMeasuredLog(m *measured, log tickets.RevocationLog, meter metric.Meter) *measuredLog {
	l := &measuredLog{measured: m, log: log, received: time.Now()}
	_, err := meter.Float64ObservableGauge("ticketgate.revocation_log.staleness",
		metric.WithUnit("s"),
		metric.WithDescription("Time since this node last read the revocation log."),
		metric.WithFloat64Callback(func(_ context.Context, out metric.Float64Observer) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			out.Observe(time.Since(l.received).Seconds())
			return nil
		}))
	if err != nil {
		otel.Handle(err)
	}
	return l
}

// Append calls the log's.
func (l *measuredLog) Append(ctx context.Context, r tickets.Revocation) error {
	start := time.Now()
	err := l.log.Append(ctx, r)
	l.record(ctx, "append", start, err)
	return err
}

// Next calls the log's. Its latency says nothing: it waits for news.
func (l *measuredLog) Next(
	ctx context.Context, after string,
) (rs []tickets.Revocation, next string, err error) {
	rs, next, err = l.log.Next(ctx, after)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.received = time.Now()
	}
	return rs, next, err
}

// keeper is the optional method of a tickets.RevocationLog: NewIssuer asks for it.
type keeper interface{ KeepsRevocations() time.Duration }

type measuredKeeper struct {
	*measuredLog
	keeper
}
