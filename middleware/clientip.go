package middleware

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
)

// ForwardedFor returns a ClientIP function for servers behind proxies: the rightmost address in
// X-Forwarded-For that none of the trusted networks contains, if the peer itself is trusted. Name
// your own proxies only: a trusted address can put any addresses before its own, so with 0.0.0.0/0
// anybody chooses the address that is logged.
//
// With no trusted network the result is the peer's address. Where a trusted proxy passed on what is
// no address, it is "": better no address in the log than one that a stranger chose.
func ForwardedFor(trusted ...netip.Prefix) func(*http.Request) string {
	nets := slices.Clone(trusted)
	for i, n := range nets {
		if a := n.Addr(); a.Is4In6() && n.Bits() >= 96 { // addresses are compared as IPv4
			nets[i] = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
		}
	}
	isTrusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a) })
	}
	return func(r *http.Request) string {
		peer := clientIP(nil, r)
		addr, err := netip.ParseAddr(peer)
		if err != nil {
			return peer
		}
		addr = addr.Unmap().WithZone("") // no prefix contains an address with a zone
		// Each proxy appends. Walk from the end to the first address that is not trusted.
		lines := r.Header["X-Forwarded-For"]
		list := strings.Join(lines, ",")
		for more := len(lines) > 0; more && isTrusted(addr); {
			comma := strings.LastIndexByte(list, ',')
			if addr, err = parseHop(textproto.TrimString(list[comma+1:])); err != nil {
				return ""
			}
			more = comma >= 0
			list = list[:max(0, comma)]
		}
		return addr.String()
	}
}

// parseHop reads an address as proxies write it: bare, in brackets, or with a port. A zone means
// nothing on another machine, and the unspecified address (0.0.0.0, ::) is nobody's.
func parseHop(s string) (netip.Addr, error) {
	addrPort, err := netip.ParseAddrPort(s)
	addr := addrPort.Addr()
	if err != nil {
		if n := len(s); n > 2 && s[0] == '[' && s[n-1] == ']' {
			s = s[1 : n-1]
		}
		addr, err = netip.ParseAddr(s)
	}
	if addr = addr.Unmap(); err != nil || strings.Contains(s, "%") || addr.IsUnspecified() {
		return netip.Addr{}, errors.New("not the address of a client")
	}
	return addr, nil
}

// clientIP returns what configured says or, by default, the peer's address without its port.
func clientIP(configured func(*http.Request) string, r *http.Request) string {
	if configured != nil {
		return configured(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr // a Unix socket has no port
	}
	return host
}
