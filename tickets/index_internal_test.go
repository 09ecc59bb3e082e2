package tickets

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Against a map, with hashes of which many are equal or share a slot.
func TestIndex_AgainstAMap(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 4))
		x := newIndex(random.IntN(100))
		want := map[uint32][]uint32{}
		hash := func() uint32 {
			switch random.IntN(4) {
			case 0:
				return random.Uint32N(8) // many of each
			case 1:
				return random.Uint32N(16)<<28 | 7 // one slot
			case 2:
				return ^random.Uint32N(8) // the last slots, from which probing wraps
			}
			return random.Uint32()
		}
		for position := range uint32(3000) {
			h := hash()
			x.add(h, position)
			want[h] = append(want[h], position)
		}
		require.Equal(t, 3000, x.len())
		for h, positions := range want {
			require.ElementsMatch(t, positions, slices.Collect(x.positions(h)))
		}
		for range 1000 {
			if h := hash(); want[h] == nil {
				require.Empty(t, slices.Collect(x.positions(h)))
			}
		}
	}
}

func TestIndex_EmptyAndExtremes(t *testing.T) {
	x := newIndex(0)
	require.Empty(t, slices.Collect(x.positions(0)))
	x.add(0, 0)
	x.add(0, 1<<32-2) // the largest position
	x.add(1<<32-1, 5)
	require.ElementsMatch(t, []uint32{0, 1<<32 - 2}, slices.Collect(x.positions(0)))
	require.Equal(t, []uint32{5}, slices.Collect(x.positions(1<<32-1)))
	for range x.positions(0) { // a caller may stop at the first
		break
	}
	for n := range uint32(100) { // until these three are in the table
		x.add(7, n)
	}
	require.ElementsMatch(t, []uint32{0, 1<<32 - 2}, slices.Collect(x.positions(0)))
	require.Equal(t, []uint32{5}, slices.Collect(x.positions(1<<32-1)))
	for range x.positions(7) {
		break
	}
}

// With the expected number of entries an index never grows.
func TestIndex_RoomForTheExpected(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 100, 767, 768, 769, 5000} {
		x := newIndex(n)
		slots := len(x.slots)
		for position := range n {
			x.add(rand.Uint32(), uint32(position))
		}
		require.Len(t, x.slots, slots, "%d entries", n)
	}
}
