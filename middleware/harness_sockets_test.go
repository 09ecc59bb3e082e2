package middleware_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// takeFunc is the Take of a store, for one key.
type takeFunc = func() (tickets.Grant, error)

// watchedStore is a store that counts what it is asked, and fails on demand.
type watchedStore struct {
	tickets.Store
	puts, takes atomic.Int64
	onPut       func() error
	onTake      func(take takeFunc) (tickets.Grant, error)
}

func (s *watchedStore) Put(ctx context.Context, key tickets.Key, g tickets.Grant) error {
	s.puts.Add(1)
	if s.onPut != nil {
		if err := s.onPut(); err != nil {
			return err
		}
	}
	return s.Store.Put(ctx, key, g)
}

func (s *watchedStore) Take(ctx context.Context, key tickets.Key) (tickets.Grant, error) {
	s.takes.Add(1)
	take := func() (tickets.Grant, error) { return s.Store.Take(ctx, key) }
	if s.onTake != nil {
		return s.onTake(take)
	}
	return take()
}

// bed is a guard, its store, and what it writes to the audit.
type bed struct {
	store  *watchedStore
	issuer *tickets.Issuer
	guard  *middleware.Guard
	rec    *recorder
}

func newBed(t testing.TB, opts middleware.GuardOptions, sockets ...middleware.SocketsOptions) *bed {
	t.Helper()
	b := &bed{store: &watchedStore{Store: tickets.NewMemoryStore(nil)}}
	b.issuer = must(tickets.NewIssuer(b.store, &tickets.IssuerOptions{MaxPerSession: 1 << 16}))
	opts.Audit, b.rec = newAudit()
	for _, o := range sockets {
		o.Audit = opts.Audit
		opts.Sockets = must(middleware.NewSockets(b.issuer, &o))
	}
	b.guard = must(middleware.NewGuard(b.issuer, &opts))
	return b
}

// grantOf is what a ticket of s says.
func grantOf(s *middleware.Session) tickets.Grant {
	return tickets.Grant{SessionID: s.ID, Provider: s.Provider, UserID: s.UserID}
}

// mint returns a ticket of ann's.
func (b *bed) mint(t testing.TB, changes ...func(*tickets.Grant)) string {
	t.Helper()
	g := grantOf(ann())
	for _, change := range changes {
		change(&g)
	}
	ticket, err := b.issuer.Mint(t.Context(), g)
	require.NoError(t, err)
	return string(ticket)
}

// base64url is the alphabet of a ticket.
const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// fill puts fresh tickets in the place of {T} and {U}, and in that of {T2}
// another spelling of the first, whose last character has two bits to spare.
func (b *bed) fill(t testing.TB) *strings.Replacer {
	ticket := b.mint(t)
	last := strings.IndexByte(base64url, ticket[42])
	return strings.NewReplacer("{T}", ticket, "{T2}", ticket[:42]+base64url[last+1:last+2],
		"{U}", b.mint(t), "{ID}", auditID(ticket))
}

func newIssuer(t testing.TB) *tickets.Issuer {
	t.Helper()
	issuer := must(tickets.NewIssuer(tickets.NewMemoryStore(nil), nil))
	t.Cleanup(func() { assert.NoError(t, issuer.Close()) })
	return issuer
}

// socketApp is a guarded endpoint in front of a listener of pipes: a pipe may be
// used in a synctest bubble, and holds nothing between its ends.
type socketApp struct {
	issuer  *tickets.Issuer
	guard   *middleware.Guard
	sockets *middleware.Sockets
	audit   *recorder
	server  *http.Server
	dial    func() (net.Conn, error)

	tls       bool
	connState func(net.Conn, http.ConnState)
}

type socketAppOptions struct {
	guard        middleware.GuardOptions
	sockets      middleware.SocketsOptions
	tcp          bool          // a real listener in place of the pipes
	tls          bool          // on top of it
	store        tickets.Store // a MemoryStore, if nil
	maxStaleness time.Duration
}

