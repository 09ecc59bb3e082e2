package middleware_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// h2Frame is one HTTP/2 frame (RFC 9113 section 4.1).
type h2Frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

const (
	h2Data, h2Headers, h2Reset, h2Settings = 0, 1, 3, 4

	h2EndStream, h2EndHeaders = 1, 4
)

func (f h2Frame) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(f.payload))<<8|uint32(f.kind))
	b = binary.BigEndian.AppendUint32(append(b, f.flags), f.stream)
	return append(b, f.payload...)
}

func readH2Frame(r io.Reader) (f h2Frame, err error) {
	var head [9]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	f.kind, f.flags, f.stream = head[3], head[4], binary.BigEndian.Uint32(head[5:])
	f.payload = make([]byte, binary.BigEndian.Uint32(head[:])>>8)
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// h2Fields are header fields as HPACK literals without indexing (RFC 7541
// section 6.2.2), which say whatever a client library would refuse to.
func h2Fields(fields ...string) (b []byte) {
	for i := 0; i < len(fields); i += 2 {
		b = append(b, 0, byte(len(fields[i])))
		b = append(b, fields[i]...)
		b = append(b, byte(len(fields[i+1])))
		b = append(b, fields[i+1]...)
	}
	return b
}

// h2Answer is what a stream was answered.
type h2Answer struct {
	fields, body []byte // fields as HPACK
	reset        uint32 // the error code of a RST_STREAM
}

// sendH2Raw sends the head of a request, and leaves the stream open, as one
// that is to carry a WebSocket is.
func sendH2Raw(t *testing.T, srv *httptest.Server, fields ...string) (a h2Answer) {
	t.Helper()
	c := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	c.NextProtos, c.ServerName = []string{"h2"}, "example.com"
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), c)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, exchangeH2(conn, h2EndHeaders, fields...))
	return readH2Answer(t, conn)
}

