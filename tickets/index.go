package tickets

import (
	"iter"
	"math/bits"
)

// index is a hash table from 32-bit hashes to positions in the bytes of a generation: open
// addressing, linear probing. Entries are never removed: an index is dropped with its generation.
//
// It is not the builtin map because it is what keeps a MemoryStore small and out of the garbage
// collector's way. With map[[32]byte]position a ticket takes 2.1 times as much memory, twice what
// the best other cache takes. With the grants in maps, a collection beside a million tickets takes
// 300 ms instead of 2.
//
// A slot is hash << 32 | position + 1; 0 is empty. The newest entries, which are the ones that are
// looked for most, are not in the table yet: they enter it many at a time. A place in a large table
// is seldom in the processor's cache, and memory answers for many in the time of one. Without this
// an exchange of a ticket takes a sixth longer.
type index struct {
	slots   []uint64 // a power of two of them
	n       int      // entries in slots
	newest  [newestSlots]uint64
	waiting int // entries in newest
}

const newestSlots = 16

// newIndex returns an index with room for n entries.
func newIndex(n int) index {
	n += newestSlots
	return index{slots: make([]uint64, 1<<bits.Len(uint(n+n/3)))}
}

// len returns the number of entries.
func (x *index) len() int { return x.n + x.waiting }

// add enters a position under a hash, which may have others.
func (x *index) add(hash, position uint32) {
	if x.waiting == newestSlots {
		x.enter()
	}
	x.newest[x.waiting] = uint64(hash)<<32 | uint64(position+1)
	x.waiting++
}

// enter moves the newest entries into the table.
func (x *index) enter() {
	if 4*(x.n+newestSlots) > 3*len(x.slots) { // beyond three quarters probing gets long
		old := x.slots
		x.slots = make([]uint64, 2*len(old))
		for _, slot := range old {
			if slot != 0 {
				x.place(slot)
			}
		}
	}
	for _, slot := range x.newest {
		x.place(slot)
	}
	x.n += newestSlots
	x.waiting = 0
}

func (x *index) place(slot uint64) {
	mask := uint32(len(x.slots) - 1)
	at := uint32(slot>>32) & mask
	for x.slots[at] != 0 {
		at = (at + 1) & mask
	}
	x.slots[at] = slot
}

// positions yields every position that was entered under the hash.
func (x *index) positions(hash uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for i := x.waiting - 1; i >= 0; i-- {
			if slot := x.newest[i]; uint32(slot>>32) == hash && !yield(uint32(slot)-1) {
				return
			}
		}
		if x.n == 0 {
			return
		}
		mask := uint32(len(x.slots) - 1)
		for at := hash & mask; x.slots[at] != 0; at = (at + 1) & mask {
			if slot := x.slots[at]; uint32(slot>>32) == hash && !yield(uint32(slot)-1) {
				return
			}
		}
	}
}
