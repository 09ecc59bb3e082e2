package redisstore_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// BenchmarkMintConsume compares minting and consuming a ticket with what Redis makes of the same
// two steps without any promise: SET EX and GETDEL of as many bytes, by the same client. The two
// take turns, a batch each, so that what else the machine does strikes both; "ratio" is the
// throughput of the one over the other's, and ns/op is of a ticket.
//
//	go test -run '^$' -bench MintConsume -benchtime 20000x
func BenchmarkMintConsume(b *testing.B) {
	client := newClient(b, newRedis(b).Addr, func(o *redis.Options) { o.PoolSize = 64 })
	issuer, err := tickets.NewIssuer(
		newStore(b, client, nil),
		&tickets.IssuerOptions{MaxPerSession: 1 << 30},
	)
	require.NoError(b, err)
	b.Cleanup(func() { issuer.Close() })
	require.Eventually(
		b,
		func() bool { return issuer.Health() == nil },
		10*time.Second,
		time.Millisecond,
	)
	g := tickets.Grant{SessionID: "s1", Provider: "oidc", UserID: "u1"}
	sealed := tickets.Ticket("of a usual size").Key().Seal(g)

	ticket := func() error {
		t, err := issuer.Mint(ctx, g)
		if err == nil {
			_, err = issuer.Consume(ctx, t)
		}
		return err
	}
	bare := func() error {
		var random [32]byte
		rand.Read(random[:])
		key := fmt.Sprintf("bare:%x", random)
		if err := client.Set(ctx, key, sealed, 30*time.Second).Err(); err != nil {
			return err
		}
		return client.GetDel(ctx, key).Err()
	}
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			var ofTickets time.Duration
			var ratios []float64
			for done := 0; done < b.N; {
				n := min(max(100, 2*callers), b.N-done)
				ofBare := batch(b, callers, n, bare)
				took := batch(b, callers, n, ticket)
				ratios = append(ratios, float64(ofBare)/float64(took))
				ofTickets += took
				done += n
			}
			slices.Sort(ratios)
			b.ReportMetric(float64(ofTickets.Nanoseconds())/float64(b.N), "ns/op")
			b.ReportMetric(ratios[len(ratios)/2], "ratio") // the median of turn by turn
		})
	}
}

// batch does n things by so many callers, and returns how long it took.
func batch(b *testing.B, callers, n int, do func() error) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for c := range callers {
		wg.Go(func() {
			for i := c; i < n; i += callers {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// BenchmarkRevoke measures how long it takes until another node has acted on a revocation: from the
// call of Revoke at the one to the listener of the other.
//
//	go test -run '^$' -bench Revoke -benchtime 2000x
func BenchmarkRevoke(b *testing.B) {
	addr := newRedis(b).Addr
	var issuers [2]*tickets.Issuer
	for i := range issuers {
		var err error
		issuers[i], err = tickets.NewIssuer(newStore(b, newClient(b, addr), nil), nil)
		require.NoError(b, err)
		b.Cleanup(func() { issuers[i].Close() })
		require.Eventually(
			b,
			func() bool { return issuers[i].Health() == nil },
			10*time.Second,
			time.Millisecond,
		)
	}
	received := make(chan time.Time, 1)
	issuers[1].OnRevoke(func(tickets.Revocation) { received <- time.Now() })
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		require.NoError(
			b,
			issuers[0].Revoke(ctx, tickets.Revocation{SessionID: fmt.Sprint(i), Reason: "logout"}),
		)
		took = append(took, (<-received).Sub(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
}
