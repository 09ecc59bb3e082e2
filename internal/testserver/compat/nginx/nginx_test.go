package nginx

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

func TestMain(m *testing.M) { os.Exit(browser.Run(m)) }

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = time.Minute

// proxy is a running nginx with the recipe's configuration.
type proxy struct {
	public  string // its origin
	logs    string // folder
	process *exec.Cmd
	exited  chan error
}

// start runs an application and an nginx in front of it. change is done to the
// recipe first, for what happens without a line of it; nil: nothing.
func start(t *testing.T, change func(string) string) (*app, *proxy) {
	t.Helper()
	path := browser.Need(t, "nginx", "apt-get install nginx")
	recipe, err := os.ReadFile("ticketgate.conf")
	require.NoError(t, err)
	conf := string(recipe)
	if change != nil {
		conf = change(conf)
		require.NotEqual(t, string(recipe), conf)
	}
	// A port that is free now may be taken in a moment, by another test's server.
	for range 5 {
		if a, p := tryStart(t, path, conf); p != nil {
			return a, p
		}
	}
	require.Fail(t, "nginx does not start")
	return nil, nil
}

func tryStart(t *testing.T, path, conf string) (*app, *proxy) {
	t.Helper()
	address := freeAddress(t)
	dir := t.TempDir()
	p := &proxy{public: "https://" + address, logs: dir, exited: make(chan error, 1)}
	a := newApp(t, p.public)
	certificate, key := identity(t, dir)
	conf = strings.NewReplacer(
		"listen 443", "listen "+address,
		"http://127.0.0.1:8080", a.server.URL,
		"/etc/ssl/app.example.pem", certificate,
		"/etc/ssl/app.example.key", key,
		"/var/log/nginx", dir,
	).Replace(conf)
	// One process, without workers that could outlive it.
	conf = fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http {
    client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
%[2]s}
`, dir, conf)
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	var out bytes.Buffer
	p.process = exec.Command(path, "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", file)
	p.process.Stdout, p.process.Stderr = &out, &out
	browser.EndWithTest(p.process)
	require.NoError(t, p.process.Start())
	go func() { p.exited <- p.process.Wait() }()
	t.Cleanup(func() { p.stop() })
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-p.exited:
			p.exited <- err
			require.Contains(t, out.String(), "Address already in use")
			return nil, nil
		default:
		}
		if c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}); err == nil {
			c.Close()
			return a, p
		}
	}
	require.Fail(t, "nginx does not answer", out.String())
	return nil, nil
}

// stop ends nginx and waits for it: its logs are then complete.
func (p *proxy) stop() {
	_ = p.process.Process.Signal(syscall.SIGTERM)
	p.exited <- <-p.exited
}

// log is what nginx has written, all of it, when it has been stopped.
func (p *proxy) log(t *testing.T) string {
	t.Helper()
	p.stop()
	var all strings.Builder
	names, err := filepath.Glob(filepath.Join(p.logs, "*.log"))
	require.NoError(t, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		all.Write(b)
	}
	return all.String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// identity writes down the certificate and key that httptest's servers have.
func identity(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	pair := server.TLS.Certificates[0]
	secret, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	certificate, key = filepath.Join(dir, "app.pem"), filepath.Join(dir, "app.key")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	require.NoError(t, os.WriteFile(certificate, public, 0o600))
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	require.NoError(t, os.WriteFile(key, private, 0o600))
	return certificate, key
}

// client is one at another address than nginx's, which follows no redirect.
func client(t *testing.T) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	transport := &http.Transport{DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// In a browser, over HTTP/2 but for the sockets: to the sign-in and back, in both
// ways of carrying a ticket, through a stream, and to the end of the session.
func TestBrowser(t *testing.T) {
	a, p := start(t, nil)
	page := browser.NewProfile(t).Open(p.public + "/app/dash?x=1")
	page.WaitPath("/app/login?next=%2Fdash%3Fx%3D1")
	page.Type("input[name=user]", "ada")
	page.Click("form button")
	page.WaitPath("/app/dash?x=1")
	assert.Equal(t, "h2",
		page.String(`performance.getEntriesByType("navigation")[0].nextHopProtocol`))
	page.Eval(`(() => {
		window.mint = (endpoint) => fetch('api/auth/ws-ticket', { method: 'POST', headers: { 'Content-Type': 'application/json' },
			body: JSON.stringify({ endpoint }) }).then((r) => r.json()).then((m) => m.ticket)
		window.open = (url, protocols) => new Promise((resolve) => {
			const socket = window.socket = new WebSocket(url, protocols)
			socket.onopen = () => socket.send('hello')
			socket.onmessage = ({ data }) => resolve(data + ' ' + socket.protocol)
			window.ended = new Promise((resolve) => (socket.onclose = ({ code, reason }) => resolve(code + ' ' + reason)))
			window.ended.then(resolve)
		})
	})()`, nil)
	// The path in the ticket is the application's own, as the guard sees it.
	assert.Equal(t, "hello chat",
		page.String(`mint('/ws').then((ticket) => open('ws', ['chat', 'ticket.' + ticket]))`))
	assert.Equal(t, "hello ",
		page.String(`mint('/ws').then((ticket) => open('ws?ticket=' + (window.ticket = ticket)))`))
	assert.Equal(t, "first second third",
		page.String(`mint('/events').then((ticket) => new Promise((resolve) => {
		const stream = new EventSource('events?ticket=' + ticket), words = []
		stream.onmessage = ({ data }) => words.push(data) === 3 ? resolve(words.join(' '), stream.close()) : fetch('heard', { method: 'POST' })
	}))`))
	// A replay is told from the socket that is still open; and the end is told too.
	page.Eval(`void (window.first = ended)`, nil)
	assert.Equal(t, "4401 ticket_rejected", page.String(`open('ws?ticket=' + ticket)`))
	for _, line := range a.lines.with("ws_opened") {
		assert.Contains(t, line, `"ip":"127.0.0.1"`)
	}
	require.NoError(t, a.revoke(t, "ada"))
	assert.Equal(t, "4401 session_revoked", page.String(`first`))
	requireNoTicket(t, p.log(t))
}
