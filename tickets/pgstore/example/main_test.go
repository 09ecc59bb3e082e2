package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
)

const patience = 30 * time.Second

// With EXAMPLE_RUN set the test binary is the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("EXAMPLE_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is one server of the example.
type process struct {
	*exec.Cmd
	addr, audit string
}

func start(t *testing.T, dir, name, store string) *process {
	t.Helper()
	port, err := servers.FreePort()
	require.NoError(t, err)
	p := &process{addr: servers.Address(port), audit: filepath.Join(dir, name+".log")}
	p.Cmd = exec.Command(os.Args[0], "-addr", p.addr, "-audit", p.audit, "-postgres", store)
	p.Env = append(os.Environ(), "EXAMPLE_RUN=1")
	p.Stdout, p.Stderr = os.Stdout, os.Stderr
	require.NoError(t, p.Start())
	t.Cleanup(func() { p.Process.Kill() })
	require.Eventually(t, func() bool {
		answer, err := http.Get("http://" + p.addr + "/readyz")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}, patience, 10*time.Millisecond)
	return p
}

// post sends a form with a session cookie and follows no redirect.
func post(t *testing.T, p *process, path, session, form string) *http.Response {
	t.Helper()
	r, err := http.NewRequest("POST", "http://"+p.addr+path, strings.NewReader(form))
	require.NoError(t, err)
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.AddCookie(&http.Cookie{Name: "session", Value: session})
	answer, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// A user signs in on one server, opens a socket on the other with a ticket of the first, and signs
// out on the first.
func TestExample_TwoProcesses(t *testing.T) {
	p, err := servers.NewPostgres(t.TempDir())
	t.Cleanup(p.Close)
	servers.Skip(t, err)
	dir := t.TempDir()
	one, other := start(t, dir, "one", p.URL("postgres")), start(t, dir, "other", p.URL("postgres"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	in := post(t, one, "/login", "", url.Values{"user": {"ada"}}.Encode())
	require.Equal(t, http.StatusSeeOther, in.StatusCode)
	session := in.Cookies()[0].Value
	open := func() *websocket.Conn {
		var minted struct{ Ticket string }
		answer := post(t, one, "/api/auth/ws-ticket", session, "")
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&minted))
		conn, _, err := websocket.Dial(ctx, "ws://"+other.addr+"/ws?ticket="+minted.Ticket, nil)
		require.NoError(t, err)
		_, hello, err := conn.Read(ctx)
		require.NoError(t, err)
		require.Equal(t, "hello ada", string(hello))
		return conn
	}
	conn := open()
	out := post(t, one, "/logout", session, "")
	require.Equal(t, http.StatusSeeOther, out.StatusCode)
	_, _, err = conn.Read(ctx)
	require.EqualValues(t, 4401, websocket.CloseStatus(err), "%v", err)
	out = post(t, other, "/api/auth/ws-ticket", session, "")
	require.Equal(t, http.StatusUnauthorized, out.StatusCode)

	session = post(t, other, "/login", "", url.Values{"user": {"ada"}}.Encode()).Cookies()[0].Value
	conn = open()
	for _, p := range []*process{other, one} {
		require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	}
	_, _, err = conn.Read(ctx)
	assert.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), "%v", err)
	for _, p := range []*process{one, other} {
		require.NoError(t, p.Wait())
		events, err := os.ReadFile(p.audit)
		require.NoError(t, err)
		require.Contains(t, string(events), `"event":"revoke"`)
	}
}

// The README shows the program as it is.
func TestExample_IsInTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	shown := strings.Contains(string(readme), "```go\n"+string(program)+"```\n")
	require.True(t, shown, "the README does not show main.go as it is")
	require.NotContains(t, string(program), "/internal/")
}
