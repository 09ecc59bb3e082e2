package middleware

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// refusals is the code's table of refusals, by name.
func refusals(t *testing.T) map[string]refusal {
	t.Helper()
	literals := map[string]string{} // of constants, and of audit's events
	rows := map[string][]ast.Expr{}
	for prefix, name := range map[string]string{"": "rejection.go", "audit.": "../audit/event.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				switch value := spec.Values[0].(type) {
				case *ast.BasicLit:
					literals[prefix+spec.Names[0].Name] = value.Value
				case *ast.UnaryExpr: // &refusal{…}
					rows[spec.Names[0].Name] = value.X.(*ast.CompositeLit).Elts
				}
			}
			return true
		})
	}
	text := func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.SelectorExpr:
			return literals["audit."+e.Sel.Name]
		case *ast.Ident:
			return literals[e.Name]
		}
		return e.(*ast.BasicLit).Value
	}
	table := map[string]refusal{}
	for name, fields := range rows {
		require.Len(t, fields, 5, name)
		str := func(i int) string {
			s, err := strconv.Unquote(text(fields[i]))
			require.NoError(t, err)
			return s
		}
		num := func(i int) int {
			n, err := strconv.Atoi(text(fields[i]))
			require.NoError(t, err)
			return n
		}
		table[name] = refusal{num(0), str(1), num(2), audit.Event(str(3)), str(4)}
	}
	require.Equal(t, *refusedGoingAway, table["refusedGoingAway"])
	require.Equal(t, *refusedNoSession, table["refusedNoSession"])
	return table
}

// The package doc has the table of refusals as the code has it.
func TestRefusals_DocHasTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	require.NoError(t, err)
	const head = "event                   status error                      close reasons\n"
	_, table, found := strings.Cut(file.Doc.Text(), head)
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	table = regexp.MustCompile(`,\n\t {20,}`).ReplaceAllString(table, ", ")

	reasons := map[string][]string{}
	for _, row := range refusals(t) {
		closeCode := "-"
		if row.closeCode != 0 {
			closeCode = strconv.Itoa(row.closeCode)
		}
		group := fmt.Sprintf("%-23s %d    %-26s %-5s", cmp.Or(row.event, "-"), row.status, row.code,
			closeCode)
		reasons[group] = append(reasons[group], row.reason)
	}
	var want []string
	for group, rs := range reasons {
		slices.Sort(rs)
		want = append(want, "\t"+group+" "+strings.Join(slices.Compact(rs), ", "))
	}
	slices.Sort(want)
	assert.Equal(t, strings.Join(want, "\n"), table)
}

// Each row is complete, and the same status means the same.
func TestRefusals_RowsAreConsistent(t *testing.T) {
	closeCodes := map[int]int{401: 4401, 403: 4403, 429: 4429, 503: 1013}
	for name, row := range refusals(t) {
		assert.NotEmpty(t, http.StatusText(row.status), name)
		assert.NotEmpty(t, row.code, name)
		assert.NotEmpty(t, row.reason, name)
		if row != *refusedGoingAway {
			assert.Equal(t, closeCodes[row.status], row.closeCode, name)
		}
		if row.event == audit.TicketRejected && row.status == 401 {
			assert.Equal(t, "ticket_rejected", row.code, "a client must not learn what is wrong")
		}
		rej := reject(&row, nil)
		assert.Equal(t, row.status == 429 || row.status == 503, rej.RetryAfter > 0, name)
	}
}
