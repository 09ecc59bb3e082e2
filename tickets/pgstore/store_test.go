package pgstore_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// The contract holds for every kind of pool, and for all defaults of the role.
func TestStore_Contract(t *testing.T) {
	s := server(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, edits := range map[string][]func(*pgxpool.Config){
		"default":        nil,
		"one connection": {maxConns(1)},
		"repeatable read": {
			maxConns(8), parameter("default_transaction_isolation", "repeatable read"),
		},
		"serializable": {
			maxConns(8), parameter("default_transaction_isolation", "serializable"),
		},
		"other settings": {parameter("synchronous_commit", "off"),
			parameter("TimeZone", "Asia/Kathmandu"),
			parameter("DateStyle", "German"), parameter("bytea_output", "escape"),
			parameter("standard_conforming_strings", "off")},
	} {
		pool, schema := newPool(t, s.URL("postgres"), edits...), newSchema()
		node := func() (tickets.Store, error) {
			return pgstore.New(
				context.Background(),
				pool,
				&pgstore.Options{Schema: schema, CreateTables: true, Timeout: patience},
			)
		}
		wg.Go(func() { // not parallel subtests, which are as few as there are processors
			assert.NoError(t, errors.Join(storetest.Check(node), storetest.CheckShared(node)), name)
		})
	}
}

func newTicket() tickets.Ticket {
	var secret [32]byte
	rand.Read(secret[:])
	return tickets.Ticket(base64.RawURLEncoding.EncodeToString(secret[:]))
}

func grant(life time.Duration) tickets.Grant {
	now := time.Now()
	return tickets.Grant{
		SessionID: "s1",
		Provider:  "oidc",
		UserID:    "u1",
		MintedAt:  now,
		ExpiresAt: now.Add(life),
	}
}

func put(t testing.TB, s tickets.Store) tickets.Key {
	t.Helper()
	key := newTicket().Key()
	require.NoError(t, s.Put(t.Context(), key, grant(time.Minute)))
	return key
}

func take(s tickets.Store, key tickets.Key) error {
	_, err := s.Take(context.Background(), key)
	return err
}

// One of many concurrent callers gets the ticket and all others get ErrUsed, at every isolation
// level. Above READ COMMITTED the server answers "could not serialize access" (SQLSTATE 40001).
func TestTake_LosersGetErrUsed(t *testing.T) {
	s := server(t)
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			// The default of the role is not what the constructor saw, so that nothing is known of
			// it.
			url := s.URL("postgres")
			pool := newPool(t, url, maxConns(16))
			store := newStore(t, pool, newSchema())
			sql(t, s, "", "ALTER ROLE postgres SET default_transaction_isolation = '"+level+"'")
			defer sql(t, s, "", "ALTER ROLE postgres RESET default_transaction_isolation")
			pool.Reset()
			for range 30 {
				key := put(t, store)
				var won, used, failed atomic.Int32
				var wg sync.WaitGroup
				start := make(chan struct{})
				for range 16 {
					wg.Go(func() {
						<-start
						switch err := take(store, key); {
						case err == nil:
							won.Add(1)
						case errors.Is(err, tickets.ErrUsed):
							used.Add(1)
						default:
							failed.Add(1)
							t.Log(err)
						}
					})
				}
				close(start)
				wg.Wait()
				require.EqualValues(
					t,
					[]int32{1, 15, 0},
					[]int32{won.Load(), used.Load(), failed.Load()},
					"won, used, failed",
				)
			}
		})
	}
}

// Every row of every table, in every spelling, has no secret and no name.
func TestStore_HoldsNoSecretsAndNoNames(t *testing.T) {
	s := server(t)
	schema := newSchema()
	store := newStore(t, newPool(t, s.URL("postgres")), schema)
	issuer, err := tickets.NewIssuer(store, nil)
	require.NoError(t, err)
	defer issuer.Close()
	canaries := map[string]string{
		"session":  "canary-session",
		"provider": "canary-provider",
		"user":     "canary-user",
		"endpoint": "/canary-endpoint",
		"data":     "canary-data",
	}
	g := tickets.Grant{
		SessionID: canaries["session"], Provider: canaries["provider"], UserID: canaries["user"],
		Endpoint: canaries["endpoint"], Data: canaries["data"],
	}
	require.Eventually(t, func() bool { return issuer.Health() == nil }, patience, time.Millisecond)
	for n := range 3 {
		ticket, err := issuer.Mint(t.Context(), g)
		require.NoError(t, err)
		canaries[fmt.Sprint("ticket ", n)] = string(ticket)
		if n > 0 {
			_, err = issuer.Consume(t.Context(), ticket)
			require.NoError(t, err)
		}
	}
	require.NoError(
		t,
		issuer.Revoke(t.Context(), tickets.Revocation{SessionID: g.SessionID, Reason: "logout"}),
	)
	require.NoError(
		t,
		issuer.Revoke(
			t.Context(),
			tickets.Revocation{Provider: g.Provider, UserID: g.UserID, Reason: "stolen phone"},
		),
	)
	rows := 0
	for _, table := range []string{"tickets", "revocations"} {
		text := sql(t, s, schema, "SELECT string_agg(t::text, E'\\n') FROM {s}."+table+" t")
		rows += 1 + strings.Count(text, "\n")
		raw := unhex(text)
		for name, canary := range canaries {
			for _, spelling := range []string{
				canary, base64.StdEncoding.EncodeToString([]byte(canary))[:8],
			} {
				assert.NotContains(t, text, spelling, name)
				assert.NotContains(t, raw, spelling, name)
			}
		}
		if table == "revocations" {
			assert.Contains(t, raw, "logout") // it is the right table, and read rightly
		}
	}
	assert.GreaterOrEqual(t, rows, 3+1+2+1)
	assert.Equal(
		t,
		"2",
		sql(
			t,
			s,
			"",
			fmt.Sprintf(
				"SELECT count(*) FROM pg_class "+
					"WHERE relkind = 'r' AND relnamespace = '%q'::regnamespace",
				schema,
			),
		),
	)
}

