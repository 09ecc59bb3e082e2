package middleware

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ticketgate/ticketgate/audit"
)

// stream is the link of a plain request: its handler's context and response.
type stream struct {
	k     *socket
	http1 bool

	mu sync.Mutex
	w  http.ResponseWriter // nil until it is known, and when the handler has returned
}

// close ends the handler's context, and makes its writes fail. There is no close
// frame in HTTP.
func (st *stream) close() {
	st.k.cancel(st.k.cause)
	st.stopWrites()
}

// abort does nothing more: nothing can end a handler that ignores its context.
func (st *stream) abort() {}

// use says which writes close must stop.
func (st *stream) use(w http.ResponseWriter) {
	st.mu.Lock()
	st.w = w
	st.mu.Unlock()
	if st.k.ctx.Err() != nil { // close was called before
		st.stopWrites()
	}
}

// stopWrites makes the handler's writes fail, unless it has returned: the
// connection may serve another request then. In HTTP/1 it does so again as long as
// the handler has not, because net/http closes a connection on which a write
// failed, and crypto/tls allows itself 5 s more for that. In HTTP/2 each time
// would be one more RST_STREAM (RFC 9113 section 5.4.2).
func (st *stream) stopWrites() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.w == nil {
		return
	}
	// Not every ResponseWriter has deadlines; the context is done in any case.
	err := http.NewResponseController(st.w).SetWriteDeadline(time.Unix(1, 0))
	if err == nil && st.http1 {
		time.AfterFunc(max(st.k.sockets.opts.CloseGrace/4, 10*time.Millisecond), st.stopWrites)
	}
}

func (st *stream) handlerReturned() {
	own := &CloseError{Reason: reasonClosed, Err: net.ErrClosed}
	if st.k.ctx.Err() != nil { // the client has gone
		own.Reason = reasonDropped
	}
	st.mu.Lock()
	st.w = nil
	st.mu.Unlock()
	st.k.finish(st, audit.SocketClosed, own)
}

func (st *stream) traffic() (in, out int64) { return 0, 0 }
