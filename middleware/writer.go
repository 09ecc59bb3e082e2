package middleware

import (
	"bufio"
	"io"
	"net"
	"net/http"
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
	if st, isStream := k.currentLink().(*stream); isStream {
		st.use(w)
	} else if !canHijack(w) {
		return w // the WebSocket library finds out while it can still answer 501
	}
	return &socketWriter{ResponseWriter: w, k: k}
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
	if status >= 200 && !w.k.info.Stream { // refused after all: see Guard.decideAndRecord
		w.Header().Set("Connection", "close")
	}
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
