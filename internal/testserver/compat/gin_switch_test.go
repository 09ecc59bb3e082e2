package compat

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// A handler wrapped for a gin route writes its 101 to gin's ResponseWriter, which
// keeps it back until WriteHeaderNow (or Flush) is called: coder/websocket calls
// it, and must find it on what the guard hands out.
func TestGinKeepsTheSwitchBack(t *testing.T) {
	d := newDoors(everybody, doorOptions{})
	r := gin.New()
	r.POST("/api/auth/ws-ticket", gin.WrapH(d.gate.Wrap(d.mint)))
	r.GET("/ws/:room", gin.WrapH(d.guard.Wrap(http.HandlerFunc(hello))))
	server := httptest.NewServer(r)
	defer server.Close()
	page := newVisitor(server)
	page.setCookie("session", "ann")
	dialer := &gorilla.Dialer{HandshakeTimeout: 5 * time.Second}
	c, _, err := dialer.Dial("ws"+server.URL[4:]+"/ws/7?ticket="+page.ticket(), nil)
	require.NoError(t, err)
	_, message, err := c.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "hello ann", string(message))
	c.Close()
}
