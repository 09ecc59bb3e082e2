package testserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
)

// browser is a person's: it has cookies of its own, and follows no redirect.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

// start serves the application on a real listener and ends all of it with the
// test, which fails if a goroutine is left.
func start(t *testing.T, opts *testserver.Options) (*testserver.Server, string) {
	t.Helper()
	before := runtime.NumGoroutine()
	app, err := testserver.New(opts)
	require.NoError(t, err)
	server := httptest.NewServer(app.Handler())
	t.Cleanup(func() {
		assert.NoError(t, app.Close())
		assert.NoError(t, app.Close(), "a second Close")
		server.Close()
		http.DefaultClient.CloseIdleConnections()
		deadline := time.After(10 * time.Second)
		for runtime.NumGoroutine() > before {
			select {
			case <-deadline:
				stacks := make([]byte, 1<<20)
				t.Fatalf("goroutines were left:\n%s", stacks[:runtime.Stack(stacks, true)])
			default:
				runtime.Gosched()
			}
		}
	})
	return app, server.URL
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t: t, base: base, http: &http.Client{
		Jar:       jar,
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

func signedIn(t *testing.T, base, user string) *browser {
	t.Helper()
	b := newBrowser(t, base)
	status, h, _ := b.post("/login", url.Values{"user": {user}})
	require.Equal(t, http.StatusSeeOther, status)
	require.Equal(t, "/", h.Get("Location"))
	return b
}

func (b *browser) do(req *http.Request) (int, http.Header, string) {
	b.t.Helper()
	res, err := b.http.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	return res.StatusCode, res.Header, string(body)
}

func (b *browser) request(
	method, path, body string, headers ...string,
) (int, http.Header, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path,
		strings.NewReader(body))
	require.NoError(b.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

func (b *browser) get(path string, headers ...string) (int, http.Header, string) {
	b.t.Helper()
	return b.request(http.MethodGet, path, "", headers...)
}

func (b *browser) post(path string, form url.Values, headers ...string) (int, http.Header, string) {
	b.t.Helper()
	headers = append(headers, "Content-Type", "application/x-www-form-urlencoded")
	return b.request(http.MethodPost, path, form.Encode(), headers...)
}

func (b *browser) getJSON(path string, v any) {
	b.t.Helper()
	status, _, body := b.get(path)
	require.Equal(b.t, http.StatusOK, status, body)
	require.NoError(b.t, json.Unmarshal([]byte(body), v), body)
}

// mint gets a ticket for an endpoint; "": for any.
func (b *browser) mint(endpoint string) string {
	b.t.Helper()
	body, headers := "", []string(nil)
	if endpoint != "" {
		body, headers = `{"endpoint":"`+endpoint+`"}`, []string{"Content-Type", "application/json"}
	}
	status, _, answer := b.request(http.MethodPost, "/api/auth/ws-ticket", body, headers...)
	require.Equal(b.t, http.StatusOK, status, answer)
	var minted struct {
		Ticket string `json:"ticket"`
	}
	require.NoError(b.t, json.Unmarshal([]byte(answer), &minted))
	require.Len(b.t, minted.Ticket, 43)
	return minted.Ticket
}

// dial opens a socket as a page of origin does; "": as a script.
func (b *browser) dial(path, ticket, origin string) (*websocket.Conn, *http.Response, error) {
	b.t.Helper()
	h := http.Header{}
	if origin != "" {
		h.Set("Origin", origin)
	}
	if ticket != "" {
		path += "?ticket=" + ticket
	}
	c, res, err := websocket.Dial(b.t.Context(), b.base+path,
		&websocket.DialOptions{HTTPClient: b.http, HTTPHeader: h})
	if c != nil {
		b.t.Cleanup(func() { c.CloseNow() })
	}
	return c, res, err
}

func (b *browser) open(path string) *websocket.Conn {
	b.t.Helper()
	c, _, err := b.dial(path, b.mint(path), b.base)
	require.NoError(b.t, err)
	require.Equal(b.t, "hello", b.echo(c, "hello"))
	return c
}

func (b *browser) echo(c *websocket.Conn, text string) string {
	b.t.Helper()
	require.NoError(b.t, c.Write(b.t.Context(), websocket.MessageText, []byte(text)))
	_, got, err := c.Read(b.t.Context())
	require.NoError(b.t, err)
	return string(got)
}

// patience is for what never comes: much longer than a machine is slow.
const patience = time.Minute

// closing reads to the end of a socket: what a page's onclose sees.
func closing(t *testing.T, c *websocket.Conn) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := c.Read(ctx); err != nil {
			var closed websocket.CloseError
			require.ErrorAs(t, err, &closed)
			return int(closed.Code), closed.Reason
		}
	}
}

// audited is a line of the audit, as /events sends it.
type audited struct {
	ID     string `json:"-"`
	Event  string
	Reason string
	Path   string
	Origin string
	Code   int    `json:"close_code"`
	Socket string `json:"socket_id"`
	raw    string
}

// listen opens /events, and returns what reads the next line for which want is
// true: the stream is read within the test.
func (b *browser) listen(after string) (next func(want func(audited) bool) audited) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	path := "/events?ticket=" + b.mint("/events") + "&after=" + url.QueryEscape(after)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+path, nil)
	require.NoError(b.t, err)
	res, err := b.http.Do(req)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { cancel(); res.Body.Close() })
	require.Equal(b.t, http.StatusOK, res.StatusCode)
	require.Equal(b.t, "text/event-stream", res.Header.Get("Content-Type"))
	lines := bufio.NewScanner(res.Body)
	return func(want func(audited) bool) audited {
		b.t.Helper()
		id := ""
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				id = value
			case "data":
				line := audited{ID: id, raw: value}
				require.NoError(b.t, json.Unmarshal([]byte(value), &line), value)
				if want(line) {
					return line
				}
			}
		}
		require.NoError(b.t, lines.Err())
		require.Fail(b.t, "the stream has ended")
		return audited{}
	}
}

func event(name string) func(audited) bool {
	return func(l audited) bool { return l.Event == name }
}

// pipes is a listener in memory: a bubble of synctest waits for no network.
type pipes chan net.Conn

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p <- server
	return client, nil
}

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
