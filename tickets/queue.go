package tickets

import "time"

// queue is first in, first out, in linked blocks: a slice would be copied whole to grow.
type queue[K any] struct {
	first, last *block[K]
}

type block[K any] struct {
	from, to int // what is in use of items
	items    [128]queued[K]
	next     *block[K]
}

type queued[K any] struct {
	key  K
	when time.Duration
}

func (q *queue[K]) push(key K, when time.Duration) {
	if q.last == nil || q.last.to == len(q.last.items) {
		b := new(block[K])
		if q.last == nil {
			q.first = b
		} else {
			q.last.next = b
		}
		q.last = b
	}
	q.last.items[q.last.to] = queued[K]{key, when}
	q.last.to++
}

// peek returns the item that has waited longest, or nil.
func (q *queue[K]) peek() *queued[K] {
	if q.first == nil {
		return nil
	}
	return &q.first.items[q.first.from]
}

// pop removes what peek returns.
func (q *queue[K]) pop() {
	b := q.first
	b.items[b.from] = queued[K]{} // or a person's name would stay
	b.from++
	if b.from == b.to {
		// Empty: full ones are done with, and a part-filled one is the last.
		if q.first = b.next; q.first == nil {
			q.last = nil
		}
	}
}
