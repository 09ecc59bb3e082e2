package clients

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// behave is a socket that does what its query says, well or badly: ?do=close&code=4000&reason=x.
func behave(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	do, raw := q.Get("do"), rawBehaviours[q.Get("do")]
	switch {
	case raw != nil:
		behaveRaw(w, r, raw)
		return
	case do == "refuse":
		status, _ := strconv.Atoi(q.Get("status"))
		http.Error(w, http.StatusText(status), status)
		return
	case do == "hang":
		<-r.Context().Done()
		return
	}
	opts := &websocket.AcceptOptions{InsecureSkipVerify: true}
	if pick := q.Get("pick"); pick != "" {
		opts.Subprotocols = []string{pick}
	}
	c, err := websocket.Accept(w, r, opts)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(4 << 20)
	ctx := r.Context()
	switch do {
	case "close":
		code, _ := strconv.Atoi(q.Get("code"))
		_ = c.Close(websocket.StatusCode(code), q.Get("reason"))
	case "messages":
		for i := range 50 {
			kind := websocket.MessageText
			if i%2 == 1 {
				kind = websocket.MessageBinary
			}
			if c.Write(ctx, kind, []byte("message "+strconv.Itoa(i))) != nil {
				return
			}
		}
		_ = c.Close(websocket.StatusNormalClosure, "done")
	case "ping":
		go func() { _ = c.Ping(ctx) }()
		behaveEcho(ctx, c)
	default:
		behaveEcho(ctx, c)
	}
}

// behaveEcho sends each message back; "close 4000 why" closes instead.
func behaveEcho(ctx context.Context, c *websocket.Conn) {
	for {
		kind, message, err := c.Read(ctx)
		if err != nil {
			return
		}
		if order, ok := strings.CutPrefix(string(message), "close "); ok {
			code, reason, _ := strings.Cut(order, " ")
			n, _ := strconv.Atoi(code)
			_ = c.Close(websocket.StatusCode(n), reason)
			return
		}
		if c.Write(ctx, kind, message) != nil {
			return
		}
	}
}

// rawBehaviours write frames, or what is none, after the handshake, which they may spoil.
var rawBehaviours = map[string]func(h *handshake){
	"drop":       func(h *handshake) { h.accept() },
	"no-code":    func(h *handshake) { h.accept("\x88\x00"); h.drain() },
	"bad-utf8":   func(h *handshake) { h.accept("\x81\x02\xff\xfe"); h.drain() },
	"bad-opcode": func(h *handshake) { h.accept("\x83\x01x"); h.drain() },
	"bad-mask":   func(h *handshake) { h.accept("\x81\x81\x00\x00\x00\x00x"); h.drain() },
	"bad-close":  func(h *handshake) { h.accept("\x88\x02\x03\xed"); h.drain() },
	"fragments": func(h *handshake) {
		h.accept("\x01\x02ab", "\x89\x01p", "\x80\x01c", "\x88\x02\x03\xe8")
		h.drain()
	},
	"cut-frame":  func(h *handshake) { h.accept("\x81\x05ab") },
	"bad-accept": func(h *handshake) { h.key = "wrong"; h.accept(); h.drain() },
	"extension": func(h *handshake) {
		h.more = "Sec-WebSocket-Extensions: x-unknown\r\n"
		h.accept()
		h.drain()
	},
	"protocol": func(h *handshake) {
		h.more = "Sec-WebSocket-Protocol: unasked\r\n"
		h.accept()
		h.drain()
	},
	"reset": func(h *handshake) {
		h.accept()
		if tcp, ok := h.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	},
	"unread": func(h *handshake) { // reads nothing, and so never answers a close frame
		h.accept()
		time.Sleep(2 * time.Second)
	},
	"talk-on": func(h *handshake) { // sends messages after the page's close frame, then answers it
		h.accept("\x81\x05hello")
		var frame [8]byte
		_, _ = h.conn.Read(frame[:])
		h.write("\x81\x05after", "\x88\x02\x03\xe8")
		h.drain()
	},
}

type handshake struct {
	conn      net.Conn
	rw        *bufio.ReadWriter
	key, more string
}

func behaveRaw(w http.ResponseWriter, r *http.Request, do func(*handshake)) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	do(&handshake{conn: conn, rw: rw, key: r.Header.Get("Sec-Websocket-Key")})
}

func (h *handshake) accept(frames ...string) {
	sum := sha1.Sum([]byte(h.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 1.3
	h.write(fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n%s\r\n", base64.StdEncoding.EncodeToString(sum[:]), h.more))
	h.write(frames...)
}

func (h *handshake) write(frames ...string) {
	for _, frame := range frames {
		_, _ = h.rw.WriteString(frame)
	}
	_ = h.rw.Flush()
}

// drain lets the browser say its last.
func (h *handshake) drain() {
	if c, ok := h.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, h.rw)
	}
}
