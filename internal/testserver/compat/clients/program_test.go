package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

func dial(ctx context.Context, base *url.URL, token, path string) (*websocket.Conn, error) {
	where := base.ResolveReference(&url.URL{Path: "/api/auth/ws-ticket"})
	mint := &http.Request{Method: "POST", URL: where,
		Header: http.Header{"Authorization": {"Bearer " + token}}}
	answer, err := http.DefaultClient.Do(mint.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var minted struct{ Ticket, Error string }
	if err := json.NewDecoder(answer.Body).Decode(&minted); err != nil || minted.Ticket == "" {
		return nil, fmt.Errorf("no ticket: %s %s", answer.Status, minted.Error)
	} // Not ?ticket=: Go's errors, and so your log, quote the URL.
	carrier := &websocket.DialOptions{Subprotocols: []string{"chat", "ticket." + minted.Ticket}}
	where = base.ResolveReference(&url.URL{Path: path})
	conn, _, err := websocket.Dial(ctx, where.String(), carrier)
	return conn, err
}

// A program: no cookie and no page, but a bearer token, which stays out of the
// upgrade.
func TestProgram(t *testing.T) {
	a := newApp(t)
	base, err := url.Parse(a.base)
	require.NoError(t, err)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	token := a.session("robot")
	c, err := dial(t.Context(), base, token, "/ws")
	require.NoError(t, err)
	defer c.CloseNow()
	assert.Equal(t, "chat", c.Subprotocol())
	_, hello, err := c.Read(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "hello robot", string(hello))

	// Its session ends, and with it the socket; the token buys nothing more.
	a.sessions.Delete(token)
	require.NoError(t, a.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: token}))
	_, _, err = c.Read(t.Context())
	assert.Equal(t, websocket.StatusCode(4401), websocket.CloseStatus(err))
	_, err = dial(t.Context(), base, token, "/ws")
	assert.EqualError(t, err, "no ticket: 401 Unauthorized session_expired")
	_, err = dial(t.Context(), base, "", "/ws")
	assert.ErrorContains(t, err, "no ticket: 401 Unauthorized")
}

// What a program logs when the server is away holds no ticket.
func TestProgramErrors(t *testing.T) {
	a := newApp(t)
	base, err := url.Parse(a.base)
	require.NoError(t, err)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	_, err = dial(t.Context(), base, a.session("robot"), "/nowhere")
	require.Error(t, err)
	assert.NotRegexp(t, `[\w-]{43}`, err.Error())
	a.stop()
	_, err = dial(t.Context(), base, "hunter2", "/ws")
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "hunter2")
}
