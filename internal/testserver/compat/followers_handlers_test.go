package compat

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	nbio "github.com/lesismal/nbio/nbhttp/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"
	xnet "golang.org/x/net/websocket"
	"golang.org/x/sync/errgroup"
)

func coderAccept(w http.ResponseWriter, r *http.Request) *coder.Conn {
	c, err := coder.Accept(w, r, &coder.AcceptOptions{CompressionMode: coder.CompressionDisabled})
	if err != nil {
		return nil
	}
	c.SetReadLimit(maxMessage)
	return c
}

// coderFollows echoes without the context, and leaves that to follow.
func coderFollows(follow func(context.Context, *coder.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := coderAccept(w, r)
		if c == nil {
			return
		}
		defer c.CloseNow()
		go follow(r.Context(), c)
		for {
			kind, msg, err := c.Read(context.Background())
			if err != nil {
				return
			}
			if c.Write(context.Background(), kind, msg) != nil {
				return
			}
		}
	}
}

type childKey int

func thousandChildren(ctx context.Context, c *coder.Conn) {
	for i := range 1000 {
		child, cancel := context.WithTimeout(context.WithValue(ctx, childKey(i), i), time.Hour)
		context.AfterFunc(child, func() {
			cancel()
			_ = c.Close(coder.StatusGoingAway, "goodbye")
		})
	}
}

func coderNetConn(w http.ResponseWriter, r *http.Request) {
	if c := coderAccept(w, r); c != nil {
		conn := coder.NetConn(r.Context(), c, coder.MessageBinary)
		defer conn.Close()
		buf := make([]byte, maxMessage)
		for { // whole messages, so that the page can compare
			n, err := io.ReadFull(conn, buf[:messageSize])
			if err != nil {
				return
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func coderCloseRead(w http.ResponseWriter, r *http.Request) {
	c := coderAccept(w, r)
	if c == nil {
		return
	}
	defer c.CloseNow()
	ctx := c.CloseRead(r.Context())
	for c.Write(ctx, coder.MessageBinary, pushed()) == nil {
	}
}

func coderErrgroup(w http.ResponseWriter, r *http.Request) {
	c := coderAccept(w, r)
	if c == nil {
		return
	}
	defer c.CloseNow()
	group, ctx := errgroup.WithContext(r.Context())
	messages := make(chan []byte)
	group.Go(func() error {
		for {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			select {
			case messages <- msg:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	group.Go(func() error {
		for {
			select {
			case msg := <-messages:
				if err := c.Write(ctx, coder.MessageBinary, msg); err != nil {
					return err
				}
			case <-ctx.Done():
				return c.Close(coder.StatusGoingAway, "goodbye")
			}
		}
	})
	_ = group.Wait()
}

func gorillaFollows(end func(*gorilla.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		go func() {
			<-r.Context().Done()
			end(c)
		}()
		for {
			kind, msg, err := c.ReadMessage()
			if err != nil {
				return
			}
			if c.WriteMessage(kind, msg) != nil {
				return
			}
		}
	}
}

// gorillaPumps reads in one goroutine and writes in another, as chats do.
func gorillaPumps(w http.ResponseWriter, r *http.Request) {
	c, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	messages := make(chan []byte)
	go func() {
		defer c.Close()
		for {
			select {
			case msg := <-messages:
				if c.WriteMessage(gorilla.BinaryMessage, msg) != nil {
					return
				}
			case <-r.Context().Done():
				goodbye := gorilla.FormatCloseMessage(1001, "goodbye")
				_ = c.WriteMessage(gorilla.CloseMessage, goodbye)
				return
			}
		}
	}()
	for {
		_, msg, err := c.ReadMessage()
		if err != nil {
			return
		}
		select {
		case messages <- msg:
		case <-r.Context().Done():
			return
		}
	}
}

func gobwasFollows(end func(writing *sync.Mutex, c net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		writing := new(sync.Mutex)
		context.AfterFunc(r.Context(), func() { end(writing, c) })
		go func() {
			defer c.Close()
			for {
				msg, op, err := wsutil.ReadClientData(c)
				if err != nil {
					return
				}
				writing.Lock()
				err = wsutil.WriteServerMessage(c, op, msg)
				writing.Unlock()
				if err != nil {
					return
				}
			}
		}()
	}
}

func gwsFollows(end func(*gws.Conn)) http.HandlerFunc {
	u := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{ReadMaxPayloadSize: maxMessage})
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r)
		if err != nil {
			return
		}
		context.AfterFunc(r.Context(), func() { end(c) })
		go c.ReadLoop()
	}
}

func xnetFollows(end func(*xnet.Conn)) http.HandlerFunc {
	return xnet.Server{Handler: func(c *xnet.Conn) {
		go func() {
			<-c.Request().Context().Done()
			end(c)
		}()
		xnetLoop(c)
	}}.ServeHTTP
}

func melodyFollows(end func(*melody.Session)) func(*testing.T) http.Handler {
	return func(t *testing.T) http.Handler {
		m := melody.New()
		m.Config.MaxMessageSize = maxMessage
		m.HandleMessageBinary(func(s *melody.Session, msg []byte) { _ = s.WriteBinary(msg) })
		m.HandleConnect(func(s *melody.Session) {
			context.AfterFunc(s.Request.Context(), func() { end(s) })
		})
		t.Cleanup(func() { _ = m.Close() })
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = m.HandleRequest(w, r)
		})
	}
}

func nbioFollows(end func(*nbio.Conn)) http.HandlerFunc {
	u := nbio.NewUpgrader()
	u.OnMessage(func(c *nbio.Conn, kind nbio.MessageType, msg []byte) {
		_ = c.WriteMessage(kind, msg)
	})
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		context.AfterFunc(r.Context(), func() { end(c) })
	}
}

// pushByHand writes frames in pieces, as some do to save a buffer. Without an end
// it looks at its context before each piece, and closes in the middle of a frame.
func pushByHand(end func(writing *sync.Mutex, c net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		defer c.Close()
		writing := new(sync.Mutex)
		stop := func() error { return nil }
		if end == nil {
			stop = r.Context().Err
		} else {
			context.AfterFunc(r.Context(), func() { end(writing, c) })
		}
		head := binary.BigEndian.AppendUint64([]byte{0x82, 127}, uint64(len(pushed())))
		for {
			writing.Lock()
			_, err := c.Write(head)
			for rest := pushed(); err == nil && len(rest) > 0; {
				n := min(len(rest), 8<<10)
				_, err = c.Write(rest[:n])
				rest = rest[n:]
				err = cmp.Or(err, stop())
			}
			writing.Unlock()
			if err != nil {
				return
			}
		}
	}
}

// pushed is the message of those that push.
var pushed = sync.OnceValue(func() []byte { return make([]byte, 256<<10) })
