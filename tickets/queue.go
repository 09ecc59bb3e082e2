package tickets

import "time"

// queue is first in, first out, in linked blocks: a slice would be copied whole to grow.
type queue struct {
	first, last *block
}

type block struct {
	from, to int // what is in use of items
	items    [128]queued
	next     *block
}

type queued struct {
	key  hash
	when time.Duration
}

func (q *queue) push(key hash, when time.Duration) {
	if q.last == nil || q.last.to == len(q.last.items) {
		b := new(block)
		if q.last == nil {
			q.first = b
		} else {
			q.last.next = b
		}
		q.last = b
	}
	q.last.items[q.last.to] = queued{key, when}
	q.last.to++
}

// peek returns the item that has waited longest, or nil.
func (q *queue) peek() *queued {
	if q.first == nil {
		return nil
	}
	return &q.first.items[q.first.from]
}

// pop removes what peek returns.
func (q *queue) pop() {
	b := q.first
	b.items[b.from] = queued{}
	b.from++
	if b.from == b.to {
		// Empty: full ones are done with, and a part-filled one is the last.
		if q.first = b.next; q.first == nil {
			q.last = nil
		}
	}
}