func newSocketApp(t testing.TB, h http.Handler, o socketAppOptions) *socketApp {
	t.Helper()
	app := &socketApp{tls: o.tls}
	if o.store == nil {
		o.store = tickets.NewMemoryStore(nil)
	}
	opts := &tickets.IssuerOptions{MaxPerSession: 1 << 16, MaxStaleness: o.maxStaleness}
	app.issuer = must(tickets.NewIssuer(o.store, opts))
	t.Cleanup(func() { _ = app.issuer.Close() })
	o.sockets.Audit, app.audit = newAudit()
	app.sockets = must(middleware.NewSockets(app.issuer, &o.sockets))
	o.guard.Sockets = app.sockets
	app.guard = must(middleware.NewGuard(app.issuer, &o.guard))
	if h != nil {
		app.serve(t, app.guard.Wrap(h), o.tcp)
	}
	return app
}

// serve runs h, which need not be the guard's own Wrap.
func (app *socketApp) serve(t testing.TB, h http.Handler, tcp bool) {
	var ln net.Listener = newPipeListener()
	if tcp {
		var err error
		ln, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		app.dial = func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	} else {
		app.dial = ln.(*pipeListener).dial
	}
	if app.tls {
		ln = app.overTLS(ln)
	}
	app.server = &http.Server{
		Handler: h, ErrorLog: log.New(io.Discard, "", 0), ConnState: app.connState,
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = app.server.Serve(ln) })
	t.Cleanup(func() {
		_ = app.sockets.Shutdown(context.Background())
		_ = app.server.Close()
		serving.Wait()
	})
}

// overTLS makes dial and ln speak TLS.
func (app *socketApp) overTLS(ln net.Listener) net.Listener {
	dial := app.dial
	app.dial = func() (net.Conn, error) {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil
	}
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate()}})
}

// certificate is httptest's own.
var certificate = sync.OnceValue(func() tls.Certificate {
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS()
	defer srv.Close()
	return srv.TLS.Certificates[0]
})

// pipeListener is a listener of pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// serveInBubble serves h on pipes until the test ends, and returns what dials it.
func serveInBubble(t *testing.T, h http.Handler) func() net.Conn {
	ln := newPipeListener()
	srv := &http.Server{
		Handler: h, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { _ = srv.Close() })
	return func() net.Conn { return must(ln.dial()) }
}

// exchange sends a request that asks for the connection to be closed, and
// returns the answer as it came, without its date.
func exchange(t *testing.T, conn net.Conn, request string) string {
	t.Helper()
	go io.WriteString(conn, request)
	raw, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	return regexp.MustCompile(`(?m)^Date: .*\r\n`).ReplaceAllString(string(raw), "")
}

func annsGrant() tickets.Grant {
	return tickets.Grant{SessionID: "session-1-" + secretMark, Provider: "oidc", UserID: "ann"}
}

// ticketFor is the path of the endpoint with a ticket.
func (app *socketApp) ticketFor(t testing.TB, g tickets.Grant) string {
	t.Helper()
	ticket, err := app.issuer.Mint(context.Background(), g)
	require.NoError(t, err)
	return "/ws?ticket=" + string(ticket)
}

// page is a client that sees every byte.
type page struct {
	net.Conn
	br     *bufio.Reader
	status int
}

// open opens a socket, or is refused.
func (app *socketApp) open(t testing.TB, g tickets.Grant) *page {
	t.Helper()
	return app.send(t, handshake(app.ticketFor(t, g)))
}

func (app *socketApp) send(t testing.TB, request string) *page {
	t.Helper()
	c, err := app.dial()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	go func() { _, _ = io.WriteString(c, request) }() // a server may answer before it has read all
	p := &page{Conn: c, br: bufio.NewReader(c)}
	res, err := http.ReadResponse(p.br, nil)
	require.NoError(t, err)
	p.status = res.StatusCode
	return p
}

// live opens a socket that must not be refused, and waits until it is there: a
// library that writes the 101 before it hijacks lets the page see it sooner.
func (app *socketApp) live(t testing.TB, g tickets.Grant) *page {
	t.Helper()
	before := len(app.audit.Events(t, audit.SocketOpened))
	p := app.open(t, g)
	require.Equal(t, http.StatusSwitchingProtocols, p.status)
	eventually(t, "ws_opened", func() bool {
		return len(app.audit.Events(t, audit.SocketOpened)) > before
	})
	return p
}

