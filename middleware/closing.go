package middleware

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"time"
)

// RejectByClosing is an OnReject that accepts the upgrade and closes it at once with the
// rejection's CloseCode (4401, 4403, 4429, 1013 or 1001) and Code: a page sees nothing of an HTTP
// refusal but close code 1006, and cannot tell a dead session from a dead network. What is no
// well-formed handshake is refused in HTTP all the same.
func RejectByClosing(w http.ResponseWriter, r *http.Request, rej *Rejection) {
	in := readIncoming(r)
	if rej.CloseCode == 0 || in.check(false) != nil {
		rej.ServeHTTP(w, r)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		rej.ServeHTTP(w, r)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // by then the page has read the close frame
	if _, err := conn.Write(closingHandshake(in, rej)); err != nil {
		return
	}
	// Closing with unread input would reset the connection, and the reset would overtake the close
	// frame: say that this side is done, and read to the end.
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// closingHandshake returns the 101 that a handshake asks for, and a close frame behind it.
func closingHandshake(in *incoming, rej *Rejection) []byte {
	// The GUID and the hash are the protocol's (RFC 6455 section 1.3), not ours.
	key := textproto.TrimString(in.Header.Get("Sec-Websocket-Key"))
	accept := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	b := []byte("HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(accept[:]))
	if i := slices.IndexFunc(in.protocols, isToken); i >= 0 {
		b = append(b, "\r\nSec-WebSocket-Protocol: "+in.protocols[i]...)
	}
	b = append(b, "\r\n\r\n"...)
	reason := rej.Code[:min(len(rej.Code), 123)] // a control frame holds 125 bytes
	b = append(b, 0x88, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, uint16(rej.CloseCode))
	return append(b, reason...)
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2): it cannot break out of a header.
func isToken(s string) bool { return (&http.Cookie{Name: s}).Valid() == nil }
