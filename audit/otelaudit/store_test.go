package otelaudit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"

	"github.com/ticketgate/ticketgate/audit/otelaudit"
	"github.com/ticketgate/ticketgate/internal/testserver/sharedstore"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

func measure(store tickets.Store, provider metric.MeterProvider) tickets.Store {
	return otelaudit.Store(store, &otelaudit.Options{MeterProvider: provider})
}

func TestStore_KeepsTheContract(t *testing.T) {
	provider, _ := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		storetest.Run(t, func() (tickets.Store, error) {
			return measure(tickets.NewMemoryStore(nil), provider), nil
		})
	})
}

func TestStore_SharedKeepsTheContract(t *testing.T) {
	provider, _ := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		newNode := func() (tickets.Store, error) { return measure(server.Node(), provider), nil }
		storetest.Run(t, newNode)
		storetest.RunShared(t, newNode)
	})
}

// keeping is a RevocationLog that says how long it keeps revocations.
type keeping struct{ *sharedstore.Node }

func (keeping) KeepsRevocations() time.Duration { return time.Minute }

func TestStore_HasTheMethodsOfTheStore(t *testing.T) {
	provider, _ := newProvider(t)
	type keeps interface{ KeepsRevocations() time.Duration }
	for _, tt := range []struct {
		name       string
		store      tickets.Store
		log, keeps bool
	}{
		{"memory", tickets.NewMemoryStore(nil), false, false},
		{"log", new(sharedstore.Server).Node(), true, false},
		{"log that keeps", keeping{new(sharedstore.Server).Node()}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := measure(tt.store, provider)
			_, log := store.(tickets.RevocationLog)
			assert.Equal(t, tt.log, log)
			_, keeps := store.(keeps)
			assert.Equal(t, tt.keeps, keeps)
		})
	}
	_, err := tickets.NewIssuer(measure(keeping{new(sharedstore.Server).Node()}, provider), nil)
	require.ErrorContains(t, err, "RememberRevocations")
}

// NewIssuer refuses a nil store, and must see it.
func TestStore_NilStaysNil(t *testing.T) {
	require.Nil(t, otelaudit.Store(nil, nil))
	_, err := tickets.NewIssuer(otelaudit.Store((*tickets.MemoryStore)(nil), nil), nil)
	require.ErrorContains(t, err, "nil")
}

// failing fails every operation with the same error.
type failing struct{ err error }

func (f failing) Put(context.Context, tickets.Key, tickets.Grant) error { return f.err }

func (f failing) Take(context.Context, tickets.Key) (tickets.Grant, error) {
	return tickets.Grant{}, f.err
}

func (f failing) Append(context.Context, tickets.Revocation) error { return f.err }

func (f failing) Next(context.Context, string) ([]tickets.Revocation, string, error) {
	return nil, "", f.err
}

func TestStore_MeasuresByOperationAndError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{tickets.ErrUnknown, ""},
		{tickets.ErrUsed, ""},
		{fmt.Errorf("wrapped: %w", tickets.ErrExpired), ""},
		{tickets.ErrFull, "error.type=full,"},
		{fmt.Errorf("wrapped: %w", context.DeadlineExceeded), "error.type=timeout,"},
		{os.ErrDeadlineExceeded, "error.type=timeout,"},
		{context.Canceled, "error.type=canceled,"},
		{errors.New("ticket 3q2-7w of ann refused by redis-7"), "error.type=_OTHER,"},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) {
			provider, reader := newProvider(t)
			store := measure(failing{tt.err}, provider)
			assert.Equal(t, tt.err, store.Put(ctx, tickets.Key{}, tickets.Grant{}))
			_, err := store.Take(ctx, tickets.Key{})
			assert.Equal(t, tt.err, err)
			log := store.(tickets.RevocationLog)
			assert.Equal(t, tt.err, log.Append(ctx, tickets.Revocation{}))
			_, _, err = log.Next(ctx, "")
			assert.Equal(t, tt.err, err)
			got := values(t, reader)
			delete(got, "revocation_log.staleness")
			want := make(map[string]float64)
			for _, operation := range []string{"put", "take", "append"} {
				want["store.operation.duration{"+tt.want+"store.operation="+operation+"}"] = 1
			}
			require.Equal(t, want, got)
		})
	}
}

// Staleness is what Issuer.Health goes by: about 0 while Next succeeds, and then as time passes.
func TestStore_ReportsStaleness(t *testing.T) {
	provider, reader := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		server := new(sharedstore.Server)
		issuer, err := tickets.NewIssuer(measure(server.Node(), provider),
			&tickets.IssuerOptions{MaxStaleness: 30 * time.Second})
		require.NoError(t, err)
		defer issuer.Close()
		staleness := func() float64 { return values(t, reader)["revocation_log.staleness"] }

		time.Sleep(time.Minute)
		require.NoError(t, issuer.Health())
		require.Less(t, staleness(), 1.5)

		server.Fail(errors.New("down"))
		time.Sleep(time.Minute)
		require.ErrorIs(t, issuer.Health(), tickets.ErrStale)
		require.InDelta(t, 60, staleness(), 1.5)

		server.Fail(nil)
		time.Sleep(3 * time.Second) // a backoff and a heartbeat
		require.NoError(t, issuer.Health())
		require.Less(t, staleness(), 1.5)

		server.Flush() // a gap is no success, but the log is read again at once
		time.Sleep(3 * time.Second)
		require.Less(t, staleness(), 1.5)
	})
}
