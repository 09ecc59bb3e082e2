package testserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
)

// liveSession is a row group of /api/sessions.
type liveSession struct {
	Session string `json:"session"`
	UserID  string `json:"user_id"`
	Current bool   `json:"current"`
	Sockets []struct {
		ID, Path string
		BytesIn  int64 `json:"bytes_in"`
	}
}

// told is the answer to a sign-out or a revocation.
type told struct {
	Sessions int
	Sockets  []struct {
		Path   string
		UserID string `json:"user_id"`
		Reason string
		Code   int `json:"close_code"`
	}
}

func TestSignOut(t *testing.T) {
	app, base := start(t, nil)
	b := signedIn(t, base, "ada")

	status, h, _ := b.get("/logout")
	assert.Equal(t, http.StatusMethodNotAllowed, status, "a GET changes nothing")
	assert.Equal(t, "POST", h.Get("Allow"))
	status, _, _ = b.post("/logout", nil, "Sec-Fetch-Site", "cross-site")
	assert.Equal(t, http.StatusForbidden, status)

	socket, admin := b.open("/ws"), b.open("/ws/admin")
	ticket := b.mint("/ws")
	status, _, body := b.post("/logout", nil, "Accept", "application/json")
	require.Equal(t, http.StatusOK, status, body)
	for _, c := range []*websocket.Conn{socket, admin} {
		code, reason := closing(t, c)
		assert.Equal(t, 4401, code)
		assert.Equal(t, "session_revoked", reason)
	}
	var out told
	require.NoError(t, json.Unmarshal([]byte(body), &out))
	assert.Equal(t, 1, out.Sessions)
	require.Len(t, out.Sockets, 2)
	for _, s := range out.Sockets {
		assert.Equal(t, 4401, s.Code)
		assert.Equal(t, "session_revoked", s.Reason)
		assert.Equal(t, "ada", s.UserID)
	}
	assert.Zero(t, app.Sockets().Len())

	status, _, _ = b.get("/api/auth/me")
	assert.Equal(t, http.StatusUnauthorized, status)
	conn, _, err := b.dial("/ws", ticket, base)
	require.NoError(t, err)
	code, _ := closing(t, conn)
	assert.Equal(t, 4401, code, "a ticket of the session that ended")

	status, h, _ = b.post("/logout", nil)
	assert.Equal(t, http.StatusSeeOther, status, "again, as a form")
	assert.Equal(t, "/login", h.Get("Location"))
}

func TestSigningInAgainEndsTheFormerSession(t *testing.T) {
	_, base := start(t, nil)
	b := signedIn(t, base, "ada")
	socket := b.open("/ws")
	status, _, _ := b.post("/login", url.Values{"user": {"bob"}})
	require.Equal(t, http.StatusSeeOther, status)
	code, reason := closing(t, socket)
	assert.Equal(t, 4401, code)
	assert.Equal(t, "session_revoked", reason)
	var live []liveSession
	b.getJSON("/api/sessions", &live)
	require.Len(t, live, 1)
	assert.Equal(t, "bob", live[0].UserID)
}

func TestRevoke(t *testing.T) {
	_, base := start(t, nil)
	ada, phone, bob := signedIn(t, base, "ada"), signedIn(t, base, "ada"), signedIn(t, base, "bob")
	adas, phones, bobs := ada.open("/ws"), phone.open("/ws/admin"), bob.open("/ws")
	next := bob.listen("")

	var live []liveSession
	bob.getJSON("/api/sessions", &live)
	require.Len(t, live, 3, "every browser that is signed in, as anyone")
	byPath := map[string]liveSession{}
	for _, s := range live {
		assert.Equal(t, s.UserID == "bob", s.Current)
		for _, socket := range s.Sockets {
			byPath[s.UserID+socket.Path] = s
		}
	}
	require.Contains(t, byPath, "bob/events", "streams are there too")

	t.Run("one session", func(t *testing.T) {
		status, _, body := bob.post("/api/sessions/revoke",
			url.Values{"session": {byPath["ada/ws/admin"].Session}})
		require.Equal(t, http.StatusOK, status, body)
		code, reason := closing(t, phones)
		assert.Equal(t, 4401, code)
		assert.Equal(t, "session_revoked", reason)
		_, after, _ := strings.Cut(body, `"close_code":`)
		assert.JSONEq(t, `4401`, strings.Split(after, "}")[0])
		assert.Equal(t, "revoked by bob", next(event("revoke")).Reason)
		assert.Equal(t, "still here", ada.echo(adas, "still here"))
		status, _, _ = phone.get("/api/auth/me")
		assert.Equal(t, http.StatusUnauthorized, status)
	})
	t.Run("everywhere", func(t *testing.T) {
		tablet := signedIn(t, base, "ada")
		tablets := tablet.open("/ws")
		status, _, body := ada.post("/api/sessions/revoke", url.Values{"user": {"ada"}})
		require.Equal(t, http.StatusOK, status, body)
		var out told
		require.NoError(t, json.Unmarshal([]byte(body), &out))
		assert.Equal(t, 2, out.Sessions)
		assert.Len(t, out.Sockets, 2)
		for _, c := range []*websocket.Conn{adas, tablets} {
			code, reason := closing(t, c)
			assert.Equal(t, 4401, code)
			assert.Equal(t, "session_revoked", reason)
		}
		assert.Equal(t, "bob stays", bob.echo(bobs, "bob stays"))
	})
	t.Run("who was signed out everywhere may sign in again", func(t *testing.T) {
		again := signedIn(t, base, "ada")
		again.open("/ws")
	})
	for name, form := range map[string]url.Values{
		"nothing": {}, "both": {"user": {"bob"}, "session": {"x"}},
	} {
		status, _, _ := bob.post("/api/sessions/revoke", form)
		assert.Equal(t, http.StatusBadRequest, status, name)
	}
	status, _, _ := bob.post("/api/sessions/revoke", url.Values{"session": {"000000000000"}})
	assert.Equal(t, http.StatusNotFound, status)
	status, _, _ = bob.post("/api/sessions/revoke", url.Values{"user": {"bob"}},
		"Origin", "https://evil.example")
	assert.Equal(t, http.StatusForbidden, status)
	status, _, _ = newBrowser(t, base).post("/api/sessions/revoke", url.Values{"user": {"bob"}})
	assert.Equal(t, http.StatusUnauthorized, status)
}

func TestShutdown(t *testing.T) {
	app, base := start(t, nil)
	b := signedIn(t, base, "ada")
	socket := b.open("/ws")
	b.listen("")
	require.Equal(t, 2, app.Sockets().Len())
	done := make(chan error, 1)
	go func() { done <- app.Shutdown(t.Context()) }()
	code, _ := closing(t, socket)
	assert.Equal(t, 1001, code)
	require.NoError(t, <-done)
	assert.Zero(t, app.Sockets().Len())

	_, res, err := b.dial("/ws", b.mint("/ws"), "")
	require.Error(t, err, "nobody comes in after it")
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
}

func TestNewRefuses(t *testing.T) {
	_, err := testserver.New(&testserver.Options{TTL: -1, SessionTTL: time.Millisecond,
		Pages: fstest.MapFS{}})
	require.Error(t, err)
	for _, want := range []string{"TTL", "SessionTTL is 1ms, want at least 1s", "index.html"} {
		assert.ErrorContains(t, err, want)
	}
}
