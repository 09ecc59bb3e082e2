package otelaudit_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/audit/otelaudit"
	"github.com/ticketgate/ticketgate/tickets"
)

// What WIRE.md calls fields that must not become attributes.
var who = []slog.Attr{
	slog.String("provider", "oidc"), slog.String("user_id", "ann"),
	slog.String("ip", "203.0.113.9"),
	slog.String("path", "/ws/7"), slog.String("origin", "https://app.example"),
	slog.String("session", "0123456789ab"), slog.String("ticket_id", "c0ffee123456"),
	slog.String("socket_id", "s-1"), slog.String("endpoint", "/ws"),
}

func TestHandler_CountsEvents(t *testing.T) {
	for _, tt := range []struct {
		event audit.Event
		attrs []slog.Attr
		want  map[string]float64
	}{
		{audit.TicketMinted, nil, map[string]float64{"ticket.minted": 1}},
		{audit.SocketOpened, nil, map[string]float64{"socket.opened": 1}},
		{audit.SocketClosed, []slog.Attr{slog.String("reason", "session_revoked"),
			slog.Int("close_code", 4401), slog.Float64("seconds", 61.5)}, map[string]float64{
			"socket.closed{close_code=4401,reason=session_revoked}": 1, "socket.duration": 1}},
		{audit.SocketClosed, []slog.Attr{slog.String("reason", "closed"),
			slog.Int("close_code", 0), slog.Int("seconds", 3)}, map[string]float64{
			"socket.closed{close_code=0,reason=closed}": 1, "socket.duration": 1}},
		{audit.SocketClosed, []slog.Attr{slog.String("reason", "the application's"),
			slog.Int("close_code", 3456), slog.Float64("seconds", 0)}, map[string]float64{
			"socket.closed{close_code=_OTHER,reason=_OTHER}": 1, "socket.duration": 1}},
		{audit.Revoke, []slog.Attr{slog.String("reason", "logout"), slog.Int("sockets", 3)},
			map[string]float64{"revocations": 1}},
		{audit.LoginFailure, []slog.Attr{slog.String("reason", "wrong_password")},
			map[string]float64{"refusals{event=login_failure,reason=_OTHER}": 1}},
		{audit.LoginFailure, []slog.Attr{slog.String("reason", "own")},
			map[string]float64{"refusals{event=login_failure,reason=own}": 1}},
		{audit.LoginFailure, nil, map[string]float64{"refusals{event=login_failure}": 1}},
		{audit.RefreshFailure, []slog.Attr{slog.Int("reason", 7)},
			map[string]float64{"refusals{event=refresh_failure,reason=_OTHER}": 1}},
		{audit.SessionVerifyFailure, []slog.Attr{slog.String("reason", "recheck")},
			map[string]float64{"refusals{event=session_verify_failure,reason=recheck}": 1}},
		{audit.TicketRejected, []slog.Attr{slog.String("reason", "used")},
			map[string]float64{"refusals{event=ws_ticket_rejected,reason=used}": 1}},
		{audit.UpgradeRefused, []slog.Attr{slog.String("reason", "origin")},
			map[string]float64{"refusals{event=ws_upgrade_refused,reason=origin}": 1}},
		{audit.MintRefused, []slog.Attr{slog.String("reason", "too_many")},
			map[string]float64{"refusals{event=ws_mint_refused,reason=too_many}": 1}},
		{audit.LoginStart, nil, map[string]float64{"session.events{event=login_start}": 1}},
		{audit.LoginSuccess, nil, map[string]float64{"session.events{event=login_success}": 1}},
		{audit.RefreshSuccess, nil, map[string]float64{"session.events{event=refresh_success}": 1}},
		{audit.Logout, nil, map[string]float64{"session.events{event=logout}": 1}},
		{"order_placed", []slog.Attr{slog.String("reason", "used")}, map[string]float64{}},
	} {
		t.Run(string(tt.event), func(t *testing.T) {
			h, reader := newHandler(t, otelaudit.Options{Reasons: []string{"own"}})
			audit.New(h).Record(ctx, tt.event, append(who, tt.attrs...)...)
			require.Equal(t, tt.want, values(t, reader))
		})
	}
}

