package clients

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

// ticketgate opens a page of ada's that has the module's exports as globals.
func (a *app) ticketgate() *browser.Page {
	a.t.Helper()
	page := a.open()
	page.Eval(`import('/ticketgate.js').then((m) => { Object.assign(window, m) })`, nil)
	return page
}

const htmlType = "text/html; charset=utf-8"
const jsonType = "application/json; charset=utf-8"

// refusals of a mint, and what a page is told. Only ticketgate's own JSON is believed.
var refusals = []struct {
	name   string
	status int
	kind   string
	body   string
	header string // "Name: value"
	want   string
}{
	{"no session", 401, jsonType,
		`{"error":"unauthenticated","detail":"Unauthorized","login_url":"/login"}`, "",
		"4401 unauthenticated - /login sign-in"},
	{"a session that ended", 401, jsonType,
		`{"error":"session_expired","detail":"Unauthorized","login_url":"/enter?x=1"}`, "",
		"4401 session_expired - /enter?x=1 sign-in"},
	{"a 401 of another party", 401, htmlType, `<h1>401</h1>`, "",
		"4401 unauthenticated - - sign-in"},
	{"a login_url of another party", 401, jsonType,
		`{"error":"Nope","login_url":"https://evil.example/"}`, "",
		"4401 unauthenticated - - sign-in"},
	{"a redirect", 302, htmlType, ``, "Location: /login", "4401 unauthenticated - - sign-in"},
	{"a redirect elsewhere", 307, htmlType, ``, "Location: https://id.example/",
		"4401 unauthenticated - - sign-in"},
	{"forbidden", 403, jsonType, `{"error":"forbidden","detail":"Forbidden"}`, "",
		"4403 forbidden - - stop"},
	{"a 403 of a firewall", 403, htmlType, `<h1>blocked</h1>`, "", "1013 unavailable - - wait"},
	{"a 403 with an object", 403, jsonType, `{"error":{"message":"forbidden"}}`, "",
		"1013 unavailable - - wait"},
	{"a 403 with a list", 403, jsonType, `{"error":["forbidden"]}`, "",
		"1013 unavailable - - wait"},
	{"a 403 with words", 403, jsonType, `{"error":"Access denied"}`, "",
		"1013 unavailable - - wait"},
	{"a 404 of a deployment", 404, "text/plain", `404 page not found`, "",
		"1013 unavailable - - wait"},
	{"too many", 429, jsonType, `{"error":"too_many","detail":"Too Many Requests"}`,
		"Retry-After: 7", "4429 too_many 7 - wait"},
	{"too many for a proxy", 429, htmlType, `slow down`, "Retry-After: 9",
		"1013 unavailable 9 - wait"},
	{"a bad request", 400, jsonType, `{"error":"bad_request","detail":"Bad Request"}`, "",
		"4400 bad_request - - stop"},
	{"the wrong method", 405, jsonType,
		`{"error":"method_not_allowed","detail":"Method Not Allowed"}`, "",
		"4400 method_not_allowed - - stop"},
	{"an unsupported type", 415, jsonType, `{"error":"unsupported_media_type","detail":""}`, "",
		"4400 unsupported_media_type - - stop"},
	{"unavailable", 503, jsonType, `{"error":"unavailable","detail":"Service Unavailable"}`,
		"Retry-After: 2", "1013 unavailable 2 - wait"},
	{"a Retry-After of 0", 503, jsonType, `{"error":"unavailable"}`, "Retry-After: 0",
		"1013 unavailable - - wait"},
	{"a Retry-After that is none", 503, jsonType, `{"error":"unavailable"}`, "Retry-After: soon",
		"1013 unavailable - - wait"},
	{"a 500", 500, htmlType, `oops`, "", "1013 unavailable - - wait"},
	{"a 502 with JSON", 502, jsonType, `{"error":"bad_gateway"}`, "", "1013 bad_gateway - - wait"},
	{"a portal's page", 200, htmlType, `<h1>Welcome to our wifi</h1>`, "",
		"1013 unavailable - - wait"},
	{"an answer of null", 200, jsonType, `null`, "", "1013 unavailable - - wait"},
	{"a ticket that is none", 200, jsonType, `{"ticket":"a&b"}`, "", "1013 unavailable - - wait"},
	{"no answer at all", 204, jsonType, ``, "", "1013 unavailable - - wait"},
}

