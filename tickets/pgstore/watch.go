package pgstore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/tickets"
)

// watch ends what takes longer than the timeout. All that is under way shares one timer, which
// seldom has to be set: with a context and a socket deadline of its own, each statement of a fast
// server takes a tenth longer. While nothing is under way there is no timer either.
type watch struct {
	timeout time.Duration
	mu      sync.Mutex
	going   list.List // of *operation, the oldest first
	timer   *time.Timer
	armed   bool
}

// operation is something that waits for the server.
type operation struct {
	deadline time.Time
	cancel   context.CancelCauseFunc // ends the wait for a connection
	socket   net.Conn                // of the connection, from when there is one
	expired  bool
	element  *list.Element
}

func (w *watch) begin(o *operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o.deadline = time.Now().Add(w.timeout)
	o.element = w.going.PushBack(o)
	if w.armed {
		return
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(w.timeout, w.expire)
	} else {
		w.timer.Reset(w.timeout)
	}
}

// connected hands the operation's connection to the watch.
func (w *watch) connected(o *operation, socket net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o.socket = socket
	if o.expired {
		socket.SetDeadline(past)
	}
}

// end leaves the connection as it was; nothing happens to it later.
func (w *watch) end(o *operation) (expired bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !o.expired {
		w.going.Remove(o.element)
	} else if o.socket != nil {
		o.socket.SetDeadline(time.Time{})
	}
	return o.expired
}

var past = time.Unix(1, 0)

func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for e := w.going.Front(); e != nil; e = w.going.Front() {
		o := e.Value.(*operation)
		if left := o.deadline.Sub(now); left > 0 {
			w.timer.Reset(left)
			return
		}
		o.expired = true
		w.going.Remove(e)
		o.cancel(context.DeadlineExceeded)
		if o.socket != nil {
			o.socket.SetDeadline(past) // pgx closes a connection that fails
		}
	}
	w.armed = false
}

// with runs f on a connection of the pool. All of it is over after the store's timeout. The caller's
// context ends the wait for a connection, but not what has begun: whether that was done is a fact, and
// a query that is cancelled costs the pool its connection (https://github.com/jackc/pgx/issues/2425).
func (s *Store) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := &operation{cancel: cancel}
	s.watch.begin(o)
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		s.watch.end(o)
		if cause := context.Cause(wait); cause != nil {
			err = cause
		}
		return fmt.Errorf("no connection: %w", err)
	}
	defer conn.Release()
	return s.run(ctx, o, conn, f)
}

// on runs f on a connection that the caller has.
func (s *Store) on(ctx context.Context, conn *pgxpool.Conn, f func(context.Context, *pgx.Conn) error) error {
	o := &operation{cancel: func(error) {}}
	s.watch.begin(o)
	return s.run(ctx, o, conn, f)
}

func (s *Store) run(ctx context.Context, o *operation, conn *pgxpool.Conn, f func(context.Context, *pgx.Conn) error) error {
	s.watch.connected(o, conn.Conn().PgConn().Conn())
	err := f(context.WithoutCancel(ctx), conn.Conn())
	if s.watch.end(o) && err != nil && !errors.Is(err, tickets.ErrInvalid) { // which is an answer
		err = fmt.Errorf("no answer within %v: %w (%v)", s.timeout, context.DeadlineExceeded, err)
	}
	return err
}