// unhex spells every \x… of a row as the bytes that it is.
func unhex(text string) string {
	var b strings.Builder
	for _, field := range strings.FieldsFunc(text,
		func(r rune) bool { return strings.ContainsRune("(),\"\\x\n", r) }) {
		if raw, err := hex.DecodeString(field); err == nil {
			b.Write(raw)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// A ticket is good as the very row that Put wrote, in the life of the process that it was put into.
func TestTake_RefusesRowsThatCameBack(t *testing.T) {
	for name, back := range map[string]func(t *testing.T, s *servers.Postgres, schema string){
		"from a dump of the table": func(t *testing.T, s *servers.Postgres, schema string) {
			sql(t, s, schema, `CREATE UNLOGGED TABLE {s}.dump AS TABLE {s}.tickets;
				TRUNCATE {s}.tickets; INSERT INTO {s}.tickets TABLE {s}.dump`)
		},
		// A shutdown in good order keeps UNLOGGED tables: so does a copy of the files that it
		// leaves.
		"after a restart": func(t *testing.T, s *servers.Postgres, _ string) {
			s.Shutdown()
			require.NoError(t, s.Start())
		},
		"after a crash": func(t *testing.T, s *servers.Postgres, _ string) {
			s.Crash()
			require.NoError(t, s.Start())
		},
		"after a backend was killed": func(t *testing.T, s *servers.Postgres, _ string) {
			other, err := newPool(t, s.URL("postgres")).Acquire(t.Context())
			require.NoError(t, err)
			defer other.Release()
			_, err = s.Do("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
			require.Error(t, err)
			require.Eventually(t, func() bool { // until the server has seen that, all goes on
				_, err := other.Exec(t.Context(), "SELECT 1")
				return err != nil
			}, patience, time.Millisecond)
			require.NoError(t,
				s.Await(patience, func() error { _, err := s.Do("SELECT 1"); return err }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server(t)
			s, err := servers.NewPostgres(t.TempDir())
			require.NoError(t, err)
			defer s.Close()
			schema := newSchema()
			store := newStore(t, newPool(t, s.URL("postgres")), schema)
			used, unused := put(t, store), put(t, store)
			require.NoError(t, take(store, used))
			back(t, s, schema)
			var err2 error
			require.Eventually(t, func() bool { // the pool's connections are lost
				err, err2 = take(store, used), take(store, unused)
				return errors.Is(err, tickets.ErrInvalid) && errors.Is(err2, tickets.ErrInvalid)
			}, patience, 10*time.Millisecond, "%v; %v", err, err2)
			assert.ErrorIs(t, err2, tickets.ErrUnknown)
			require.NoError(t, take(store, put(t, store)), "new tickets are good")
		})
	}
}

// Every 64th Put deletes some expired rows. Valid ones stay.
func TestPut_SweepsExpiredRows(t *testing.T) {
	s := server(t)
	schema := newSchema()
	store := newStore(t, newPool(t, s.URL("postgres")), schema)
	for range 2000 {
		put(t, store)
	}
	good := put(t, store)
	id := good.ID()
	sql(
		t,
		s,
		schema,
		fmt.Sprintf(
			`UPDATE {s}.tickets SET ends = now() - interval '7 seconds' WHERE id <> '\x%x'`,
			id,
		),
	)
	expired := func() string {
		return sql(t, s, schema, "SELECT count(*) FROM {s}.tickets WHERE ends < now()")
	}
	require.NotEqual(t, "0", expired())
	for range 12 * 64 {
		put(t, store)
	}
	assert.Equal(t, "0", expired())
	assert.NoError(t, take(store, good))
	assert.Equal(t, fmt.Sprint(1+12*64), sql(t, s, schema, "SELECT count(*) FROM {s}.tickets"))
}
