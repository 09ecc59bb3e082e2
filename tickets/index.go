package tickets

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

func slotOf(hash uint64, position uint32) uint32 {
	return uint32(hash>>(64-10))<<positionBits | (position + 1)
}

// seek probes for hash from slot at, which is the hash itself for the first look and the slot after
// the last candidate for the next one. It returns the position of the next entry whose tag fits, or
// !found and the empty slot where the entry would go.
func (x *index) seek(hash, at uint64) (slot uint64, position uint32, found bool) {
	mask := uint64(len(x.slots) - 1)
	tag := slotOf(hash, 0) >> positionBits
	for {
		at &= mask
		v := x.slots[at]
		if v == 0 {
			return at, 0, false
		}
		if v>>positionBits == tag {
			return at, v&(1<<positionBits-1) - 1, true
		}
		at++
	}
}

// crowded says that the index has to grow before the next add. Three quarters is where the runs of
// linear probing start to get long.
func (x *index) crowded() bool { return 4*(x.n+1) > 3*len(x.slots) }

// clear empties the index into twice the room. The caller adds everything again.
func (x *index) clear() {
	x.slots = make([]uint32, max(firstSlots, 2*len(x.slots)))
	x.n = 0
}

// add enters a position whose hash the caller knows not to be in the index yet.
func (x *index) add(hash uint64, position uint32) {
	mask := uint64(len(x.slots) - 1)
	at := hash & mask
	for x.slots[at] != 0 {
		at = (at + 1) & mask
	}
	x.slots[at] = slotOf(hash, position)
	x.n++
}
