package compat

import (
	"bufio"
	"compress/flate"
	"io"
	"net"
	"net/http"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	xnet "golang.org/x/net/websocket"
)

// maxMessage is what the servers under test accept.
const maxMessage = 1 << 20

// A library is an echo server in the way its own documentation writes one.
type library struct {
	name    string
	echo    http.Handler
	deflate http.Handler // nil: the library has no permessage-deflate
}

var libraries = []library{
	{"coder", coderEcho(coder.CompressionDisabled), coderEcho(coder.CompressionContextTakeover)},
	{"gorilla", gorillaEcho(false), gorillaEcho(true)},
	{"gobwas", gobwasEcho(gobwasLoop), gobwasDeflateEcho()},
	{"gws", gwsEcho(false), gwsEcho(true)},
	{"x_net", xnet.Server{Handler: xnetLoop}, nil},
}

func coderEcho(mode coder.CompressionMode) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, &coder.AcceptOptions{CompressionMode: mode})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(maxMessage)
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, msg) != nil {
				return
			}
		}
	})
}

func gorillaEcho(deflate bool) http.Handler {
	u := gorilla.Upgrader{EnableCompression: deflate}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, msg, err := c.ReadMessage()
			if err != nil {
				return
			}
			if c.WriteMessage(kind, msg) != nil {
				return
			}
		}
	})
}

// gobwasEcho returns from the handler at once, as gobwas is used to save the
// memory of net/http's goroutine.
func gobwasEcho(loop func(net.Conn, *bufio.ReadWriter) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = loop(c, rw)
		}()
	})
}

func gobwasLoop(c net.Conn, _ *bufio.ReadWriter) error {
	for {
		msg, op, err := wsutil.ReadClientData(c)
		if err != nil {
			return err
		}
		if err := wsutil.WriteServerMessage(c, op, msg); err != nil {
			return err
		}
	}
}

func gobwasDeflateEcho() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := wsflate.Extension{Parameters: wsflate.Parameters{
			ServerNoContextTakeover: true, ClientNoContextTakeover: true}}
		c, _, _, err := ws.HTTPUpgrader{Negotiate: e.Negotiate}.Upgrade(r, w)
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = gobwasDeflateLoop(c)
		}()
	})
}

// quick is wsflate's default, but that it compresses no harder than the others.
var quick = wsflate.Helper{
	Compressor: func(w io.Writer) wsflate.Compressor {
		f, _ := flate.NewWriter(w, flate.BestSpeed) // fails for levels that are none
		return f
	},
	Decompressor: wsflate.DefaultHelper.Decompressor,
}

// gobwasDeflateLoop reads frame by frame: what a client fragments, it joins.
func gobwasDeflateLoop(c net.Conn) error {
	var msg ws.Frame
	for {
		h, err := ws.ReadHeader(c)
		if err != nil || h.Length > maxMessage {
			return err
		}
		f := ws.Frame{Header: h, Payload: make([]byte, h.Length)}
		if _, err := io.ReadFull(c, f.Payload); err != nil {
			return err
		}
		f = ws.UnmaskFrameInPlace(f)
		if f.Header.OpCode.IsControl() {
			if f.Header.OpCode == ws.OpClose {
				return ws.WriteFrame(c, ws.NewCloseFrame(f.Payload))
			}
			continue
		}
		if f.Header.OpCode == ws.OpContinuation {
			msg.Payload = append(msg.Payload, f.Payload...)
			msg.Header.Length = int64(len(msg.Payload))
		} else {
			msg = f
		}
		if !f.Header.Fin {
			continue
		}
		msg.Header.Fin = true
		plain, err := wsflate.DecompressFrame(msg)
		if err != nil {
			return err
		}
		echo, err := quick.CompressFrame(ws.NewFrame(plain.Header.OpCode, true, plain.Payload))
		if err != nil {
			return err
		}
		if err := ws.WriteFrame(c, echo); err != nil {
			return err
		}
	}
}

type gwsEvents struct{ gws.BuiltinEventHandler }

func (gwsEvents) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}

func gwsEcho(deflate bool) http.Handler {
	u := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{
		ReadMaxPayloadSize: maxMessage,
		PermessageDeflate: gws.PermessageDeflate{
			Enabled: deflate, ServerContextTakeover: true, ClientContextTakeover: true,
		},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r)
		if err != nil {
			return
		}
		go c.ReadLoop()
	})
}

func xnetLoop(c *xnet.Conn) {
	c.MaxPayloadBytes = maxMessage
	for {
		var msg []byte
		if xnet.Message.Receive(c, &msg) != nil {
			return
		}
		if xnet.Message.Send(c, msg) != nil {
			return
		}
	}
}