// begin opens a connection and writes request to it.
func (app *socketApp) begin(t testing.TB, request string) net.Conn {
	t.Helper()
	c, err := app.dial()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	write(t, c, request)
	return c
}

func (app *socketApp) await(t testing.TB, e audit.Event, n int) []map[string]any {
	t.Helper()
	return app.audit.Await(t, e, n)
}

// allOfAnn revokes all of ann's sessions.
var allOfAnn = tickets.Revocation{Provider: "oidc", UserID: "ann"}

// revokeAnn revokes the session of annsGrant.
func revokeAnn(t testing.TB, app *socketApp) {
	t.Helper()
	ann := tickets.Revocation{SessionID: annsGrant().SessionID}
	require.NoError(t, app.issuer.Revoke(t.Context(), ann))
}

func onlySocket(t testing.TB, s *middleware.Sockets) middleware.SocketInfo {
	t.Helper()
	var all []middleware.SocketInfo
	for info := range s.All() {
		all = append(all, info)
	}
	require.Len(t, all, 1)
	return all[0]
}

// wireFrame is a frame as a server sends it.
type wireFrame struct {
	op      byte
	payload string
}

var errBroken = errors.New("the last frame is broken off")

// frames reads frames up to the close frame, answers that, and reads to the end.
// An error means that the connection ended in any other way.
func (p *page) frames() ([]wireFrame, error) {
	var all []wireFrame
	for {
		f, err := readWireFrame(p.br)
		if err != nil {
			return all, err
		}
		all = append(all, f)
		if f.op == 8 {
			_, _ = p.Write([]byte{0x88, 0x80, 0, 0, 0, 0})
			if _, ok := p.Conn.(*net.TCPConn); ok { // a pipe has no FIN
				rest, err := io.ReadAll(p.br)
				if err != nil || len(rest) > 0 {
					return all, fmt.Errorf("%d bytes after the close frame, then %w",
						len(rest), err)
				}
			}
			return all, p.Close()
		}
	}
}

func readWireFrame(r io.Reader) (wireFrame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return wireFrame{}, err // between two frames
	}
	f, err := readWireFrameFrom(r, head)
	if err != nil {
		err = errBroken
	}
	return f, err
}

func readWireFrameFrom(r io.Reader, head [2]byte) (wireFrame, error) {
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return wireFrame{}, err
	}
	length := uint64(head[1] & 0x7f)
	ext := make([]byte, 8)
	if n := map[uint64]int{126: 2, 127: 8}[length]; n > 0 {
		if _, err := io.ReadFull(r, ext[8-n:]); err != nil {
			return wireFrame{}, err
		}
		length = binary.BigEndian.Uint64(ext)
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(r, payload)
	return wireFrame{head[0] & 0xf, string(payload)}, err
}

// wire is an unmasked frame of a server, with the shortest length.
func wire(op byte, payload string) []byte {
	f := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		f = append(f, byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 127), uint64(n))
	}
	return append(f, payload...)
}

// requireClosed fails unless the page saw exactly this close, after whole frames.
func requireClosed(t testing.TB, p *page, code int, reason string) {
	t.Helper()
	all, err := p.frames()
	require.NoError(t, err, "after %d frames", len(all))
	requireCloseFrame(t, all, code, reason)
}

func requireCloseFrame(t testing.TB, all []wireFrame, code int, reason string) {
	t.Helper()
	require.NotEmpty(t, all)
	last := all[len(all)-1]
	require.EqualValues(t, 8, last.op)
	require.GreaterOrEqual(t, len(last.payload), 2)
	require.Equal(t, code, int(binary.BigEndian.Uint16([]byte(last.payload))))
	require.Equal(t, reason, last.payload[2:])
}

// requireFrame fails unless want is the next frame that the page sees.
func requireFrame(t testing.TB, p *page, want wireFrame) {
	t.Helper()
	f, err := readWireFrame(p.br)
	require.NoError(t, err)
	require.Equal(t, want, f)
}

