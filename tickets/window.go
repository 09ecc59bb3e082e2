package tickets

import "time"

// window has the mints of one shard within one stretch of time. A session's are a list, oldest
// first, the first of them within the list itself: most sessions mint one.
type window struct {
	start time.Duration
	last  time.Duration // the newest mint
	index index         // from the session's hash to its list
	lists slab[mintList]
	mints slab[mint]
}

type mintList struct {
	hash  uint64
	first mint
	tail  uint32 // position of the last mint, plus one; 0: it is first
	count uint32 // how many hold a place
}

type mint struct {
	at   uint32 // ms since start, rounded up, plus one; 0: holds no place any more
	next uint32 // position of the next, plus one; 0: none
}

func newWindow(now time.Duration) *window {
	w := &window{start: now, last: now}
	w.index.clear(0)
	return w
}

// list returns the session's, or nil. A nil window has none.
func (w *window) list(hash uint64) *mintList {
	if w == nil {
		return nil
	}
	for at := hash; ; at++ {
		slot, position, found := w.index.seek(hash, at)
		if !found {
			return nil
		}
		if list := w.lists.at(position); list.hash == hash {
			return list
		}
		at = slot
	}
}

// held returns how many places a list holds; nil is none.
func (l *mintList) held() int {
	if l == nil {
		return 0
	}
	return int(l.count)
}

// oldest returns when the first mint of the list was, if it holds a place.
func (w *window) oldest(l *mintList) (time.Duration, bool) {
	if l == nil || l.first.at == 0 {
		return 0, false
	}
	return w.start + time.Duration(l.first.at-1)*time.Millisecond, true
}

// free takes mints off the front of a list until one of them frees a place, and reports whether one
// did: the oldest that holds a place does when it has expired.
func (w *window) free(l *mintList, now, ttl time.Duration) bool {
	for l.held() > 0 {
		oldest, held := w.oldest(l)
		if held && now <= oldest+ttl {
			return false
		}
		w.pop(l)
		if held {
			l.count--
			return true
		}
	}
	return false
}

// pop takes the first mint off the list. The last one leaves its place empty, for the next.
func (w *window) pop(l *mintList) {
	if l.first.next == 0 {
		l.first.at = 0
		return
	}
	position := l.first.next
	second := w.mints.at(position - 1)
	l.first = *second
	*second = mint{} // so that who gives it back looks for it in front
	if l.tail == position {
		l.tail = 0
	}
}

// add appends a mint to the list, or begins one.
func (w *window) add(hash uint64, l *mintList, now time.Duration) minted {
	// now may be a little before start, where another goroutine came first.
	m := mint{at: uint32((max(now-w.start, 0)+time.Millisecond-1)/time.Millisecond) + 1}
	w.last = max(w.last, now)
	if l == nil {
		if w.index.crowded(1) {
			w.index.clear(0)
			for p := range w.lists.n {
				w.index.add(w.lists.at(p).hash, p)
			}
		}
		w.index.add(hash, w.lists.n)
		l = w.lists.append(mintList{hash: hash, first: m, count: 1})
		return minted{list: l, mint: &l.first, at: m.at}
	}
	l.count++
	tail := &l.first
	if l.tail != 0 {
		tail = w.mints.at(l.tail - 1)
	}
	// A store that fails makes a session try again and again: the place it gave back is the place
	// it gets.
	if tail.at == 0 {
		tail.at = m.at
		return minted{list: l, mint: tail, at: m.at}
	}
	l.tail = w.mints.n + 1
	tail.next = l.tail
	return minted{list: l, mint: w.mints.append(m), at: m.at}
}

// slab is a list that grows without moving what it holds, and has pointers only to its chunks.
type slab[T any] struct {
	chunks []*[slabChunk]T
	n      uint32
}

const slabChunk = 64

func (s *slab[T]) at(position uint32) *T {
	return &s.chunks[position/slabChunk][position%slabChunk]
}

func (s *slab[T]) append(v T) *T {
	if s.n%slabChunk == 0 {
		s.chunks = append(s.chunks, new([slabChunk]T))
	}
	p := s.at(s.n)
	*p = v
	s.n++
	return p
}