// exchangeH2 opens a connection's first stream with the head of a request.
func exchangeH2(conn net.Conn, flags byte, fields ...string) error {
	head := h2Frame{kind: h2Headers, flags: flags, stream: 1, payload: h2Fields(fields...)}
	_, err := conn.Write(slices.Concat([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		h2Frame{kind: h2Settings}.bytes(), head.bytes()))
	return err
}

func readH2Answer(t *testing.T, conn net.Conn) (a h2Answer) {
	t.Helper()
	for {
		f, err := readH2Frame(conn)
		require.NoError(t, err)
		switch {
		case f.stream != 1:
			continue
		case f.kind == h2Reset:
			a.reset = binary.BigEndian.Uint32(f.payload)
			return a
		case f.kind == h2Headers:
			a.fields = f.payload
		case f.kind == h2Data:
			a.body = append(a.body, f.payload...)
		}
		if f.flags&h2EndStream != 0 {
			return a
		}
	}
}

// h2Statuses are the statuses of this test as HPACK spells them (RFC 7541
// appendices A and B); 4e: a literal of the name of static entry 14.
var h2Statuses = map[int]string{
	200: "\x88",
	400: "\x8c",
	401: "\x4e\x82\x68\x01",
	405: "\x4e\x03405",
	426: "\x4e\x03426",
	501: "\x4e\x82\x6c\x01",
}

// xconnectChild tells the test binary that it runs with extended CONNECT, which
// net/http reads from the environment once, as the process starts.
const xconnectChild = "TICKETGATE_TEST_XCONNECT"

// withExtendedConnect runs the test in a child that has it, and reports whether
// this is the child.
func withExtendedConnect(t *testing.T) (child bool) {
	t.Helper()
	if os.Getenv(xconnectChild) != "" {
		return true
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), xconnectChild+"=1", "GODEBUG=http2xconnect=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "with extended CONNECT:\n%s", out)
	return false
}

// connectH2 are the fields of an extended CONNECT (RFC 8441 section 4).
func connectH2(path, protocol string, more ...string) []string {
	return append([]string{
		":method", "CONNECT", ":scheme", "https", ":authority", "app.example", ":path", path,
		":protocol", protocol,
		"sec-websocket-version", "13", "origin", "https://app.example",
	}, more...)
}

// plainConnectH2 are the fields of a CONNECT to a host.
func plainConnectH2() []string {
	return []string{":method", "CONNECT", ":authority", "app.example"}
}

// getH2 are the fields of a GET.
func getH2(path string, more ...string) []string {
	return append([]string{
		":method", "GET", ":scheme", "https", ":authority", "app.example", ":path", path,
	}, more...)
}

// requireStatusH2 fails unless an answer has this status.
func requireStatusH2(t *testing.T, status int, a h2Answer) {
	t.Helper()
	ok := bytes.HasPrefix(a.fields, []byte(h2Statuses[status]))
	require.True(t, ok, "want %d, have % x", status, a.fields)
}

// A CONNECT has a path that no router cleans. It is never public, never a page, and
// mints no ticket.
func TestExtendedConnect_IsNeverPublicNorMints(t *testing.T) {
	if !withExtendedConnect(t) {
		return
	}
	type row struct {
		name, source string
		fields       []string
		status       int
		body, reason string // reason: of the audit's one line
	}
	answers := func(
		status int, body, reason string,
	) func(name, source string, fields []string) row {
		return func(name, source string, fields []string) row {
			return row{name, source, fields, status, body, reason}
		}
	}
	none, dead := answers(401, bodyNone, ""), answers(401, bodyEnded, "invalid_or_expired_session")
	notUpgrade := answers(501, errorBody(501, "not_implemented"), "not_upgrade")
	method := answers(405, errorBody(405, "method_not_allowed"), "method")
	to := func(path string, more ...string) []string {
		return connectH2(path, "websocket", more...)
	}
	page := []string{"accept", "text/html", "sec-fetch-mode", "navigate"}
	good, bad := []string{"cookie", "sid=" + goodCookie}, []string{"cookie", "sid=" + deadCookie}
	for _, tc := range []row{
		none("no session", "RFC 8441 4", to("/ws", page...)),
		none("another protocol", "RFC 9220 5",
			connectH2("/ws", "connect-udp", "accept", "text/html")),
		none("a public path", "RFC 9110 9.3.6", to("/public/x")),
		none("a public path, upwards", "RFC 9110 9.3.6: ServeMux does not clean it",
			to("/public/../admin")),
		none("the sign-in page", "RFC 9110 9.3.6", to("/login")),
		dead("a dead session", "RFC 8441 4", to("/ws", bad...)),
		notUpgrade("a session, at a guard", "RFC 8441 4", to("/ws", good...)),
		method("a session, at the mint", "RFC 9110 9.3.6", to(mintPath, good...)),
		method("a plain CONNECT", "RFC 9113 8.5", append(plainConnectH2(), good...)),
	} {
		t.Run(tc.name+" ("+tc.source+")", func(t *testing.T) {
			log, rec := newAudit()
			gate, _ := newGate(t, middleware.GateOptions{
				LoginURL: "/login", Public: []string{"/public/"}, Audit: log})
			issuer := newIssuer(t)
			mint := must(middleware.NewMint(issuer, &middleware.MintOptions{Audit: log}))
			guard := must(middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: log}))
			mux := http.NewServeMux()
			mux.Handle(mintPath, mint)
			mux.Handle("/", guard.Wrap(mustNotRun(t)))
			a := sendH2Raw(t, serveTLS(t, gate.Wrap(mux)), tc.fields...)
			requireStatusH2(t, tc.status, a)
			assert.Equal(t, tc.body, string(a.body))
			requireNoSecret(t, "the answer", string(a.fields)+string(a.body)+rec.Text())
			if tc.reason == "" {
				assert.Empty(t, rec.Text())
			} else if lines := rec.Lines(t); assert.Len(t, lines, 1) {
				assert.Equal(t, tc.reason, lines[0]["reason"])
			}
		})
	}
}

