package clients

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A page may put TicketSocket in the place of WebSocket, for libraries that take no constructor.
func TestTicketSocketAsGlobal(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	assert.Equal(t, "hello ada", page.String(`new Promise((resolve) => {
		window.WebSocket = TicketSocket
		const socket = new WebSocket('/ws')
		socket.onmessage = ({ data }) => resolve(data)
	})`))
}

// A session that is over leads to sign-in, whether a page listens or not.
func TestSignIn(t *testing.T) {
	for name, call := range map[string]string{
		"a socket that is open": `new Promise((resolve) => { window.socket = ` +
			`new TicketSocket('/ws'); socket.onopen = () => resolve() })`,
		"a socket that is minted": `a session that is over`,
		"an image":                `ticketed('/picture.png').catch(() => {})`,
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			page := a.ticketgate()
			page.Expect("401 (Unauthorized)")
			if name == "a socket that is open" {
				page.Eval(call, nil)
				a.signOut("ada")
			} else {
				a.signOut("ada")
				page.Eval(strings.Replace(call,
					"a session that is over", "void new TicketSocket('/ws')", 1), nil)
			}
			page.WaitPath("/login?next=%2F%3Froom%3D7")
		})
	}
}

// Where signIn leads: to this site's page or another's, and to no script.
func TestSignInLeads(t *testing.T) {
	a := newApp(t)
	for loginURL, want := range map[string]string{
		`/login`:       "/login?next=%2F%3Froom%3D7",
		`/login?x=1`:   "/login?x=1&next=%2F%3Froom%3D7",
		`/login?next=`: "/login?next=%2F%3Froom%3D7",
	} {
		page := a.ticketgate()
		page.Eval(fmt.Sprintf(`signIn({ loginURL: %q })`, loginURL), nil)
		page.WaitPath(want)
	}
	page := a.ticketgate()
	page.Eval(`signIn({ loginURL: 'javascript:document.title="run"' })`, nil)
	page.Eval(`signIn({ loginURL: 'data:text/htmlType,x' })`, nil)
	page.Eval(`new Promise((then) => setTimeout(then, 100))`, nil)
	assert.Equal(t, "signed in", page.String(`document.title`))
}

// Under default-src 'self' it works, and what the policy blocks names no ticket.
func TestContentSecurityPolicy(t *testing.T) {
	a := newApp(t)
	page := a.open()
	page.Go(a.base + "/strict")
	page.WaitText("p", "hello ada")
	page.WaitText("p", "blocked 3")
	said := page.String(`document.querySelector('p').textContent`)
	assert.Contains(t, said, "violation connect-src ws://127.0.0.1:9/ws")
	assert.NotRegexp(t, ticketPattern, said)
	page.WaitProblems(1, "violates the following Content Security Policy directive")
	for _, problem := range page.Problems() {
		assert.Fail(t, problem)
	}
}

var ticketPattern = regexp.MustCompile(`[\w-]{43}`)

// Where a ticket can be seen: with carrier 'protocol' nowhere. With 'query' the browser itself
// writes the URL of a handshake that fails to its console.
func TestTicketIsNotSeen(t *testing.T) {
	for carrier, seen := range map[string]bool{"protocol": false, "query": true} {
		t.Run(carrier, func(t *testing.T) {
			a := newApp(t)
			page := a.ticketgate()
			all := page.String(fmt.Sprintf(`new Promise((resolve) => {
				const seen = []
				const socket = new (TicketSocket.with({ carrier: %q }))('/behind?do=refuse&status=500', ['chat'])
				for (const type of ['open', 'message', 'error', 'close']) socket.addEventListener(type, (e) => {
					for (const name in e) if (typeof e[name] !== 'function') seen.push(name + '=' + e[name])
					for (const name in socket) seen.push(name + '=' + socket[name])
					if (type === 'close') setTimeout(() => resolve([...seen, ...performance.getEntries().map((e) => e.name)].join('\n')), 50)
				})
			})`, carrier))
			assert.NotRegexp(t, ticketPattern, all)
			page.WaitProblems(1, "failed: Error during WebSocket handshake")
			assert.Equal(t, seen, ticketPattern.MatchString(strings.Join(page.AllProblems(), "\n")))
			assert.Equal(t, 1, a.lines.count("ws_ticket_minted"))
		})
	}
}

// verdict says what the table says, and never fails.
func TestVerdict(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	for e, want := range map[string]string{
		`{ code: 4401, reason: 'ticket_rejected' }`:   "retry",
		`{ code: 4401, reason: 'session_revoked' }`:   "sign-in",
		`{ code: 4401, reason: 'session_expired' }`:   "sign-in",
		`{ code: 4401, reason: 'unauthenticated' }`:   "sign-in",
		`{ code: 4401, reason: '' }`:                  "sign-in",
		`{ code: 4403, reason: 'forbidden' }`:         "stop",
		`{ code: 4400, reason: 'bad_request' }`:       "stop",
		`{ code: 4429, reason: 'too_many' }`:          "wait",
		`{ code: 4429, reason: 'evicted' }`:           "stop",
		`{ code: 4429, reason: 'of another server' }`: "wait",
		`{ code: 1013, reason: 'unavailable' }`:       "wait",
		`{ code: 1001, reason: 'going_away' }`:        "wait",
		`{ code: 1000, reason: '' }`:                  "wait",
		`{ code: 1006, reason: '' }`:                  "wait",
		`{ code: 1011, reason: 'panic' }`:             "wait",
		`{ code: 4999, reason: 'ticket_rejected' }`:   "wait",
		`new CloseEvent('close', { code: 4403 })`:     "stop",
		`new Event('error')`:                          "wait",
		`{}`:                                          "wait",
	} {
		assert.Equal(t, want, page.String(fmt.Sprintf(`verdict(%s)`, e)), e)
	}
}
