// Package metrics runs audit/otelaudit in a whole application, with the OpenTelemetry SDK and with
// Prometheus's exporter, and checks its dashboard and its alerts with promtool.
package metrics

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/audit/otelaudit"
	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = 30 * time.Second

// watched is an application and what two readers say of it.
type watched struct {
	t       *testing.T
	base    string
	http    *http.Client // of one person
	scraped string       // the URL that Prometheus would scrape
	manual  *sdk.ManualReader
}

func watch(t *testing.T) *watched {
	w := &watched{t: t, manual: sdk.NewManualReader()}
	registry := prometheus.NewRegistry()
	pull, err := exporter.New(exporter.WithRegisterer(registry))
	require.NoError(t, err)
	provider := sdk.NewMeterProvider(sdk.WithReader(pull), sdk.WithReader(w.manual))
	file, err := audit.OpenFile(filepath.Join(t.TempDir(), "auth.log"), nil)
	require.NoError(t, err)

	var app *testserver.Server // nothing is collected before it is there
	metrics, err := otelaudit.New(&otelaudit.Options{
		MeterProvider: provider,
		Sockets:       func() int { return app.Sockets().Len() },
		Health:        func() error { return app.Issuer().Health() },
		Stats:         file.Stats,
	})
	require.NoError(t, err)
	app, err = testserver.New(&testserver.Options{
		Audit: slog.NewMultiHandler(file.Handler(), metrics),
		Store: otelaudit.Store(new(sharedstore.Server).Node(),
			&otelaudit.Options{MeterProvider: provider}),
	})
	require.NoError(t, err)
	// It refuses tickets until it has read the log.
	require.Eventually(t, func() bool { return app.Issuer().Health() == nil },
		patience, time.Millisecond)

	server := httptest.NewServer(app.Handler())
	target := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	w.base, w.scraped = server.URL, target.URL
	w.http = &http.Client{
		Jar:       jar,
		Transport: &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	t.Cleanup(func() {
		w.http.CloseIdleConnections()
		require.NoError(t, app.Close())
		server.Close()
		target.Close()
		require.NoError(t, provider.Shutdown(context.Background()))
		require.NoError(t, file.Close())
	})
	return w
}

func (w *watched) do(method, url string, form url.Values) (status int, body string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, url,
		strings.NewReader(form.Encode()))
	require.NoError(w.t, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := w.http.Do(r)
	require.NoError(w.t, err)
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	require.NoError(w.t, err)
	return response.StatusCode, string(b)
}

func (w *watched) mint() string {
	w.t.Helper()
	status, body := w.do("POST", w.base+"/api/auth/ws-ticket", nil)
	require.Equal(w.t, http.StatusOK, status, body)
	var minted struct{ Ticket string }
	require.NoError(w.t, json.Unmarshal([]byte(body), &minted))
	return minted.Ticket
}

func (w *watched) open(ticket string) (*websocket.Conn, error) {
	c, _, err := websocket.Dial(w.t.Context(), w.base+"/ws?ticket="+ticket,
		&websocket.DialOptions{HTTPClient: w.http})
	return c, err
}

var (
	scopeLabels = regexp.MustCompile(`otel_scope_\w+="[^"]*",?`)
	shownLine   = regexp.MustCompile(`^ticketgate_\w+`)
)

// scrape returns the lines of a scrape, without labels that every line has, and without buckets and
// seconds.
func (w *watched) scrape() []string {
	w.t.Helper()
	status, body := w.do("GET", w.scraped, nil)
	require.Equal(w.t, http.StatusOK, status)
	var lines []string
	for line := range strings.Lines(body) {
		name := shownLine.FindString(line)
		if name == "" || strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_sum") ||
			name == "ticketgate_revocation_log_staleness_seconds" {
			continue
		}
		line = strings.Replace(scopeLabels.ReplaceAllString(line, ""), ",}", "}", 1)
		lines = append(lines, strings.Replace(strings.TrimSpace(line), "{}", "", 1))
	}
	slices.Sort(lines)
	return lines
}

func (w *watched) requireScrape(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	require.Equal(w.t, strings.Join(want, "\n"), strings.Join(w.scrape(), "\n"))
}

// totals returns the sum of each counter, and the count of each histogram.
func (w *watched) totals() map[string]int64 {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(w.t, w.manual.Collect(w.t.Context(), &all))
	totals := make(map[string]int64)
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, point := range data.DataPoints {
				totals[m.Name] += point.Value
			}
		case metricdata.Histogram[float64]:
			for _, point := range data.DataPoints {
				totals[m.Name] += int64(point.Count)
			}
		}
	}
	return totals
}