// A refused mint is an error and a close, with the same code, and TicketSocket says so to all.
func TestRefusedMint(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("Failed to load resource")
	page.Expect("4403 forbidden: ws://" + a.addr + `/ws, its ticket bound to "/ws"`)
	page.Expect("4400 ")
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", c.kind)
				if name, value, ok := strings.Cut(c.header, ": "); ok {
					w.Header().Set(name, value)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
				return true
			})
			got := page.String(`new Promise((resolve) => {
				const seen = [], asked = []
				const Socket = TicketSocket.with({ signIn: (e) => asked.push(e.code) })
				const socket = new Socket('/ws')
				for (const type of ['open', 'error', 'close']) socket.addEventListener(type, (e) => {
					const { code, reason, retryAfter, loginURL } = e
					seen.push([type, e.constructor.name, socket.readyState, code, reason, retryAfter ?? '-', loginURL ?? '-', verdict(e)].join(' '))
					if (type === 'close') setTimeout(() => resolve([...seen, asked.join()].join('\n')))
				})
			})`)
			signIn := ""
			if strings.HasSuffix(c.want, "sign-in") {
				signIn = "4401"
			}
			want := "error CloseEvent 3 " + c.want + "\nclose CloseEvent 3 " + c.want +
				"\n" + signIn
			assert.Equal(t, want, got)

			got = page.String(`new Promise((resolve) => {
				const asked = []
				ticketed('/picture.png', { signIn: (e) => asked.push(e.code) }).catch((e) => {
					const { code, reason, retryAfter, loginURL } = e
					resolve([e instanceof Error, code, reason, retryAfter ?? '-', loginURL ?? '-', verdict(e), asked].join(' '))
				})
			})`)
			assert.Equal(t, "true "+c.want+" "+signIn, got)
		})
	}
}

// An HTTP date is as good as seconds.
func TestRetryAfterDate(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("503 (Service Unavailable)")
	a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	var after float64
	page.Eval(`ticketed('/x').catch((e) => e.retryAfter)`, &after)
	assert.InDelta(t, 3600, after, 300)
}

// No network, or an answer that breaks off, is no news of the session.
func TestNoNetwork(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("Failed to load resource")
	closed := `new Promise((resolve) => { new TicketSocket('/ws')` +
		`.onclose = ({ code, reason }) => resolve(code + ' ' + reason) })`
	a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"ticket":"`)
		panic(http.ErrAbortHandler)
	})
	assert.Equal(t, "1013 unavailable", page.String(closed))
	a.stop()
	assert.Equal(t, "1013 unavailable", page.String(closed))
}

// A mint that hangs is given up after 30 s, whatever hangs: the server, or the page's headers.
func TestMintTimesOut(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	gone := make(chan struct{}, 1)
	a.atMint(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		gone <- struct{}{}
		return true
	})
	page.Eval(`(() => {
		const real = setTimeout
		window.setTimeout = (fn, ms, ...args) => real(fn, ms === 30000 ? 200 : ms, ...args)
	})()`, nil)
	got := `new Promise((resolve) => { new (TicketSocket.with(%s))('/ws')` +
		`.onclose = ({ code, reason }) => resolve(code + ' ' + reason) })`
	assert.Equal(t, "1013 unavailable", page.String(fmt.Sprintf(got, `{}`)))
	<-gone
	assert.Equal(t, "1013 unavailable",
		page.String(fmt.Sprintf(got, `{ headers: () => new Promise(() => {}) }`)))
	assert.Equal(t, "1013 unavailable",
		page.String(fmt.Sprintf(got, `{ headers: () => Promise.reject(new Error('offline')) }`)))
}

