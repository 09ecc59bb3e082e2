package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func refuse(l *audit.Log, reason, ip string) {
	l.Record(ctx, audit.TicketRejected, slog.String("reason", reason), slog.String("ip", ip),
		slog.String("path", "/ws"))
}

// flooded records within a bubble of its own time, and returns what the file
// holds after Close.
func flooded(t *testing.T, opts *audit.FileOptions,
	do func(l *audit.Log, path string)) (all []logged, stats audit.Stats) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.log")
	synctest.Test(t, func(t *testing.T) {
		l, err := audit.OpenFile(path, opts)
		require.NoError(t, err)
		do(l, path)
		require.NoError(t, l.Close())
		stats = l.Stats()
	})
	all, _ = read(t, strings.NewReader(readAll(t, path)))
	return all, stats
}

func suppressed(rec logged) int {
	n, _ := rec.Fields["suppressed"].(json.Number)
	v, _ := n.Int64()
	return int(v)
}

func TestSuppress_RepeatsAreCountedAndReported(t *testing.T) {
	all, stats := flooded(t, nil, func(l *audit.Log, path string) {
		for range 1000 {
			refuse(l, "unknown", "203.0.113.9")
		}
		assert.Equal(t, 60, lines(readAll(t, path)))
		refuse(l, "unknown", "203.0.113.10") // another address
		refuse(l, "used", "203.0.113.9")     // another reason
		l.Record(ctx, audit.UpgradeRefused, slog.String("reason", "unknown"),
			slog.String("ip", "203.0.113.9"))
		l.Record(ctx, audit.TicketMinted, slog.String("ip", "203.0.113.9"))
		assert.Equal(t, 64, lines(readAll(t, path)))

		time.Sleep(time.Minute) // the report comes though nothing else happens
		synctest.Wait()
		assert.Contains(t, readAll(t, path),
			`"event":"ws_ticket_rejected","reason":"unknown","ip":"203.0.113.9","suppressed":940}`)
		assert.Equal(t, 65, lines(readAll(t, path)))

		refuse(l, "unknown", "203.0.113.9") // the rate has recovered
		assert.Equal(t, 66, lines(readAll(t, path)))
		time.Sleep(10 * time.Minute)
		assert.Equal(t, 66, lines(readAll(t, path)), "there is nothing more to tell")
	})
	assert.Len(t, all, 66)
	assert.Equal(t, audit.Stats{Written: 65, Suppressed: 940}, stats)
}

func TestClose_ReportsSuppressed(t *testing.T) {
	all, stats := flooded(t, &audit.FileOptions{RepeatsPerMinute: 1}, func(l *audit.Log, _ string) {
		for range 5 {
			refuse(l, "unknown", "2001:db8::1")
		}
	})
	require.Len(t, all, 2)
	assert.Equal(t, 4, suppressed(all[1]))
	assert.Equal(t, "2001:db8::/64", all[1].Fields["ip"])
	assert.Equal(t, audit.Stats{Written: 1, Suppressed: 4}, stats)
}

func TestSuppress_IPv6NetworkIsOneAddress(t *testing.T) { // RFC 6177: a customer's /64
	address := func(i int) string {
		a := netip.MustParseAddr("2001:db8:1:2::").As16()
		a[8], a[14], a[15] = byte(i>>16), byte(i>>8), byte(i)
		return netip.AddrFrom16(a).String()
	}
	all, _ := flooded(t, nil, func(l *audit.Log, _ string) {
		for i := range 1000 {
			refuse(l, "unknown", address(i))
		}
		refuse(l, "unknown", "2001:db8:1:3::1")
		for i := range 100 { // one IPv4 address in two spellings
			refuse(l, "unknown", []string{"203.0.113.9", "::ffff:203.0.113.9"}[i%2])
		}
	})
	told := map[string]int{}
	for _, rec := range all {
		if suppressed(rec) > 0 {
			told[rec.Fields["ip"].(string)] = suppressed(rec)
		}
	}
	assert.Equal(t, map[string]int{"2001:db8:1:2::/64": 940, "203.0.113.9": 40}, told)
}

// A summary has the start of a long reason or address: the end of a secret may be missing.
func TestSuppress_SummaryHasNoStartOfASecret(t *testing.T) {
	long := strings.Repeat("CANARY", 30)
	for _, secret := range []string{
		"dial postgres://u:" + long + "@h/db: refused", "//u:/" + long + "@h", "ticket=" + long,
		"eyJhbGciOiJub25lIn0." + long + ".x", `{"password":"` + long + `"}`,
	} {
		all, _ := flooded(t, &audit.FileOptions{RepeatsPerMinute: 1}, func(l *audit.Log, _ string) {
			refuse(l, secret, secret)
			refuse(l, secret, secret)
		})
		require.Len(t, all, 2)
		assert.Equal(t, 1, suppressed(all[1]))
		assert.NotContains(t, fmt.Sprint(all[1].Fields), "CANARY", "%.20s", secret)
	}
	plain := strings.Repeat("plain ", 30)
	all, _ := flooded(t, &audit.FileOptions{RepeatsPerMinute: 1}, func(l *audit.Log, _ string) {
		refuse(l, plain, "")
		refuse(l, plain, "")
	})
	assert.Equal(t, plain[:128], all[1].Fields["reason"])
}

