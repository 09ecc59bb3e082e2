package testserver

import (
	"net/http"

	"github.com/coder/websocket"
)

const maxMessage = 1 << 20 // bytes

// echo sends every message back. It is the whole of what the application does
// with a socket: who is there, and when it ends, is the guard's affair.
func echo(w http.ResponseWriter, r *http.Request) {
	// The guard has judged the Origin, by a list that the library does not know.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	defer c.CloseNow()
	c.SetReadLimit(maxMessage)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
