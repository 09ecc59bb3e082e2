package middleware_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// rawAnswers sends request, and another one behind it, and returns all that the
// server sends until it closes the connection.
func rawAnswers(t *testing.T, h http.Handler, request string) string {
	t.Helper()
	conn := begin(t, serve(t, h), request+get("/next", "Connection: close"))
	raw, _ := io.ReadAll(conn) // a connection that is closed with unread bytes is reset
	return string(raw)
}

// connectionLines are the values of the Connection lines of the first answer.
func connectionLines(raw string) (values []string) {
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if value, ok := strings.CutPrefix(line, "Connection: "); ok {
			values = append(values, value)
		}
	}
	return values
}

// A proxy may forward what follows an upgrade without waiting for the 101: none
// of it is served behind a refusal (HOSTILE W32). net/http closes only where the
// first Connection line is exactly "close".
func TestGuardRefusal_ClosesConnection(t *testing.T) {
	var reached []string
	for name, opts := range map[string]middleware.GuardOptions{
		"default": {},
		"OnReject": {OnReject: func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
			assert.Equal(t, "close", w.Header().Get("Connection"))
			http.Error(w, rej.Reason, rej.Status)
		}},
		"RejectByClosing": {OnReject: middleware.RejectByClosing},
		"AdmitRequests":   {AdmitRequests: true},
		"PassOthers":      {PassOthers: true},
	} {
		b := newBed(t, opts)
		h := b.guard.Wrap(accepts)
		both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/next" {
				reached = append(reached, name)
			}
			h.ServeHTTP(w, r)
		})
		for _, tc := range refusals {
			if tc.only == "tls" || tc.code == "" || len(tc.request) > 4096 {
				continue
			}
			if name == "PassOthers" && tc.name == "plain GET" || name == "AdmitRequests" && tc.name == "plain GET" {
				continue // passed on, and admitted
			}
			raw := rawAnswers(t, both, b.fill(t).Replace(tc.request))
			require.NotEmpty(t, raw, "%s: %s", name, tc.name)
			assert.Empty(t, reached, "%s: %s (%s)", name, tc.name, tc.source)
			if strings.Contains(raw, " 101 ") { // RejectByClosing
				continue
			}
			want := []string{"close"}
			if strings.HasPrefix(raw, "HTTP/1.1 426 ") && name != "OnReject" {
				want = []string{"close", "Upgrade"}
			}
			assert.Equal(t, want, connectionLines(raw), "%s: %s", name, tc.name)
		}
	}
}

// The same of a gate, where the request resembles an upgrade.
func TestGateRefusal_ClosesConnectionOfUpgrade(t *testing.T) {
	for name, onReject := range map[string]onReject{
		"default": nil,
		"OnReject": func(w http.ResponseWriter, _ *http.Request, rej *middleware.Rejection) {
			http.Error(w, rej.Reason, rej.Status)
		},
	} {
		gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", OnReject: onReject})
		for request, closes := range map[string]bool{
			upgrade("GET", "/ws"):                             true,
			upgrade("GET", "/ws", sid(deadCookie)):            true,
			upgrade("GET", "/ws", sid(downCookie)):            true,
			get("/ws", "Upgrade: h2c"):                        true,
			get("/ws", "Sec-WebSocket-Key: x"):                true,
			get("/ws", "Connection: Upgrade"):                 true,
			rawRequest("CONNECT", "/ws"):                      true,
			get("/a"):                                         false,
			get("/a", "Accept: text/html"):                    false,
			get("/a", "Connection: keep-alive"):               false,
			rawRequest("POST", "/api/a", "Content-Length: 0"): false,
		} {
			raw := rawAnswers(t, gate.Wrap(whoami), request)
			assert.Equal(t, closes, strings.Count(raw, "HTTP/1.1 ") == 1, "%s: %s\n%s", name, request, raw)
			if closes {
				assert.Equal(t, []string{"close"}, connectionLines(raw), "%s: %s", name, request)
			}
		}
	}
}
