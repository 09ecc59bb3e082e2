package tickets

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// A generation holds the tickets of one shard that expire within one stretch of time. Tickets
// expire in the order in which they were minted, near enough, so a generation fills, is left alone,
// and is then dropped whole. There is no scan, no timer and no pause, however many there are.
//
// Lifetimes differ: a session that is about to end has shorter tickets. So there are classes of
// lifetime, each a factor of four wide, and a generation is of one class. Else a few long tickets
// would keep many short ones in memory.
type generation struct {
	class   int
	until   time.Duration // the latest deadline that it takes
	n       int           // how many it holds
	chunks  [][]byte
	waiting int                 // how many of them are in newest only
	newest  [newestSlots]uint32 // as in the index
	index   index
	room    int    // how many are to be expected
	retired int    // entries at the front that are no longer counted
	cursor  uint32 // where the first one that is counted stands
}

// The place of an entry in a large index is seldom in the processor's cache, and to wait for it would
// be a sixth of what a ticket costs. So the newest entries, which are the ones that are used, stand in
// one line of the cache until they are entered in the index all at once: that many places arrive in
// the time of one.
const newestSlots = 16

// The first class reaches up to 8 s, the last beyond maxLifetime.
const firstClass = 8 * time.Second

func classOf(lifetime time.Duration) int {
	return (bits.Len64(uint64(max(lifetime-1, 0)/firstClass)) + 1) / 2
}

// widthOf is how far the deadlines in one generation lie apart: a quarter of the lifetime. Narrower
// generations drop sooner but are more to look through; this makes six or seven at most.
func widthOf(class int) time.Duration { return firstClass << (2 * class) / 4 }

func (g *generation) dropAt() time.Duration { return g.until + expiredMemory }

// generation returns the one that a ticket belongs in, and whether it had to be opened.
func (s *memoryShard) generation(class int, deadline time.Duration) (gen *generation, opened bool) {
	room := 0
	for i := len(s.generations) - 1; i >= 0; i-- {
		gen := s.generations[i]
		if gen.class != class {
			continue
		}
		if deadline <= gen.until && gen.hasRoom() {
			return gen, false
		}
		if room == 0 {
			room = gen.n // what came in the stretch of time before
		}
	}
	gen = &generation{class: class, until: deadline + widthOf(class), room: room}
	s.generations = append(s.generations, gen)
	return gen, true
}

// find returns where the entry of id is; nil if nowhere. Most tickets are used within a second, so
// the newest generation comes first.
func (s *memoryShard) find(id *[32]byte) (gen *generation, position uint32) {
	hash := hashOf(id)
	for i := len(s.generations) - 1; i >= 0; i-- {
		if gen := s.generations[i]; gen.n > 0 {
			if position, found := gen.find(hash, id); found {
				return gen, position
			}
		}
	}
	return nil, 0
}

func (g *generation) find(hash uint64, id *[32]byte) (position uint32, found bool) {
	tag := tagOf(hash)
	for i := g.waiting - 1; i >= 0; i-- {
		if slot := g.newest[i]; slot>>positionBits == tag && *g.entry(positionOf(slot)).id() == *id {
			return positionOf(slot), true
		}
	}
	if g.index.n == 0 {
		return 0, false
	}
	for at := hash; ; at++ {
		slot, position, found := g.index.seek(hash, at)
		if !found || *g.entry(position).id() == *id {
			return position, found
		}
		at = slot
	}
}

// An entry is a header and an encoded grant: the size of both in bytes (2 bytes), the used mark (1),
// one byte of nothing, the deadline (8) and the ID (32).
type entry []byte

const (
	entryUsed     = 2
	entryDeadline = 4
	entryID       = entryDeadline + 8
	entryGrant    = entryID + 32

	// Entries begin at multiples of unit and positions count units, so that 22 bits reach 32 MB.
	unit = 8
	// Entries are appended to chunks of this size, because a single slice would have to be copied
	// whole to grow. The first chunk does, so that few tickets take little.
	chunkSize  = 64 << 10
	chunkUnits = chunkSize / unit
)

func entrySize(g *Grant) int { return entryGrant + grantSize(g) }

