package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs two servers over one store and returns where they are.
func start(t *testing.T, store ...string) (here, there string) {
	t.Helper()
	ports := [2]string{}
	for i := range ports {
		port, err := servers.FreePort()
		require.NoError(t, err)
		ports[i] = servers.Address(port)
	}
	for i, addr := range ports {
		ctx, cancel := context.WithCancel(t.Context())
		out, printed := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := run(ctx, append(store, "-addr", addr, "-peer", ports[1-i]), printed, io.Discard)
			printed.CloseWithError(err)
			done <- err
		}()
		first := make([]byte, 512)
		n, err := out.Read(first)
		require.NoError(t, err)
		require.Contains(t, string(first[:n]), "http://"+addr+"/")
		go io.Copy(io.Discard, out)
		t.Cleanup(func() {
			cancel()
			assert.NoError(t, <-done)
		})
	}
	return ports[0], ports[1]
}

// Mint at one server, open at another, sign out at the first: the socket at the other ends.
func walk(t *testing.T, here, there string) {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	post := func(url string, form url.Values) (body string) {
		res, err := browser.PostForm(url, form)
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, string(b))
		return string(b)
	}
	post("http://"+here+"/login", url.Values{"user": {"ada"}})
	var minted struct{ Ticket string }
	answer := post("http://"+here+"/api/auth/ws-ticket", nil)
	require.NoError(t, json.Unmarshal([]byte(answer), &minted))

	page := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://" + here}}}
	c, _, err := websocket.Dial(t.Context(), "ws://"+there+"/ws?ticket="+minted.Ticket, page)
	require.NoError(t, err)
	defer c.CloseNow()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, c.Write(ctx, websocket.MessageText, []byte("hello")))
	_, echo, err := c.Read(ctx)
	require.NoError(t, err)
	require.Equal(t, "hello", string(echo))

	// Used there, it is used here too. The page is told by closing.
	again, _, err := websocket.Dial(ctx, "ws://"+here+"/ws?ticket="+minted.Ticket, page)
	require.NoError(t, err)
	_, _, err = again.Read(ctx)
	require.EqualValues(t, 4401, websocket.CloseStatus(err))

	res, err := browser.Get("http://" + there + "/api/auth/me")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	res.Body.Close()
	require.Contains(t, string(body), `"user_id":"ada"`, "who signed in there is known here")
	require.Contains(t, string(body), `"servers":["`+here+`"]`)

	post("http://"+here+"/logout", nil)
	_, _, err = c.Read(ctx)
	require.EqualValues(t, 4401, websocket.CloseStatus(err))
	require.Contains(t, err.Error(), "session_revoked")
}

func TestRedis(t *testing.T) {
	r, err := servers.NewRedis(t.TempDir())
	t.Cleanup(r.Close)
	servers.Skip(t, err)
	here, there := start(t, "-redis", "redis://"+r.Addr)
	walk(t, here, there)
	walk(t, there, here)
}

func TestPostgres(t *testing.T) {
	p, err := servers.NewPostgres(t.TempDir())
	t.Cleanup(p.Close)
	servers.Skip(t, err)
	here, there := start(t, "-postgres", p.URL("postgres"))
	walk(t, here, there)
	walk(t, there, here)
}

func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"":                          "exactly one of -redis and -postgres",
		"-redis a -postgres b":      "exactly one of -redis and -postgres",
		"-redis x: extra":           "unexpected argument",
		"-redis x:":                 "-redis",
		"-postgres x:":              "-postgres",
		"-redis x -peer 1":          "missing port",
		"-redis x -addr 127.0.0.1:": "",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		assert.ErrorContains(t, err, want, args)
	}
	assert.ErrorIs(t, run(t.Context(), []string{"-h"}, io.Discard, io.Discard), flag.ErrHelp)
}