func TestWebSocketOverHTTP2_IsRefused(t *testing.T) {
	extended := withExtendedConnect(t)
	type row struct {
		name, source string
		extended     bool // whether the server offers extended CONNECT
		fields       []string
		status       int    // 0: reset with PROTOCOL_ERROR
		body, reason string // "": net/http's own answer
	}
	notImplemented := func(name, source string, fields []string) row {
		return row{name, source, true, fields, 501, errorBody(501, "not_implemented"),
			"not_upgrade"}
	}
	required := errorBody(426, "upgrade_required")
	connect, plain := connectH2(ws, "websocket"), plainConnectH2()
	withKey := connectH2(ws, "websocket", "sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
	connection := getH2(ws, "connection", "upgrade", "upgrade", "websocket")
	for _, tc := range []row{
		{"not offered", "golang/go#71128", false, connect, 0, "", ""},
		notImplemented("offered", "RFC 8441 5", connect),
		notImplemented("another protocol", "RFC 9220 5", connectH2(ws, "connect-udp")),
		notImplemented("with a key", "RFC 8441 5.1", withKey),
		{"plain CONNECT", "RFC 9113 8.5", true, plain, 426, required, "not_upgrade"},
		{"plain CONNECT", "RFC 9113 8.5", false, plain, 426, required, "not_upgrade"},
		{"GET with Connection", "RFC 9113 8.2.2", false, connection, 400, "", ""},
		{"GET with Upgrade", "RFC 9113 8.2.2", true, getH2(ws, "upgrade", "websocket"),
			400, "", ""},
	} {
		if tc.extended != extended {
			continue
		}
		for name, opts := range map[string]middleware.GuardOptions{
			"guard":            {},
			"around a router":  {PassOthers: true, AdmitRequests: true},
			"RejectByClosing":  {OnReject: middleware.RejectByClosing},
			"behind a conceal": {PassOthers: true},
		} {
			t.Run(fmt.Sprintf("%s (%s)/%s", tc.name, tc.source, name), func(t *testing.T) {
				b := newBed(t, opts)
				h := b.guard.Wrap(mustNotRun(t))
				if name == "behind a conceal" {
					h = middleware.ConcealTicket(h)
				}
				ticket := b.mint(t)
				fields := append([]string{}, tc.fields...)
				for i, v := range fields {
					if v == ws {
						fields[i] = "/ws?ticket=" + ticket
					}
				}
				a := sendH2Raw(t, serveTLS(t, h), fields...)
				if tc.status == 0 {
					const protocolError = 1
					require.EqualValues(t, protocolError, a.reset)
				} else {
					requireStatusH2(t, tc.status, a)
				}
				if tc.reason == "" {
					assert.Empty(t, b.rec.Text())
				} else {
					assert.Equal(t, tc.body, string(a.body))
					assert.Equal(t, 1, len(b.rec.Events(t, "ws_upgrade_refused")))
					assert.Equal(t, tc.reason, b.rec.Lines(t)[0]["reason"])
				}
				assert.Zero(t, b.store.takes.Load())
				_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
				assert.NoError(t, err, "the ticket was spent")
			})
		}
	}
}

// The requests of HTTP/2 to a guard without CONNECT.
func TestGuard_HTTP2StreamNeedsTicketAndOrigin(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{AdmitRequests: true})
	srv := serveTLS(t, b.guard.Wrap(whoami))
	a := sendH2(t, srv, "GET", "/ws")
	require.Equal(t, http.StatusUpgradeRequired, a.Status)
	assert.Equal(t, errorBody(426, "upgrade_required"), a.Body)
	assert.Empty(t, a.Header["Connection"], "RFC 9113 section 8.2.2")
	assert.Empty(t, a.Header["Upgrade"], "RFC 9113 section 8.2.2")

	target := "/ws?ticket=" + b.mint(t)
	ask := func(lines ...string) answer { return sendH2(t, srv, "GET", target, lines...) }
	assert.Equal(t, http.StatusForbidden, ask(evilOrigin).Status)
	assert.Equal(t, http.StatusForbidden, ask("Origin: http://app.example").Status)
	assert.Equal(t, http.StatusUpgradeRequired, ask(goodKey).Status)
	assert.Equal(t, "ann", ask("Origin: https://app.example").reached())
	assert.Equal(t, http.StatusUnauthorized, ask().Status)
}