// Each reason that WIRE.md lists is a series of its own.
func TestHandler_KnowsEveryReasonOfTheContract(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	for event, reasons := range map[audit.Event]string{
		audit.TicketRejected: "no_ticket two_tickets unknown used expired revoked endpoint " +
			"session store",
		audit.UpgradeRefused: "not_upgrade method version key body query origin too_many " +
			"upgrade_failed query_ticket not_hijackable going_away",
		audit.MintRefused:          "method origin body too_many endpoint session revoked store",
		audit.SessionVerifyFailure: "invalid_or_expired_session unavailable recheck",
		audit.SocketClosed: "session_revoked session_expired too_many evicted unavailable " +
			"going_away closed dropped panic",
	} {
		for _, reason := range strings.Fields(reasons) {
			record := slog.NewRecord(time.Now(), slog.LevelWarn, string(event), 0)
			record.AddAttrs(slog.String("reason", reason))
			require.NoError(t, h.Handle(ctx, record))
		}
	}
	got := values(t, reader)
	assert.Len(t, got, 9+12+8+3+9+1)
	for name := range got {
		assert.NotContains(t, name, "_OTHER")
	}
}

// A log reports the refusals that it suppressed in a record with their number (HOSTILE A14).
func TestHandler_CountsSuppressedRefusals(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	for _, n := range []any{41, uint64(41), 41.0} {
		record(t, h, audit.TicketRejected, "used", slog.Any("suppressed", n))
	}
	for _, n := range []any{0, -5, math.NaN(), math.Inf(1), "7", nil} {
		record(t, h, audit.TicketRejected, "used", slog.Any("suppressed", n))
	}
	record(t, h, audit.TicketRejected, "used")
	record(t, h, audit.TicketRejected, "", slog.Uint64("suppressed", 1000)) // too many reasons
	require.Equal(t, map[string]float64{
		"refusals{event=ws_ticket_rejected,reason=used}": 3*41 + 1,
		"refusals{event=ws_ticket_rejected}":             1000,
	}, values(t, reader))
}

func record(t testing.TB, h slog.Handler, event audit.Event, reason string, attrs ...slog.Attr) {
	t.Helper()
	r := slog.NewRecord(time.Now(), slog.LevelWarn, string(event), 0)
	r.AddAttrs(slog.String("event", string(event)), slog.String("reason", reason))
	r.AddAttrs(attrs...)
	require.NoError(t, h.Handle(ctx, r))
}

// What a stranger sends makes no series. Every refusal is counted once, whether the log hands it
// on or reports it as suppressed.
func TestHandler_SeriesAreBounded(t *testing.T) {
	const n, workers = 100_000, 8
	h, reader := newHandler(t, otelaudit.Options{})
	events := []audit.Event{audit.LoginFailure, audit.RefreshFailure, audit.SessionVerifyFailure,
		audit.TicketRejected, audit.UpgradeRefused, audit.MintRefused}
	for name, count := range map[string]func(log *audit.Log, e audit.Event, attrs ...slog.Attr){
		"through a log": func(log *audit.Log, e audit.Event, attrs ...slog.Attr) {
			log.Record(ctx, e, attrs...)
		},
		"alone": func(_ *audit.Log, e audit.Event, attrs ...slog.Attr) {
			r := slog.NewRecord(time.Now(), slog.LevelWarn, string(e), 0)
			r.AddAttrs(attrs...)
			_ = h.Handle(ctx, r)
		},
	} {
		before := refusals(t, values(t, reader))
		log := audit.New(h)
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(worker)))
				for range n / workers {
					count(log, events[random.IntN(len(events))],
						slog.String("reason", fmt.Sprint(random.Uint64())),
						slog.String("path", fmt.Sprint("/", random.Uint64())),
						slog.String("origin", fmt.Sprint("https://", random.Uint64())),
						slog.String("user_id", fmt.Sprint(random.Uint64())),
						slog.String("ip", fmt.Sprint("203.0.113.", random.IntN(256))))
				}
			})
		}
		wg.Wait()
		require.NoError(t, log.Close()) // reports what is suppressed
		got := values(t, reader)
		// The log reports those without their reason of which there are too many kinds.
		require.LessOrEqual(t, len(got), 2*len(events), "%s: %v", name, got)
		require.EqualValues(t, n, refusals(t, got)-before, name)
	}
}

func refusals(t testing.TB, values map[string]float64) (sum float64) {
	for name, n := range values {
		require.Contains(t, name, "refusals{")
		sum += n
	}
	return sum
}

// The peer chooses a close code where the library sends it back (RFC 6455 section 5.5.1).
func TestHandler_CloseCodesAreBounded(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	for code := range 70_000 {
		record(t, h, audit.SocketClosed, "closed", slog.Int("close_code", code))
	}
	require.Len(t, values(t, reader), 19+1+1) // known codes, _OTHER, socket.duration
}

