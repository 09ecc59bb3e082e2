package tickets

import (
	"slices"
	"sync"
)

// listeners are the functions of OnRevoke or OnGap. No lock is held while they run.
type listeners[E any] struct {
	mu  sync.Mutex
	fns []*func(E) // never changed in place: call reads it without the lock
}

func (l *listeners[E]) add(fn func(E)) (stop func()) {
	if fn == nil {
		return func() {}
	}
	entry := &fn // a pointer identifies it: the same function may be added twice
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

func (l *listeners[E]) call(e E) {
	l.mu.Lock()
	fns := l.fns
	l.mu.Unlock()
	callAll(fns, e)
}

// callAll defers the rest, so that the panic of one listener does not keep the others' sockets
// open.
func callAll[E any](fns []*func(E), e E) {
	if len(fns) == 0 {
		return
	}
	defer callAll(fns[1:], e)
	(*fns[0])(e)
}
