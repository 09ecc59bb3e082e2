package logfile

import (
	"runtime"
	"sync"
	"time"
)

// batches lets lines that come at the same time share one fsync: the first
// of them writes for all, while the next ones gather.
type batches struct {
	gathering sync.Mutex
	next      *batch // nil: the next line begins one
}

type batch struct {
	lines [][]byte
	errs  []error       // of each line
	done  chan struct{} // closed: errs is there
}

// commit returns when the line is on the disk, or why it is not.
func (f *File) commit(line []byte) error {
	f.gathering.Lock()
	b := f.next
	first := b == nil
	if first {
		b = &batch{done: make(chan struct{})}
		f.next = b
	}
	place := len(b.lines)
	b.lines = append(b.lines, line)
	f.gathering.Unlock()
	if !first {
		<-b.done
		return b.errs[place]
	}
	f.mu.Lock()
	runtime.Gosched() // callers whose lines were just written join with their next
	f.gathering.Lock()
	f.next = nil
	f.gathering.Unlock()
	b.errs = f.putAll(time.Now(), b.lines)
	f.mu.Unlock()
	close(b.done)
	return b.errs[place]
}

// putAll writes lines and flushes them: all at once, but before a rotation.
func (f *File) putAll(now time.Time, lines [][]byte) []error {
	f.look(now)
	errs, flushed := make([]error, len(lines)), 0
	flush := func(to int) {
		err := f.flush()
		for ; flushed < to; flushed++ {
			if err != nil && errs[flushed] == nil {
				errs[flushed] = err
				f.gaps.add("failed", 1)
			}
		}
	}
	for i, line := range lines {
		if f.due(now, len(line)) {
			flush(i)
		}
		errs[i] = f.put(now, line)
	}
	flush(len(lines))
	return errs
}
