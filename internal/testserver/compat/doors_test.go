package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	gorilla "github.com/gorilla/websocket"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// doors are what an application puts into its router.
type doors struct {
	issuer *tickets.Issuer
	gate   *middleware.Gate
	mint   *middleware.Mint
	guard  *middleware.Guard
}

type doorOptions struct {
	issuer  *tickets.Issuer // nil: its own
	gate    middleware.GateOptions
	guard   middleware.GuardOptions
	sockets middleware.SocketsOptions
	audit   slog.Handler // nil: nowhere
}

func newDoors(sessions middleware.Authenticator, o doorOptions) doors {
	if o.audit == nil {
		o.audit = slog.DiscardHandler
	}
	log := audit.New(o.audit)
	o.gate.Audit, o.sockets.Audit = log, log
	if o.issuer == nil {
		o.issuer = must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	}
	o.guard.Sockets = must(middleware.NewSockets(o.issuer, &o.sockets))
	return doors{
		issuer: o.issuer,
		gate:   must(middleware.NewGate(sessions, &o.gate)),
		mint:   must(middleware.NewMint(o.issuer, &middleware.MintOptions{Audit: log})),
		guard:  must(middleware.NewGuard(o.issuer, &o.guard)),
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// visitor is a browser, as far as HTTP sees one: it keeps cookies, and says
// where its page is from.
type visitor struct {
	base   string
	origin string
	bearer string // sent with every request; a page can't send it with a socket
	http   *http.Client
}

func newVisitor(server *httptest.Server) *visitor {
	client := *server.Client()
	client.Jar = must(cookiejar.New(nil))
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &visitor{base: server.URL, origin: server.URL, http: &client}
}

// another is another browser, at the same address.
func (v *visitor) another() *visitor {
	client := *v.http
	client.Jar = must(cookiejar.New(nil))
	return &visitor{base: v.base, origin: v.origin, http: &client}
}

type answer struct {
	status int
	header http.Header
	text   string
}

func (v *visitor) do(method, path string, header ...string) answer {
	r := must(http.NewRequest(method, v.base+path, nil))
	if method != http.MethodGet {
		r.Header.Set("Origin", v.origin)
	}
	if v.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+v.bearer)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response := must(v.http.Do(r))
	defer response.Body.Close()
	return answer{response.StatusCode, response.Header, string(must(io.ReadAll(response.Body)))}
}

func (v *visitor) get(path string, header ...string) answer { return v.do("GET", path, header...) }
func (v *visitor) post(path string, header ...string) answer {
	return v.do("POST", path, header...)
}

// ticket mints one; "" if there is none to be had.
func (v *visitor) ticket(header ...string) string {
	var minted struct{ Ticket string }
	if a := v.post("/api/auth/ws-ticket", header...); a.status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.text), &minted); err != nil {
			panic(err)
		}
	}
	return minted.Ticket
}

// dial opens the socket at path, with the subprotocols given.
func (v *visitor) dial(path string, protocols ...string) (*gorilla.Conn, *http.Response, error) {
	dialer := gorilla.Dialer{Jar: v.http.Jar, Subprotocols: protocols, HandshakeTimeout: patience}
	if t := v.http.Transport.(*http.Transport).TLSClientConfig; t != nil {
		dialer.TLSClientConfig = t.Clone()
		dialer.TLSClientConfig.NextProtos = []string{"http/1.1"} // as browsers do for wss
	}
	return dialer.Dial("ws"+strings.TrimPrefix(v.base, "http")+path, http.Header{"Origin": {v.origin}})
}

// cookie is the value of the cookie called name; "" if there is none.
func (v *visitor) cookie(name string) string {
	for _, c := range v.http.Jar.Cookies(must(url.Parse(v.base))) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// setCookie puts a cookie there that no server has set.
func (v *visitor) setCookie(name, value string) {
	v.http.Jar.SetCookies(must(url.Parse(v.base)), []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// hear returns what a socket of the page says first, and how it is closed after
// that.
func (v *visitor) hear(path string, protocols ...string) string {
	c, response, err := v.dial(path, protocols...)
	if err != nil {
		if response == nil {
			panic(err)
		}
		return fmt.Sprint("refused: ", response.StatusCode)
	}
	defer c.Close()
	_, message, err := c.ReadMessage()
	if closed, ok := err.(*gorilla.CloseError); ok {
		return fmt.Sprint("closed: ", closed.Code, " ", closed.Text)
	}
	return string(message)
}

// logFile is an access log's.
type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
