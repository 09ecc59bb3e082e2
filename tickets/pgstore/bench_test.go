package pgstore_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

// Mint and consume beside the least that any store needs: INSERT and DELETE … RETURNING of a row
// of the same size in the same UNLOGGED table, through the same pool. They take turns of some
// 100 ms, so that other load falls on both; the ratio is the median of turn by turn.
func BenchmarkMintConsume(b *testing.B) {
	s := server(b)
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			pool, schema := newPool(b, s.URL("postgres"), maxConns(16)), newSchema()
			store, err := pgstore.New(
				b.Context(),
				pool,
				&pgstore.Options{Schema: schema, CreateTables: true, Timeout: 5 * time.Second},
			)
			if err != nil {
				b.Fatal(err)
			}
			issuer, err := tickets.NewIssuer(store, &tickets.IssuerOptions{MaxPerSession: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer issuer.Close()
			for issuer.Health() != nil {
				time.Sleep(time.Millisecond)
			}
			g := tickets.Grant{
				SessionID: "0123456789abcdef0123456789abcdef",
				Provider:  "oidc",
				UserID:    "0123456789abcdef",
			}
			mintConsume := func(ctx context.Context) error {
				t, err := issuer.Mint(ctx, g)
				if err == nil {
					_, err = issuer.Consume(ctx, t)
				}
				return err
			}
			size := len(tickets.Ticket("0123456789012345678901234567890123456789abc").Key().Seal(g))
			bare := bareExchange(pool, schema, size)
			var ratios []float64
			var ours, floor turns
			for b.Loop() {
				f := floor.run(b, callers, bare)
				o := ours.run(b, callers, mintConsume)
				ratios = append(ratios, o/f)
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-bare")
			b.ReportMetric(ours.rate(), "exchanges/s")
			b.ReportMetric(floor.rate(), "bare/s")
			b.ReportMetric(0, "ns/op") // of a turn of each: says nothing
		})
	}
}

func bareExchange(pool *pgxpool.Pool, schema string, size int) func(context.Context) error {
	insert := fmt.Sprintf(
		`INSERT INTO %q.tickets (id, sealed, ends) VALUES ($1, $2, now() + interval '30 s')`,
		schema,
	)
	remove := fmt.Sprintf(`DELETE FROM %q.tickets WHERE id = $1 RETURNING sealed`, schema)
	return func(ctx context.Context) error {
		var secret [32]byte
		rand.Read(secret[:])
		text := base64.RawURLEncoding.EncodeToString(secret[:])
		id := sha256.Sum256([]byte(text))
		if _, err := pool.Exec(ctx, insert, id[:], make([]byte, size)); err != nil {
			return err
		}
		var sealed []byte
		return pool.QueryRow(ctx, remove, id[:]).Scan(&sealed)
	}
}

type turns struct {
	n    int64
	took time.Duration
}

func (t *turns) rate() float64 { return float64(t.n) / t.took.Seconds() }

// run lets all callers do f again and again, and returns how often they did, per second.
func (t *turns) run(b *testing.B, callers int, f func(context.Context) error) float64 {
	const turn = 100 * time.Millisecond
	began := time.Now()
	var n atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Since(began) < turn {
				if err := f(context.Background()); err != nil {
					b.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	t.n += n.Load()
	t.took += took
	return float64(n.Load()) / took.Seconds()
}

// From Revoke on one node to the listener on another, where the socket is closed.
func BenchmarkRevoke(b *testing.B) {
	s := server(b)
	schema := newSchema()
	open := func() *tickets.Issuer {
		issuer, err := tickets.NewIssuer(newStore(b, newPool(b, s.URL("postgres")), schema), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { issuer.Close() })
		for issuer.Health() != nil {
			time.Sleep(time.Millisecond)
		}
		return issuer
	}
	here, there := open(), open()
	received := make(chan time.Time)
	there.OnRevoke(func(tickets.Revocation) { received <- time.Now() })
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		began := time.Now()
		err := here.Revoke(
			b.Context(),
			tickets.Revocation{SessionID: fmt.Sprint("s", n), Reason: "logout"},
		)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-received).Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
	b.ReportMetric(0, "ns/op")
}
