package middleware

import (
	"cmp"
	"fmt"
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

// The package doc has the table of refusals as the code has it.
func TestRefusals_DocHasTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	require.NoError(t, err)
	_, table, found := strings.Cut(file.Doc.Text(), "event                   status error                      close reasons\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	table = regexp.MustCompile(`,\n\t {20,}`).ReplaceAllString(table, ", ")

	var want []string
	reasons := map[string][]string{}
	for _, row := range refusals {
		closeCode := "-"
		if row.closeCode != 0 {
			closeCode = strconv.Itoa(row.closeCode)
		}
		group := fmt.Sprintf("%-23s %d    %-26s %-5s", cmp.Or(row.event, "-"), row.status, row.code, closeCode)
		if _, known := reasons[group]; !known {
			want = append(want, group)
		}
		if !slices.Contains(reasons[group], row.reason) {
			reasons[group] = append(reasons[group], row.reason)
		}
	}
	slices.Sort(want)
	for i, group := range want {
		want[i] = "\t" + group + " " + strings.Join(reasons[group], ", ")
	}
	assert.Equal(t, strings.Join(want, "\n"), table)
}

// Each row is complete, and says the same of the same status.
func TestRefusals_RowsAreConsistent(t *testing.T) {
	closeCodes := map[int]int{401: 4401, 403: 4403, 429: 4429, 503: 1013}
	for i, row := range refusals {
		assert.NotEmpty(t, http.StatusText(row.status), i)
		assert.NotEmpty(t, row.code, i)
		assert.NotEmpty(t, row.reason, i)
		if refusal(i) != refusedGoingAway {
			assert.Equal(t, closeCodes[row.status], row.closeCode, i)
		}
		if row.event == audit.TicketRejected && row.status == 401 {
			assert.Equal(t, "ticket_rejected", row.code, "the client must not learn what is wrong with a ticket")
		}
		rej := reject(refusal(i), nil)
		assert.Equal(t, row.status == 429 || row.status == 503, rej.RetryAfter > 0, i)
	}
}