func padded(size int) int { return (size + unit - 1) / unit * unit }

func (e entry) used() bool { return e[entryUsed] != 0 }
func (e entry) deadline() time.Duration {
	return time.Duration(binary.LittleEndian.Uint64(e[entryDeadline:]))
}
func (e entry) id() *[32]byte { return (*[32]byte)(e[entryID:]) }
func (e entry) grant() []byte { return e[entryGrant:] }

func (g *generation) entry(position uint32) entry {
	b := g.chunks[position/chunkUnits][position%chunkUnits*unit:]
	return entry(b[:binary.LittleEndian.Uint16(b)])
}

// end is the position after the last entry.
func (g *generation) end() uint32 {
	last := len(g.chunks) - 1
	if last < 0 {
		return 0
	}
	return uint32(last*chunkUnits + len(g.chunks[last])/unit)
}

// next returns the position of the entry after the one at position, or end.
func (g *generation) next(position uint32) uint32 {
	return g.skip(position + uint32(padded(len(g.entry(position)))/unit))
}

// skip moves a position at the end of what a chunk holds to the beginning of the next chunk.
func (g *generation) skip(position uint32) uint32 {
	chunk := position / chunkUnits
	if int(chunk) < len(g.chunks)-1 && int(position%chunkUnits*unit) == len(g.chunks[chunk]) {
		return (chunk + 1) * chunkUnits
	}
	return position
}

// hasRoom says that the positions suffice for one more chunk.
func (g *generation) hasRoom() bool { return (len(g.chunks)+1)*chunkUnits <= maxPositions }

func (g *generation) add(id *[32]byte, deadline time.Duration, grant *Grant, size int) {
	if g.waiting == newestSlots {
		g.enter()
	}
	last := len(g.chunks) - 1
	switch {
	case last < 0:
		g.chunks = append(g.chunks, nil)
		last++
	case len(g.chunks[last])+size > chunkSize:
		g.chunks = append(g.chunks, make([]byte, 0, chunkSize))
		last++
	}
	g.newest[g.waiting] = slotOf(hashOf(id), g.end())
	g.waiting++
	g.n++
	b := g.chunks[last]
	if cap(b)-len(b) < padded(size) { // double it: append would take many more steps
		b = append(make([]byte, 0, min(max(2*cap(b), 4*padded(size)), chunkSize)), b...)
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(deadline))
	b = append(b, id[:]...)
	b = appendGrant(b, grant)
	g.chunks[last] = b[:padded(len(b))]
}

// enter puts what waits into the index.
func (g *generation) enter() {
	if g.index.crowded(g.waiting) {
		g.index.clear(max(g.n, g.room))
		for p, end := uint32(0), g.end(); p < end; p = g.next(p) {
			g.index.add(hashOf(g.entry(p).id()), p)
		}
	} else {
		var hashes [newestSlots]uint64
		for i, slot := range g.newest[:g.waiting] {
			hashes[i] = hashOf(g.entry(positionOf(slot)).id())
		}
		g.index.addAll(hashes[:g.waiting], g.newest[:g.waiting])
	}
	g.waiting = 0
}

// use marks the entry as used. The newest one lets go of its grant as well, which is the rule rather
// than the exception: a page opens its socket at once, and what was used needs only its ID.
func (g *generation) use(position uint32) {
	e := g.entry(position)
	e[entryUsed] = 1
	last := len(g.chunks) - 1
	if g.next(position) == g.end() && position >= g.cursor { // retire has not passed it
		binary.LittleEndian.PutUint16(e, entryGrant)
		g.chunks[last] = g.chunks[last][:int(position%chunkUnits*unit)+padded(entryGrant)]
	}
}

// retire passes at most n expired entries at the front, and returns how many there were. It stops
// at the first that lives: where lifetimes are mixed, a short one may be counted until those minted
// before it have expired.
func (g *generation) retire(now time.Duration, n int) int {
	before := g.retired
	g.cursor = g.skip(g.cursor) // there may be another chunk since
	for end := g.end(); g.retired-before < n && g.cursor < end && now > g.entry(g.cursor).deadline(); {
		g.cursor = g.next(g.cursor)
		g.retired++
	}
	return g.retired - before
}