// eventually waits until another goroutine makes ok true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.Fail(t, "never happened: "+what)
		}
	}
}

// echoes is a handler as in the library's documentation. It records the causes of its
// contexts.
type echoes struct {
	mu     sync.Mutex
	causes []error
}

func (e *echoes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !echoEach(w, r, nil) {
		return
	}
	e.mu.Lock()
	e.causes = append(e.causes, context.Cause(r.Context()))
	e.mu.Unlock()
}

// echoEach sends each message back until the socket ends. It reports whether
// there was a socket.
func echoEach(w http.ResponseWriter, r *http.Request, opts *websocket.AcceptOptions) bool {
	c, err := websocket.Accept(w, r, opts)
	if err != nil {
		return false
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return true
		}
	}
}

// guardedEcho is echoEach with a subprotocol, for pages of any origin.
var guardedEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	echoEach(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"chat"}, InsecureSkipVerify: true,
	})
})

// ended waits until n contexts have ended, and returns their causes.
func (e *echoes) ended(t testing.TB, n int) []error {
	t.Helper()
	var causes []error
	eventually(t, "the end of the handlers", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		causes = e.causes
		return len(causes) >= n
	})
	return causes
}

// upgradeByHand takes the connection as libraries do that write the 101 through
// it, in pieces of at most n bytes.
func upgradeByHand(w http.ResponseWriter, n int) (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	response := switching + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	for len(response) > 0 {
		k := min(n, len(response))
		if _, err := io.WriteString(c, response[:k]); err != nil {
			return nil, nil, err
		}
		response = response[k:]
	}
	return c, rw, nil
}

// byHand upgrades by hand, and gives the connection to do.
func byHand(t testing.TB, do func(c net.Conn, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, _, err := upgradeByHand(w, 1000); assert.NoError(t, err) {
			do(c, r)
		}
	})
}

// admitting is a handler that calls Admit itself, as an application with a router of its
// own does.
func admitting(
	g *middleware.Guard, do func(*middleware.Admission, http.ResponseWriter),
) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, rej := g.Admit(r)
		if rej != nil {
			rej.ServeHTTP(w, r)
			return
		}
		do(a, w)
	})
}

// runInBubble is t.Run with synctest.Test.
func runInBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// client is an http.Client that dials the app, whatever the URL says.
func (app *socketApp) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return app.dial() },
	}}
}

// h1Client speaks HTTP/1.1, which can upgrade, over TLS too.
func h1Client(srv *httptest.Server) *http.Client {
	tr := srv.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = false
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(true)
	if tr.TLSClientConfig != nil {
		tr.TLSClientConfig.NextProtos = nil
	}
	return &http.Client{Transport: tr}
}

// held is a handler's connection and context, for the test.
type held struct {
	conn net.Conn
	ctx  context.Context
}

// holder sends its connection and context to out, and returns.
func holder(t *testing.T, out chan<- held) http.Handler {
	return byHand(t, func(c net.Conn, r *http.Request) { out <- held{c, r.Context()} })
}

// restoreFunc is the type of a Restore option.
type restoreFunc = func(context.Context, *middleware.Session) (*middleware.Session, error)

// restores is a Restore whose answer a test can change.
type restores struct {
	mu     sync.Mutex
	answer restoreFunc
	calls  int
}

func (r *restores) set(answer restoreFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer, r.calls = answer, 0
}

func (r *restores) restore(
	ctx context.Context, s *middleware.Session,
) (*middleware.Session, error) {
	r.mu.Lock()
	r.calls++
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		return s, nil
	}
	return answer(ctx, s)
}

func until(end time.Time) restoreFunc {
	return func(_ context.Context, s *middleware.Session) (*middleware.Session, error) {
		c := *s
		c.ExpiresAt = end
		return &c, nil
	}
}

// hangs is a Restore that waits for the end of its context.
func hangs(ctx context.Context, _ *middleware.Session) (*middleware.Session, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func says(err error) restoreFunc {
	return func(context.Context, *middleware.Session) (*middleware.Session, error) {
		return nil, err
	}
}

type contextKey struct{}