// A million addresses, each new: one rate holds over all, memory is bounded,
// and nothing that succeeded is missing.
func TestSuppress_ManyAddressesAreBounded(t *testing.T) {
	const refused, minutes = 20_000, 3
	all, stats := flooded(t, nil, func(l *audit.Log, _ string) {
		for m := range minutes {
			for i := range refused {
				refuse(l, []string{"unknown", "no_ticket"}[i%2],
					fmt.Sprintf("2001:db8:%x:%x::1", m, rand.IntN(1<<16)))
				if i%1000 == 0 {
					l.Record(ctx, audit.LoginSuccess, slog.String("reason", "unknown"),
						slog.String("ip", "203.0.113.9"))
					l.Record(ctx, "app_refused", slog.String("reason", "unknown"),
						slog.String("ip", "203.0.113.9"))
				}
			}
			time.Sleep(time.Minute)
		}
	})
	by, total, summaries := map[audit.Event]int{}, 0, 0
	for _, rec := range all {
		if n := suppressed(rec); n > 0 {
			total += n
			summaries++
			continue
		}
		by[rec.Event]++
	}
	assert.Equal(t, minutes*20, by[audit.LoginSuccess])
	assert.Equal(t, minutes*20, by["app_refused"])
	assert.LessOrEqual(t, by[audit.TicketRejected], (minutes+1)*600)
	assert.LessOrEqual(t, summaries, minutes*(256+2),
		"one for each address that is known, and for each reason")
	assert.Equal(t, minutes*refused, by[audit.TicketRejected]+total, "each is written or counted")
	assert.EqualValues(t, total, stats.Suppressed)
	assert.EqualValues(t, minutes*(refused+40), stats.Suppressed+stats.Written)
}

func TestSuppress_NoLimit(t *testing.T) {
	all, _ := flooded(t,
		&audit.FileOptions{RepeatsPerMinute: math.MaxInt, RefusalsPerMinute: math.MaxInt},
		func(l *audit.Log, _ string) {
			for range 5000 {
				refuse(l, "unknown", "203.0.113.9")
			}
		})
	assert.Len(t, all, 5000)
}

// The numbers of a summary are not lost where it can't be written.
func TestSuppress_FailedReportIsRepeated(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "sub", "auth.log")
		l, err := audit.OpenFile(path, &audit.FileOptions{RepeatsPerMinute: 1})
		require.NoError(t, err)
		for range 10 {
			refuse(l, "unknown", "203.0.113.9")
		}
		replaceByFile(t, filepath.Dir(path))
		time.Sleep(time.Minute + 1)
		synctest.Wait()
		removeFile(t, filepath.Dir(path))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Contains(t, readAll(t, path),
			`"event":"ws_ticket_rejected","reason":"unknown","ip":"203.0.113.9","suppressed":9}`)
		require.NoError(t, l.Close())
	})
}

// Many addresses that come once do not hide one that comes again and again.
func TestSuppress_ManyAddressesHideNoOther(t *testing.T) {
	all, _ := flooded(t, nil, func(l *audit.Log, _ string) {
		for i := range 300 {
			refuse(l, "unknown", fmt.Sprintf("192.0.2.%d", i%250)+[]string{"", "0"}[i/250])
		}
		time.Sleep(30 * time.Second)
		for range 400 {
			refuse(l, "unknown", "203.0.113.9")
		}
	})
	written, told := 0, 0
	for _, rec := range all {
		if rec.Fields["ip"] == "203.0.113.9" && suppressed(rec) == 0 {
			written++
		} else if rec.Fields["ip"] == "203.0.113.9" {
			told = suppressed(rec)
		}
	}
	assert.Equal(t, []int{60, 340}, []int{written, told})
}

// A report that fails while Close waits for it is repeated by Close.
func TestClose_RepeatsAReportThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []uint64
		failing := make(chan struct{})
		l := audit.New(handler(func(_ context.Context, r slog.Record) error {
			for a := range r.Attrs {
				if a.Key != "suppressed" {
					continue
				}
				if reports = append(reports, a.Value.Uint64()); len(reports) == 1 {
					<-failing
					return errors.New("down")
				}
			}
			return nil
		}))
		for range 100 {
			refuse(l, "unknown", "203.0.113.9")
		}
		time.Sleep(time.Minute)
		synctest.Wait() // the report is under way
		closed := make(chan error)
		go func() { closed <- l.Close() }()
		for range 1000 {
			runtime.Gosched() // Close waits for a lock, in which time stands still
		}
		close(failing)
		require.NoError(t, <-closed)
		assert.Equal(t, []uint64{40, 40}, reports)
	})
}