// signInAndReplay is one person who signs in, mints, opens, and replays the ticket.
func (w *watched) signInAndReplay() *websocket.Conn {
	w.t.Helper()
	status, _ := w.do("POST", w.base+"/login", url.Values{"user": {"ann"}})
	require.Equal(w.t, http.StatusSeeOther, status)
	ticket := w.mint()
	c, err := w.open(ticket)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { c.CloseNow() })
	w.await("ticketgate.socket.opened")
	_, err = w.open(ticket)
	require.ErrorContains(w.t, err, "401")
	return c
}

// signOut revokes the session and closes its socket.
func (w *watched) signOut(c *websocket.Conn) {
	w.t.Helper()
	status, _ := w.do("POST", w.base+"/logout", url.Values{})
	require.Equal(w.t, http.StatusSeeOther, status)
	_, _, err := c.Read(w.t.Context())
	require.EqualValues(w.t, 4401, websocket.CloseStatus(err))
	w.await("ticketgate.socket.duration") // the last thing
}

// await waits until something is counted: a socket's lines may come a moment after its frames.
func (w *watched) await(metric string) {
	w.t.Helper()
	for end := time.Now().Add(patience); w.totals()[metric] == 0; time.Sleep(time.Millisecond) {
		require.True(w.t, time.Now().Before(end), "never counted: %s", metric)
	}
}

func TestStory_CountsExactly(t *testing.T) {
	w := watch(t)
	c := w.signInAndReplay()
	w.requireScrape(
		`ticketgate_audit_lines_total{ticketgate_outcome="failed"} 0`,
		`ticketgate_audit_lines_total{ticketgate_outcome="written"} 4`,
		`ticketgate_issuer_healthy 1`,
		`ticketgate_refusals_total{ticketgate_event="ws_ticket_rejected",`+
			`ticketgate_reason="used"} 1`,
		`ticketgate_session_events_total{ticketgate_event="login_success"} 1`,
		`ticketgate_socket_active 1`,
		`ticketgate_socket_opened_total 1`,
		`ticketgate_store_operation_duration_seconds_count{ticketgate_store_operation="put"} 1`,
		`ticketgate_store_operation_duration_seconds_count{ticketgate_store_operation="take"} 2`,
		`ticketgate_ticket_minted_total 1`,
	)

	w.signOut(c)
	w.requireScrape(
		`ticketgate_audit_lines_total{ticketgate_outcome="failed"} 0`,
		`ticketgate_audit_lines_total{ticketgate_outcome="written"} 7`,
		`ticketgate_issuer_healthy 1`,
		`ticketgate_refusals_total{ticketgate_event="ws_ticket_rejected",`+
			`ticketgate_reason="used"} 1`,
		`ticketgate_revocations_total 1`,
		`ticketgate_session_events_total{ticketgate_event="login_success"} 1`,
		`ticketgate_session_events_total{ticketgate_event="logout"} 1`,
		`ticketgate_socket_active 0`,
		`ticketgate_socket_closed_total{ticketgate_close_code="4401",`+
			`ticketgate_reason="session_revoked"} 1`,
		`ticketgate_socket_duration_seconds_count 1`,
		`ticketgate_socket_opened_total 1`,
		`ticketgate_store_operation_duration_seconds_count{ticketgate_store_operation="append"} 1`,
		`ticketgate_store_operation_duration_seconds_count{ticketgate_store_operation="put"} 1`,
		`ticketgate_store_operation_duration_seconds_count{ticketgate_store_operation="take"} 2`,
		`ticketgate_ticket_minted_total 1`,
	)
	require.Equal(t, map[string]int64{
		"ticketgate.audit.lines": 7, "ticketgate.refusals": 1, "ticketgate.revocations": 1,
		"ticketgate.session.events": 2, "ticketgate.socket.closed": 1,
		"ticketgate.socket.duration": 1, "ticketgate.socket.opened": 1,
		"ticketgate.store.operation.duration": 4, "ticketgate.ticket.minted": 1,
	}, w.totals())
}
