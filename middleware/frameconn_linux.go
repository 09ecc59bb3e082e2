package middleware

import (
	"io"
	"net"
	"syscall"
)

// writeMore is tcp.Write(p), and tells the kernel that more follows at once: it
// makes one segment of both, or waits for 200 ms at most (tcp(7), TCP_CORK). Two
// segments would cost a fifth of the throughput.
func writeMore(tcp *net.TCPConn, p []byte) (int, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			k, err := syscall.SendmsgN(int(fd), p[n:], nil, nil, syscall.MSG_MORE|syscall.MSG_NOSIGNAL)
			switch {
			case err == syscall.EAGAIN:
				return false
			case err == syscall.EINTR:
			case err != nil:
				failed = &net.OpError{Op: "write", Net: "tcp", Source: tcp.LocalAddr(), Addr: tcp.RemoteAddr(), Err: err}
				return true
			case k == 0:
				failed = io.ErrUnexpectedEOF
				return true
			}
			n += max(k, 0)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}
