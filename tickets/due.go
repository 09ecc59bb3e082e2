package tickets

import (
	"math"
	"sync/atomic"
	"time"
)

// due is the earliest time at which some shard has something to drop. Of many goroutines that find
// it passed, one goes to drop; it and everyone who opens something lower it again.
type due struct{ at atomic.Int64 }

func (d *due) init() { d.at.Store(math.MaxInt64) }

func (d *due) before(now time.Duration) bool { return d.at.Load() < int64(now) }

// passed reports that the time has passed, to one caller.
func (d *due) passed(now time.Duration) bool {
	at := d.at.Load()
	return at < int64(now) && d.at.CompareAndSwap(at, math.MaxInt64)
}

func (d *due) lower(to time.Duration) {
	for {
		at := d.at.Load()
		if at <= int64(to) || d.at.CompareAndSwap(at, int64(to)) {
			return
		}
	}
}
