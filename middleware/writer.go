package middleware

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// socketWriter tracks whether the handler takes the connection. It has what net/http's own has:
// WebSocket libraries ask for Hijack, streams for Flush, and downloads for ReadFrom.
type socketWriter struct {
	http.ResponseWriter
	k        *socket
	switched bool // 101 was written before the hijack
}

// responseWriter returns what the handler must be given in place of w.
func (k *socket) responseWriter(w http.ResponseWriter) http.ResponseWriter {
	if k.info.Stream && k.connection() == nil {
		k.respondTo(w)
	} else if !canHijack(w) {
		return w // the WebSocket library finds out while it can still answer 501
	}
	return &socketWriter{ResponseWriter: w, k: k}
}

// respondTo sets the writer of a stream; nil: its handler has returned, or has hijacked.
func (k *socket) respondTo(w http.ResponseWriter) {
	k.response.Lock()
	k.w = w
	k.response.Unlock()
	k.stopWrites()
}

// stopWrites makes a stream's writes fail if Sockets closes it, unless the handler has returned:
// the connection may serve another request then. In HTTP/1 it does so again until the handler
// returns: net/http closes a connection whose write failed, and crypto/tls then sets a deadline 5 s
// ahead. In HTTP/2 it does so once: each time sends one more RST_STREAM (RFC 9113 section 5.4.2).
func (k *socket) stopWrites() {
	k.response.Lock()
	defer k.response.Unlock()
	k.sockets.mu.Lock()
	closing := k.cause != nil
	k.sockets.mu.Unlock()
	if k.w == nil || !closing {
		return
	}
	// Not every ResponseWriter has deadlines; the context is done in any case.
	err := http.NewResponseController(k.w).SetWriteDeadline(time.Unix(1, 0))
	if err == nil && k.http1 {
		time.AfterFunc(max(k.sockets.opts.CloseGrace/4, 10*time.Millisecond), k.stopWrites)
	}
}

// canHijack reports whether w, or what it wraps, says that it can be hijacked.
func canHijack(w http.ResponseWriter) bool {
	_, ok := find[http.Hijacker](w)
	return ok
}

// find returns the first of w and what it wraps that is a T.
func find[T any](w http.ResponseWriter) (found T, ok bool) {
	for {
		if found, ok = w.(T); ok {
			return found, true
		}
		u, wraps := w.(interface{ Unwrap() http.ResponseWriter })
		if !wraps {
			return found, false
		}
		w = u.Unwrap()
	}
}

func (w *socketWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *socketWriter) WriteHeader(status int) {
	w.switched = w.switched || status == http.StatusSwitchingProtocols
	w.ResponseWriter.WriteHeader(status)
}

// WriteHeaderNow is for gin's ResponseWriter, which keeps the status back until it is called:
// without it, the 101 of a library that writes it before it hijacks would never go out.
func (w *socketWriter) WriteHeaderNow() {
	if gin, ok := w.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		gin.WriteHeaderNow()
	}
}

// CloseNotify is deprecated, but gin's ResponseWriter panics where what it wraps has none, and
// httputil.ReverseProxy asks gin's.
func (w *socketWriter) CloseNotify() <-chan bool {
	if c, ok := find[interface{ CloseNotify() <-chan bool }](w.ResponseWriter); ok {
		return c.CloseNotify()
	}
	return nil // never
}

func (w *socketWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.k.written.Add(int64(n))
	return n, err
}

func (w *socketWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r) // which finds its ReadFrom, if it has one
	w.k.written.Add(n)
	return n, err
}

func (w *socketWriter) Flush() { _ = w.FlushError() }

func (w *socketWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *socketWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c, err := w.k.hijacked(conn, rw, w.switched)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return c, rw, nil
}
