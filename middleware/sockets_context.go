package middleware

import (
	"context"
	"time"
)

// As a context, a socket carries the values of its request's, outlives the
// handler, and ends with the connection; its cause is a *CloseError. Until the
// connection is hijacked it ends with the request as well; net/http watches it
// no longer then.
//
// What can be cancelled costs more than all the rest of a socket, and there are
// WebSocket libraries that never look: it is made for the first who does.

// lifetime is what can be cancelled.
func (k *socket) lifetime() context.Context {
	if k.own.Load() {
		return k.ctx
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.own.Load() {
		k.ctx, k.stop = context.WithCancelCause(k.ctx)
		if k.cause != nil {
			k.stop(k.cause)
		}
		k.own.Store(true)
	}
	return k.ctx
}

// cancel ends the context for the first cause that it is given.
func (k *socket) cancel(cause *CloseError) {
	k.mu.Lock()
	stop := k.stop
	if k.cause == nil {
		k.cause = cause
	}
	k.mu.Unlock()
	if stop != nil {
		stop(cause)
	}
}

func (k *socket) Deadline() (time.Time, bool) { return k.lifetime().Deadline() }

func (k *socket) Done() <-chan struct{} {
	k.attach()
	return k.lifetime().Done()
}

func (k *socket) Err() error {
	k.attach()
	return k.lifetime().Err()
}

func (k *socket) Value(key any) any {
	if key == (sessionKey{}) {
		return k.session
	}
	if !k.own.Load() && !k.stream {
		k.mu.Lock()
		ctx := k.ctx
		k.mu.Unlock()
		if v := ctx.Value(key); v != nil {
			return v
		}
		// It may be package context that asks, for what can be cancelled.
	}
	return k.lifetime().Value(key)
}

func (k *socket) String() string { return "socket " + k.socketID() }

// attach makes the request's context end the socket's, until the hijack.
func (k *socket) attach() {
	if req := k.request.Load(); req != nil && !k.stream {
		req.attach.Do(func() {
			k.lifetime()
			req.detach = context.AfterFunc(req.ctx, func() { k.stop(context.Cause(req.ctx)) })
		})
	}
}

// detach takes attach back, or sees to it that it does not happen any more.
func (k *socket) detach() {
	if req := k.request.Load(); req != nil {
		req.attach.Do(func() {})
		if req.detach != nil {
			req.detach()
		}
	}
}
