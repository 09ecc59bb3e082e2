package tickets

import (
	"encoding/binary"
	"time"
)

// A generation holds the tickets of one shard that were put within one stretch of time. It only
// grows, and is dropped whole when all of them have expired and been remembered as expired.
type generation struct {
	until   time.Duration // the latest deadline
	chunks  [][]byte      // entries, one after another
	index   index         // from the hash of an ID to the position of the entry
	counted int           // how many entries MemoryStore.count has; the oldest are taken off first
	front   [2]int        // chunk and offset of the oldest counted entry
}

// An entry is a header and an encoded grant: the size of both in bytes (2 bytes), the used mark
// (1), one unused byte, the deadline (8) and the ID (32).
type entry []byte

const (
	entryUsed     = 2
	entryDeadline = 4
	entryID       = entryDeadline + 8
	entryGrant    = entryID + 32
	maxEntry      = 1<<16 - 1

	// Entries begin at multiples of unit. A position is the number of a unit, counting chunkUnits
	// for every chunk: 32 bits reach 32 GB.
	unit = 8
	// Chunks are of this size, so that nothing is copied to grow. A larger entry has one of its
	// own.
	chunkSize  = 16 << 10
	chunkUnits = chunkSize / unit
	maxChunks  = (1<<32 - 1) / chunkUnits
)

func entrySize(g *Grant) int { return entryGrant + grantSize(g) }

func padded(size int) int { return (size + unit - 1) / unit * unit }

func (e entry) used() bool { return e[entryUsed] != 0 }
func (e entry) deadline() time.Duration {
	return time.Duration(binary.LittleEndian.Uint64(e[entryDeadline:]))
}
func (e entry) id() *[32]byte { return (*[32]byte)(e[entryID:]) }
func (e entry) grant() []byte { return e[entryGrant:] }

func (g *generation) entry(chunk, offset int) entry {
	b := g.chunks[chunk][offset:]
	return entry(b[:binary.LittleEndian.Uint16(b)])
}

// IDs are SHA-256: all parts of them are evenly distributed, and nobody can choose them.
func hashOf(id *[32]byte) uint32 { return binary.LittleEndian.Uint32(id[8:]) }

// find returns where the entry of id is.
func (g *generation) find(id *[32]byte) (chunk, offset int, found bool) {
	for position := range g.index.positions(hashOf(id)) {
		chunk, offset = int(position/chunkUnits), int(position%chunkUnits*unit)
		if *g.entry(chunk, offset).id() == *id {
			return chunk, offset, true
		}
	}
	return 0, 0, false
}

// add appends an entry of the given size. It reports false if the generation has no position left.
func (g *generation) add(id *[32]byte, deadline time.Duration, grant *Grant, size int) bool {
	last := len(g.chunks) - 1
	if last < 0 || len(g.chunks[last])+padded(size) > chunkSize {
		if last++; last == maxChunks {
			return false
		}
		g.chunks = append(g.chunks, make([]byte, 0, max(chunkSize, padded(size))))
	}
	b := g.chunks[last]
	g.index.add(hashOf(id), uint32(last*chunkUnits+len(b)/unit))
	g.until = max(g.until, deadline)
	g.counted++
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(deadline))
	b = append(b, id[:]...)
	b = appendGrant(b, grant)
	g.chunks[last] = b[:padded(len(b))]
	return true
}

// use marks an entry as used. If it is the newest one, its grant is cut off: most pages open their
// socket at once, and a used ticket needs only its ID.
func (g *generation) use(chunk, offset int) {
	e := g.entry(chunk, offset)
	e[entryUsed] = 1
	newest := chunk == len(g.chunks)-1 && offset+padded(len(e)) == len(g.chunks[chunk])
	if newest && g.counted > 0 { // else front is behind it already
		binary.LittleEndian.PutUint16(e, entryGrant)
		g.chunks[chunk] = g.chunks[chunk][:offset+padded(entryGrant)]
	}
}

// uncount takes at most limit expired entries off the count, oldest first, and returns how many. It
// stops at the first one that is valid: a ticket with a short lifetime is counted until those that
// were put before it have expired.
func (g *generation) uncount(now time.Duration, limit int) (n int) {
	for ; n < limit && g.counted > 0; n++ {
		chunk, offset := g.front[0], g.front[1]
		if offset == len(g.chunks[chunk]) {
			chunk, offset = chunk+1, 0
		}
		e := g.entry(chunk, offset)
		if now <= e.deadline() {
			break
		}
		g.front = [2]int{chunk, offset + padded(len(e))}
		g.counted--
	}
	return n
}
