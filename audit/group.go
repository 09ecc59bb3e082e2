package audit

import (
	"runtime"
	"sync"
	"time"
)

// A group commits lines to the disk, those that come at the same time
// together: the first of them writes for all, while the next ones gather.
type group struct {
	file *file

	mu     sync.Mutex
	next   *batch     // gathers lines; nil: whoever comes begins it
	commit sync.Mutex // held by whoever writes
}

type batch struct {
	lines   []byte
	n       int
	written int // how many of the first lines are on the disk
	err     error
	done    chan struct{} // closed: written and err are there
}

// add returns when the line is on the disk, or why it is not.
func (g *group) add(line []byte) error {
	g.mu.Lock()
	b := g.next
	first := b == nil
	if first {
		b = &batch{done: make(chan struct{})}
		g.next = b
	}
	place := b.n
	b.lines = append(b.lines, line...)
	b.n++
	g.mu.Unlock()

	if first {
		g.commit.Lock()
		runtime.Gosched() // those whose lines have just been written come along with their next
		g.mu.Lock()
		g.next = nil
		g.mu.Unlock()
		b.written, b.err = g.file.write(time.Now(), b.lines, b.n)
		g.commit.Unlock()
		close(b.done)
	} else {
		<-b.done
	}
	if place < b.written {
		return nil
	}
	return b.err
}
