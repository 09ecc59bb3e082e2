//go:build !linux

package middleware

import "net"

// writeMore is tcp.Write(p): there is no way to say that more follows.
func writeMore(tcp *net.TCPConn, p []byte) (int, error) { return tcp.Write(p) }
