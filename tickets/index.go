package tickets

import "math/bits"

// index is an open-addressed hash table from 64-bit hashes to positions in a slab. It is kept this
// plain for three reasons: without pointers the garbage collector does not look inside, 4 bytes a
// slot is a fraction of what a map costs, and it grows without touching more than its own slots and
// the hashes it is told.
//
// A slot is a tag of 10 bits of the hash and a position of 22 bits plus one; 0 is empty. Nothing is
// ever removed from an index: it is dropped with its generation.
type index struct {
	slots []uint32 // a power of two
	n     int
}

const (
	positionBits = 22
	maxPositions = 1<<positionBits - 1
	firstSlots   = 16
)

func slotOf(hash uint64, position uint32) uint32 { return tagOf(hash)<<positionBits | (position + 1) }

func tagOf(hash uint64) uint32 { return uint32(hash >> (64 - 10)) }

func positionOf(slot uint32) uint32 { return slot&(1<<positionBits-1) - 1 }

// seek probes for hash from slot at, which is the hash itself for the first look and the slot after
// the last candidate for the next one. It returns the position of the next entry whose tag fits, or
// !found and the empty slot where the entry would go.
func (x *index) seek(hash, at uint64) (slot uint64, position uint32, found bool) {
	mask := uint64(len(x.slots) - 1)
	tag := tagOf(hash)
	for {
		at &= mask
		v := x.slots[at]
		if v == 0 {
			return at, 0, false
		}
		if v>>positionBits == tag {
			return at, positionOf(v), true
		}
		at++
	}
}

// crowded says that the index has to grow before so many more are added. Three quarters is where the
// runs of linear probing start to get long.
func (x *index) crowded(more int) bool { return 4*(x.n+more) > 3*len(x.slots) }

// clear empties the index into twice the room, or into enough for n. The caller adds everything again.
func (x *index) clear(n int) {
	x.slots = make([]uint32, max(firstSlots, 2*len(x.slots), 1<<bits.Len(uint(n+n/3))))
	x.n = 0
}

// add enters a position whose hash the caller knows not to be in the index yet.
func (x *index) add(hash uint64, position uint32) { x.fill(hash, slotOf(hash, position)) }

// addAll enters several slots, and overwrites their hashes. It looks at the places of all of them
// before it waits for the first, so that memory answers for all in the time of one.
func (x *index) addAll(hashes []uint64, slots []uint32) {
	mask := uint64(len(x.slots) - 1)
	for i, at := range hashes {
		if x.slots[at&mask] != 0 {
			at++
		}
		hashes[i] = at
	}
	for i, at := range hashes {
		x.fill(at, slots[i])
	}
}

// fill fills the first empty place from at on.
func (x *index) fill(at uint64, slot uint32) {
	mask := uint64(len(x.slots) - 1)
	for at &= mask; x.slots[at] != 0; {
		at = (at + 1) & mask
	}
	x.slots[at] = slot
	x.n++
}
