package otelaudit_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/audit/otelaudit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// newProvider returns a MeterProvider and what it has measured.
func newProvider(t testing.TB) (metric.MeterProvider, *sdk.ManualReader) {
	t.Helper()
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	t.Cleanup(func() { require.NoError(t, provider.Shutdown(ctx)) })
	return provider, reader
}

// newHandler returns a handler and what it has counted.
func newHandler(t testing.TB, opts otelaudit.Options) (slog.Handler, *sdk.ManualReader) {
	t.Helper()
	provider, reader := newProvider(t)
	opts.MeterProvider = provider
	h, err := otelaudit.New(&opts)
	require.NoError(t, err)
	return h, reader
}

func metrics(t testing.TB, reader *sdk.ManualReader) []metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(ctx, &all))
	if len(all.ScopeMetrics) == 0 {
		return nil
	}
	require.Len(t, all.ScopeMetrics, 1)
	require.Equal(t, "github.com/ticketgate/ticketgate/audit/otelaudit",
		all.ScopeMetrics[0].Scope.Name)
	return all.ScopeMetrics[0].Metrics
}

// values returns all series by name and attributes: a number, or how many a histogram has.
func values(t testing.TB, reader *sdk.ManualReader) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	for _, m := range metrics(t, reader) {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			require.True(t, data.IsMonotonic, m.Name)
			for _, p := range data.DataPoints {
				values[seriesName(m.Name, p.Attributes)] = float64(p.Value)
			}
		case metricdata.Gauge[int64]:
			for _, p := range data.DataPoints {
				values[seriesName(m.Name, p.Attributes)] = float64(p.Value)
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				values[seriesName(m.Name, p.Attributes)] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				values[seriesName(m.Name, p.Attributes)] = float64(p.Count)
			}
		default:
			require.Failf(t, "unexpected data", "%s is a %T", m.Name, m.Data)
		}
	}
	return values
}

// seriesName is short: "refusals{event=ws_ticket_rejected,reason=used}".
func seriesName(name string, set attribute.Set) string {
	name = strings.TrimPrefix(name, "ticketgate.")
	if set.Len() == 0 {
		return name
	}
	var labels []string
	for _, kv := range set.ToSlice() {
		key := strings.TrimPrefix(string(kv.Key), "ticketgate.")
		labels = append(labels, fmt.Sprintf("%s=%s", key, kv.Value.AsString()))
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}
