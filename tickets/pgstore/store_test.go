package pgstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// Whatever a pool is like, and whatever the role's defaults are.
func TestStoreKeepsTheContract(t *testing.T) {
	s := server(t)
	for name, edits := range map[string][]func(*pgxpool.Config){
		"default":          nil,
		"one connection":   {maxConns(1)},
		"repeatable read":  {maxConns(8), parameter("default_transaction_isolation", "repeatable read")},
		"serializable":     {maxConns(8), parameter("default_transaction_isolation", "serializable")},
		"commits at once":  {parameter("synchronous_commit", "off")},
		"local time, etc.": {parameter("TimeZone", "Asia/Kathmandu"), parameter("DateStyle", "German"), parameter("bytea_output", "escape"), parameter("standard_conforming_strings", "off")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, schema := newPool(t, s.URL("postgres"), edits...), newSchema()
			node := func() (tickets.Store, error) {
				return pgstore.New(t.Context(), pool, &pgstore.Options{Schema: schema, CreateTables: true})
			}
			storetest.Run(t, node)
			storetest.RunShared(t, node)
		})
	}
}
