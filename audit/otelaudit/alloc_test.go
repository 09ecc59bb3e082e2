//go:build !race

package otelaudit_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The race detector makes a sync.Pool forget.
func TestRecord_BothSinksAllocateAtMostTwice(t *testing.T) {
	for _, cost := range costs {
		_, both := sinks(t)
		allocs := testing.AllocsPerRun(100, func() { both.Record(ctx, cost.event, cost.attrs...) })
		require.LessOrEqual(t, allocs, 2.0, cost.event)
	}
}
