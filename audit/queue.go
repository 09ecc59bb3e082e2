package audit

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// A queue holds lines until its goroutine has written them, so that nobody
// waits for the disk.
type queue struct {
	log *Log
	max int

	mu      sync.Mutex
	lines   []byte // waiting
	waiting int    // the lines that are waiting, or being written
	dropped int    // since that was last told
	closed  bool
	gaveUp  bool // what is waiting counts as dropped
	wake    chan struct{}
	done    chan struct{} // closed: all is written
}

func newQueue(l *Log, max int) *queue {
	q := &queue{log: l, max: max, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// add puts a line into the queue, or drops it.
func (q *queue) add(line []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	if q.waiting >= q.max {
		q.dropped++
		return errDropped
	}
	q.lines = append(q.lines, line...)
	q.waiting++
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// batchSize is how many bytes of lines are written at once, if there are more.
const batchSize = 64 << 10

func (q *queue) run() {
	defer close(q.done)
	var batch []byte
	for {
		q.mu.Lock()
		batch, q.lines = q.lines, batch[:0]
		dropped, closed := q.dropped, q.closed
		q.dropped = 0
		q.mu.Unlock()
		if dropped > 0 {
			q.log.file.drop(dropped)
		}
		if len(batch) == 0 {
			if closed {
				return
			}
			<-q.wake
			continue
		}
		for rest := batch; len(rest) > 0; {
			end := len(rest)
			if end > batchSize {
				end = bytes.LastIndexByte(rest[:batchSize], '\n') + 1
			}
			q.write(rest[:end])
			rest = rest[end:]
		}
		if cap(batch) > 16*batchSize { // what a flood needed is not kept
			batch = nil
		}
	}
}

func (q *queue) write(lines []byte) {
	n := bytes.Count(lines, []byte("\n"))
	written, err := q.log.file.write(time.Now(), lines, n)
	q.mu.Lock()
	q.waiting -= n
	counts := !q.gaveUp
	q.mu.Unlock()
	if !counts {
		return
	}
	q.log.written.Add(uint64(written))
	if err != nil {
		q.log.fail(n-written, err)
	}
}

// close takes no more lines, waits until those that are waiting are written,
// but no longer than wait, and says how many are not.
func (q *queue) close(wait time.Duration) error {
	q.mu.Lock()
	q.closed = true
	select {
	case q.wake <- struct{}{}:
	default:
	}
	q.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-q.done:
		return nil
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gaveUp || q.waiting == 0 {
		return nil
	}
	q.gaveUp = true
	q.log.dropped.Add(uint64(q.waiting))
	return fmt.Errorf("audit: %d lines were not written within %v", q.waiting, wait)
}
