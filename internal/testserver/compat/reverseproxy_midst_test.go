package compat

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever library stands behind the proxy, it is the page's connection that is
// ended with the session.
func TestReverseProxyRevokeMidstEcho(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			a := newApp(t, proxied(t, lib.echo), appOptions{sockets: patientSockets})
			for range 10 {
				a.echoUntilRevoked(t, false)
			}
			eventually(t, "the last line", func() bool {
				return len(a.lines.of("ws_closed")) == 10
			})
			for _, line := range a.lines.of("ws_closed") {
				require.Equal(t, "session_revoked", line["reason"])
				require.EqualValues(t, 4401, line["close_code"])
			}
		})
	}
}
