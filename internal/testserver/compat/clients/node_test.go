package clients

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
	"github.com/ticketgate/ticketgate/tickets"
)

// A program of Node's: no cookie, no Origin, no page to sign in at. Node before 22 has its
// WebSocket behind a flag.
func TestNode(t *testing.T) {
	a := newApp(t)
	file := filepath.Join(t.TempDir(), "node.mjs")
	esbuild(t, "", "recipes/node.ts", "--bundle", "--format=esm", "--outfile="+file)
	token := a.session("robot")
	cmd := exec.Command(browser.Need(t, "node", "apt-get install nodejs"),
		"--experimental-websocket", "--input-type=module", "-e",
		`Math.random = () => 0
		const { join } = await import(process.env.RECIPE)
		join(process.env.URL_OF_SOCKET, () => process.env.TOKEN, console.log)`)
	cmd.Env = append(cmd.Environ(),
		"RECIPE="+file, "URL_OF_SOCKET=ws://"+a.addr+"/ws", "TOKEN="+token)
	browser.EndWithTest(cmd)
	var failed strings.Builder
	cmd.Stderr = &failed
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)

	require.True(t, lines.Scan(), &failed)
	assert.Equal(t, "hello robot", lines.Text())
	a.stop()
	a.start()
	require.True(t, lines.Scan(), &failed)
	assert.Equal(t, "hello robot", lines.Text())

	a.sessions.Delete(token)
	require.NoError(t, a.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: token}))
	_, _ = io.Copy(io.Discard, out)
	assert.Error(t, cmd.Wait(), "it ends")
	assert.Contains(t, failed.String(), "not signed in: session_revoked")
	assert.NotRegexp(t, ticketPattern, failed.String())
	assert.Zero(t, a.lines.count("ws_ticket_rejected"))
}