// A socket that is closed while it mints mints no more, and never opens.
func TestCloseWhileMinting(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	came, gone := make(chan struct{}), make(chan struct{})
	a.atMint(func(_ http.ResponseWriter, r *http.Request) bool {
		close(came)
		<-r.Context().Done()
		close(gone)
		return true
	})
	page.Eval(`(() => {
		const real = setTimeout
		window.setTimeout = (fn, ms) => ms === 30000 ? 0 : real(fn, ms) // it must not end by itself
		window.seen = []
		window.socket = new TicketSocket('/ws')
		for (const type of ['open', 'error', 'close']) socket['on' + type] = (e) => seen.push(type, e.code, socket.readyState)
	})()`, nil)
	<-came
	assert.Equal(t, "2", page.String(`(socket.close(4000, 'x'), String(socket.readyState))`))
	eventually(t, "the end of the request", func() bool {
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
	page.Wait(`seen.length === 6`)
	assert.Equal(t, "error,,3,close,1006,3", page.String(`seen.join()`))
	assert.Zero(t, a.lines.count("ws_ticket_minted"))
	assert.Zero(t, a.lines.count("ws_opened"))
}

// A ticket is bound to the path of its socket, unless the page says otherwise.
func TestEndpoint(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	open := `new Promise((resolve) => {
		const socket = new (TicketSocket.with(%s))(%s)
		socket.onmessage = ({ data }) => resolve(data + socket.close())
		socket.onclose = ({ code, reason }) => resolve(code + ' ' + reason)
	})`
	for _, c := range []struct{ settings, url, body, want string }{
		{`{}`, `'/ws'`, `{"endpoint":"/ws"}`, "hello adaundefined"},
		{`{}`, `location.origin + '/ws?a=b'`, `{"endpoint":"/ws"}`, "hello adaundefined"},
		{`{ endpoint: '' }`, `'/ws'`, `{}`, "hello adaundefined"},
		{`{ endpoint: '/ws' }`, `'ws?x'`, `{"endpoint":"/ws"}`, "hello adaundefined"},
		{`{ endpoint: (u) => u.pathname.replace('/x/..', '') }`, `'/ws'`, `{"endpoint":"/ws"}`,
			"hello adaundefined"},
		{`{ endpoint: (u) => '/app' + u.pathname }`, `'/ws'`, `{"endpoint":"/app/ws"}`,
			"4403 forbidden"},
	} {
		before := len(a.bodies())
		assert.Equal(t, c.want, page.String(fmt.Sprintf(open, c.settings, c.url)), c.settings)
		bodies := a.bodies()
		require.Len(t, bodies, before+1)
		assert.Equal(t, c.body, bodies[before], c.settings)
	}
	assert.Equal(t, 1, a.lines.count("ws_ticket_rejected", `"reason":"endpoint"`))
	page.WaitProblems(1, `4403 forbidden: ws://`+a.addr+`/ws, its ticket bound to "/app/ws"`)
	// A path that is none would be a ticket for any path.
	const try = `(() => { try { return String(%s) } catch (e) { return e.name } })()`
	const made = `new (TicketSocket.with({ endpoint: %s }))('/ws')`
	for _, wrong := range []string{
		`() => undefined`, `() => null`, `() => 5`, `() => ({})`, `5`, `null`, `{}`} {
		got := page.String(fmt.Sprintf(try, fmt.Sprintf(made, wrong)))
		assert.Equal(t, "TypeError", got, wrong)
	}
}

// Settings: what is unknown throws, and what is known is passed on.
func TestSettings(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	for _, wrong := range []string{
		`{ carier: 'protocol' }`, `{ endpiont: '/ws' }`,
		`{ carrier: 'cookie' }`, `{ carrier: 5 }`} {
		for _, call := range []string{`TicketSocket.with(%s)`, `connect('/ws', %s)`} {
			got := page.String(fmt.Sprintf(
				`(() => { try { return String(`+call+`) } catch (e) { return e.name } })()`, wrong))
			assert.Equal(t, "TypeError", got, call, wrong)
		}
		assert.Equal(t, "TypeError",
			page.String(fmt.Sprintf(`ticketed('/ws', %s).catch((e) => e.name)`, wrong)))
	}
	assert.Equal(t, "SyntaxError", page.String(`(() => {
		try { new (TicketSocket.with({ carrier: 'protocol' }))('/ws') } catch (e) { return e.name }
	})()`), "a ticket needs a subprotocol beside it")

	var headers http.Header
	a.atMint(func(_ http.ResponseWriter, r *http.Request) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		headers = r.Header.Clone()
		return false
	})
	open := `new Promise((resolve) => {
		const Socket = TicketSocket.with({ headers: { 'X-One': '1' } }).with(%s)
		const socket = new Socket('/ws')
		socket.onmessage = ({ data }) => resolve([data, socket instanceof TicketSocket, new.target].join(socket.close()))
		socket.onclose = ({ code, reason }) => resolve(code + ' ' + reason)
	})`
	for settings, want := range map[string]string{
		`{}`: "1",
		`{ headers: new Headers({ 'X-One': '2' }) }`:  "2",
		`{ headers: [['X-One', '3']] }`:               "3",
		`{ headers: () => ({ 'X-One': '4' }) }`:       "4",
		`{ headers: async () => ({ 'X-One': '5' }) }`: "5",
		`{ mint: new URL('/api/auth/ws-ticket?6', location), ` +
			`headers: () => ({ 'X-One': '6' }) }`: "6",
		`{ mint: 'api/auth/ws-ticket' }`: "1",
	} {
		got := page.String(fmt.Sprintf(strings.Replace(open, ", new.target", "", 1), settings))
		assert.Contains(t, got, "hello ada", settings)
		a.mu.Lock()
		assert.Equal(t, want, headers.Get("X-One"), settings)
		assert.Equal(t, "application/json", headers.Get("Content-Type"), settings)
		a.mu.Unlock()
	}
	page.Expect("401 (Unauthorized)")
	got := page.String(fmt.Sprintf(strings.Replace(open, ", new.target", "", 1),
		`{ credentials: 'omit', signIn() {} }`))
	assert.Equal(t, "4401 unauthenticated", got)
}