func TestHandler_MeasuresLifetimes(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	for _, seconds := range []any{0.5, 61, 90_000.0, -1.0, math.NaN()} {
		record(t, h, audit.SocketClosed, "closed", slog.Any("seconds", seconds))
	}
	for _, m := range metrics(t, reader) {
		if m.Name != "ticketgate.socket.duration" {
			continue
		}
		point := m.Data.(metricdata.Histogram[float64]).DataPoints[0]
		require.Equal(t, []float64{1, 10, 60, 300, 900, 3600, 14400, 43200, 86400}, point.Bounds)
		require.Equal(t, []uint64{3, 0, 0, 1, 0, 0, 0, 0, 0, 1}, point.BucketCounts)
		require.Equal(t, 0.5+61+90_000, point.Sum)
		return
	}
	require.Fail(t, "no histogram")
}

// A request whose client has gone is counted all the same.
func TestHandler_CountsUnderCancelledContext(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	gone, cancel := context.WithCancel(ctx)
	cancel()
	audit.New(h).Record(gone, audit.TicketMinted)
	require.Equal(t, map[string]float64{"ticket.minted": 1}, values(t, reader))
}

// slog.MultiHandler asks Enabled, and derived handlers count as the first does.
func TestHandler_NoLevelHidesAnEvent(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{})
	require.True(t, h.Enabled(ctx, slog.LevelDebug-100))
	derived := h.WithAttrs([]slog.Attr{slog.String("reason", "used")}).WithGroup("g")
	audit.New(slog.NewMultiHandler(derived)).Record(ctx, audit.TicketMinted)
	require.Equal(t, map[string]float64{"ticket.minted": 1}, values(t, reader))
}

func TestNew_ObservesTheApplication(t *testing.T) {
	var health error
	h, reader := newHandler(t, otelaudit.Options{
		Sockets: func() int { return 7 },
		Health:  func() error { return health },
		Stats:   func() audit.Stats { return audit.Stats{Written: 5, Failed: 2} },
	})
	require.NotNil(t, h)
	want := map[string]float64{
		"socket.active": 7, "issuer.healthy": 1,
		"audit.lines{outcome=written}": 5, "audit.lines{outcome=failed}": 2,
	}
	require.Equal(t, want, values(t, reader))
	health = tickets.ErrStale
	want["issuer.healthy"] = 0
	require.Equal(t, want, values(t, reader))
}

// OpenTelemetry's semantic conventions: each instrument has a unit, and a description.
func TestInstruments_HaveUnitAndDescription(t *testing.T) {
	h, reader := newHandler(t, otelaudit.Options{
		Sockets: func() int { return 0 },
		Health:  func() error { return nil },
		Stats:   func() audit.Stats { return audit.Stats{} },
	})
	for _, event := range []audit.Event{audit.TicketMinted, audit.SocketOpened, audit.SocketClosed,
		audit.Revoke, audit.LoginFailure, audit.LoginSuccess} {
		audit.New(h).Record(ctx, event)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	units := make(map[string]string)
	for _, m := range metrics(t, reader) {
		units[m.Name] = m.Unit
		assert.Regexp(t, `^[A-Z].*\.$`, m.Description, m.Name)
		assert.Contains(t, string(readme), "`"+m.Name+"`")
	}
	require.Equal(t, map[string]string{
		"ticketgate.ticket.minted": "{ticket}", "ticketgate.refusals": "{refusal}",
		"ticketgate.socket.opened": "{socket}", "ticketgate.socket.closed": "{socket}",
		"ticketgate.socket.active": "{socket}", "ticketgate.socket.duration": "s",
		"ticketgate.revocations": "{revocation}", "ticketgate.session.events": "{event}",
		"ticketgate.issuer.healthy": "{issuer}", "ticketgate.audit.lines": "{line}",
	}, units)
}

func TestNew_RefusesWrongOptions(t *testing.T) {
	reasons := make([]string, 51)
	for i := range reasons {
		reasons[i] = fmt.Sprint(i)
	}
	reasons[3], reasons[5] = "", strings.Repeat("x", 65)
	h, err := otelaudit.New(&otelaudit.Options{Reasons: reasons})
	require.Nil(t, h)
	require.ErrorContains(t, err, "otelaudit.New: ")
	require.ErrorContains(t, err, "there are 51 Reasons, want at most 50")
	require.ErrorContains(t, err, "element 3 of Reasons has 0 bytes, want 1 to 64")
	require.ErrorContains(t, err, "element 5 of Reasons has 65 bytes, want 1 to 64")
}

func TestNew_DefaultsWork(t *testing.T) {
	h, err := otelaudit.New(nil)
	require.NoError(t, err)
	audit.New(h).Record(ctx, audit.TicketMinted) // into the global MeterProvider
}
