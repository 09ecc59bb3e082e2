package tickets

import (
	"slices"
	"sync"
)

// listeners are the functions of OnRevoke or OnGap. No lock is held while they run.
type listeners[E any] struct {
	mu  sync.Mutex
	fns []*func(E) // never changed in place: tell goes through it without the lock
}

func (l *listeners[E]) add(fn func(E)) (stop func()) {
	if fn == nil {
		return func() {}
	}
	entry := &fn // two listeners may be one function, a pointer tells them apart
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fns = append(slices.Clip(l.fns), entry)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if at := slices.Index(l.fns, entry); at >= 0 {
			l.fns = slices.Concat(l.fns[:at], l.fns[at+1:])
		}
	}
}

func (l *listeners[E]) tell(e E) {
	l.mu.Lock()
	fns := l.fns
	l.mu.Unlock()
	tell(fns, e)
}

// Deferred, so that one listener's panic does not keep the others' sockets open.
func tell[E any](fns []*func(E), e E) {
	if len(fns) == 0 {
		return
	}
	defer tell(fns[1:], e)
	(*fns[0])(e)
}
