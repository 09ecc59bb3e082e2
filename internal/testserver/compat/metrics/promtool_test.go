package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
)

// folder has what an operator copies.
const folder = "../../../../audit/otelaudit/"

// promtool runs Prometheus's checker.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	path, err := servers.Find("promtool", "prometheus")
	servers.Skip(t, err)
	command := exec.CommandContext(t.Context(), path, args...)
	command.Stdin = strings.NewReader(stdin)
	out, err := command.CombinedOutput()
	require.NoError(t, err, "promtool %s: %s", strings.Join(args, " "), out)
	require.NotContains(t, string(out), "FAILED")
}

func TestAlerts_FireWhenTheyShould(t *testing.T) {
	promtool(t, "", "check", "rules", folder+"alerts.yml")
	promtool(t, "", "test", "rules", folder+"alerts_test.yml")
}

func TestScrape_KeepsPrometheusConventions(t *testing.T) {
	w := watch(t)
	w.signOut(w.signInAndReplay())
	_, body := w.do("GET", w.scraped, nil)
	promtool(t, body, "check", "metrics")
}

// queries returns the expressions of the dashboard, with Grafana's variables filled in.
func queries(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(folder + "dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &dashboard))
	var all []string
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h").
				Replace(target.Expr)
			all = append(all, expr)
		}
	}
	return all
}

func TestDashboard_QueriesParse(t *testing.T) {
	var rules bytes.Buffer
	fmt.Fprintln(&rules, "groups: [{name: dashboard, rules: [")
	for i, expr := range queries(t) {
		quoted, err := json.Marshal(expr)
		require.NoError(t, err)
		fmt.Fprintf(&rules, "{record: \"query%d\", expr: %s},\n", i, quoted)
	}
	fmt.Fprintln(&rules, "]}]")
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	require.NoError(t, os.WriteFile(path, rules.Bytes(), 0o600))
	promtool(t, "", "check", "rules", path)
}

var (
	ourName    = regexp.MustCompile(`\bticketgate_\w+`)
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (ticketgate_\w+) (\w+)$`)
	labelNames = regexp.MustCompile(`(\w+)="`)
)

// The dashboard and the alerts ask for what there is, and the dashboard shows all of it.
func TestDashboard_NamesAreThoseOfTheScrape(t *testing.T) {
	w := watch(t)
	w.signOut(w.signInAndReplay())
	_, body := w.do("GET", w.scraped, nil)
	known, unseen := make(map[string]bool), make(map[string]bool)
	for _, family := range typeLine.FindAllStringSubmatch(body, -1) {
		known[family[1]], unseen[family[1]] = true, true
		if family[2] == "histogram" {
			known[family[1]+"_bucket"], known[family[1]+"_count"] = true, true
		}
	}
	for _, label := range labelNames.FindAllStringSubmatch(body, -1) {
		known[label[1]] = true
	}
	alerts, err := os.ReadFile(folder + "alerts.yml")
	require.NoError(t, err)
	for _, text := range append(queries(t), string(alerts)) {
		for _, name := range ourName.FindAllString(text, -1) {
			assert.True(t, known[name], name)
		}
	}
	for _, expr := range queries(t) {
		for _, name := range ourName.FindAllString(expr, -1) {
			delete(unseen, strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"))
		}
	}
	require.Empty(t, unseen, "no panel shows them")
	require.Len(t, typeLine.FindAllString(body, -1), 12)
}
