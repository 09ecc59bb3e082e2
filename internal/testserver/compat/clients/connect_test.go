package clients

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

// open signs ada in, in a browser of her own, on a page with the recipes' functions.
func (a *app) open(recipes ...string) *browser.Page {
	a.t.Helper()
	a.bundle(recipes...)
	page := browser.NewProfile(a.t).Open(a.base + "/?room=7")
	page.WaitPath("/login?next=%2F%3Froom%3D7")
	page.Type("input[name=user]", "ada")
	page.Click("button")
	page.WaitPath("/?room=7")
	for _, name := range recipes {
		page.Eval(fmt.Sprintf(`import(%q).then((recipe) => { Object.assign(window, recipe) })`,
			"/recipes/"+name+".js"), nil)
	}
	page.Eval(`(() => {
		window.said = []
		window.closes = []
		window.leave = new AbortController()
		window.receive = ({ data }) => said.push(data)
	})()`, nil)
	return page
}

// keep has a page keep a socket open, as window.kept. more are further options.
func keep(page *browser.Page, url, more string) {
	page.Eval(fmt.Sprintf(`(() => {
		window.kept = connect(%q, { onmessage: receive, onclose: (e) => closes.push(e.code + ' ' + e.reason), signal: leave.signal, %s })
	})()`, url, more), nil)
}

// hasten has the page's clock run 100 times as fast, but for the limit of a mint, and writes
// down in waits what it waited for.
func hasten(page *browser.Page) {
	page.Eval(`(() => {
		const real = setTimeout
		window.waits = []
		window.setTimeout = (fn, ms, ...args) => {
			if (ms === 30000) return real(fn, ms, ...args)
			waits.push(ms)
			return real(fn, ms / 100, ...args)
		}
	})()`, nil)
}

// halt has the page wait for ever, but for the limit of a mint, and writes down what for.
func halt(page *browser.Page) {
	page.Eval(`(() => {
		const real = setTimeout
		window.waits = []
		window.setTimeout = (fn, ms, ...args) => {
			if (ms === 30000) return real(fn, ms, ...args)
			waits.push(ms)
			return ms > 0 ? real(fn, 1e8) : real(fn)
		}
	})()`, nil)
}

// chance has all that a page chooses at random be p.
func chance(page *browser.Page, p float64) {
	page.Eval(fmt.Sprintf(`Math.random = () => %v`, p), nil)
}

func waits(page *browser.Page) (all []float64) {
	page.Eval(`waits`, &all)
	return all
}

// answer answers a request for a ticket with a status.
func answer(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q,"detail":%q}`, code, http.StatusText(status))
	return true
}

// The server is deployed anew: the page comes back with another ticket, and is the same person.
func TestConnectThroughRestart(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("net::ERR_")
	page.Expect("WebSocket connection to")
	chance(page, 0)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	a.stop()
	a.start()
	page.Wait(`said.length === 2`)
	assert.Equal(t, "hello ada hello ada", page.String(`said.join(" ")`))
	assert.Equal(t, 1, a.lines.count("ws_closed", "going_away"))
	assert.Zero(t, a.lines.count("ws_ticket_rejected", "used"),
		"no ticket is used twice; one may be lost with its server")
	page.Eval(`leave.abort()`, nil)
	eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
}

// The session is ended by somebody else: the page stops, and goes to sign in; and then comes back
// to where it was.
func TestConnectSignsInAgain(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	hasten(page)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	minted := a.lines.count("ws_ticket_minted")
	a.signOut("ada")
	page.WaitPath("/login?next=%2F%3Froom%3D7")
	// The page sees the close frame; the line is written when the connection is closed.
	eventually(t, "the line of the close", func() bool {
		return a.lines.count("ws_closed", "session_revoked", "4401") == 1
	})
	assert.Equal(t, minted, a.lines.count("ws_ticket_minted"))
	assert.Zero(t, a.lines.count("session_verify_failure"), "it did not ask for another ticket")
	page.Type("input[name=user]", "ada")
	page.Click("button")
	page.WaitPath("/?room=7")
}

// The session is over before there is a socket: no ticket, and so to sign in.
func TestConnectSignsInFirst(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("401 (Unauthorized)")
	a.signOut("ada")
	keep(page, "/ws", "")
	page.WaitPath("/login?next=%2F%3Froom%3D7")
	assert.Equal(t, 1, a.lines.count("session_verify_failure"), "it asked once")
	assert.Zero(t, a.lines.count("ws_opened"))
}

// There is no ticket just now, which says nothing about the session: the page stays where it is
// and asks again, no sooner than it was told.
func TestConnectHonoursRetryAfter(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("503 (Service Unavailable)")
	page.Expect("429 (Too Many Requests)")
	answers := make(chan int, 3)
	answers <- http.StatusServiceUnavailable
	answers <- http.StatusTooManyRequests
	answers <- 0
	a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
		status := <-answers
		if status == 0 {
			return false
		}
		w.Header().Set("Retry-After", "20")
		return answer(w, status, "too_many")
	})
	chance(page, 1)
	hasten(page)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	assert.Equal(t, "/?room=7", page.String(`location.pathname + location.search`))
	assert.Equal(t, "1013 too_many,4429 too_many", page.String(`closes.join()`))
	all := waits(page)
	require.Len(t, all, 2)
	assert.InDelta(t, 21_000, all[0], 1)
	assert.InDelta(t, 22_000, all[1], 1)
	assert.Equal(t, 1, a.lines.count("ws_ticket_minted"))
}

// Nor does what wakes a page make it ask sooner than it was told.
func TestConnectHonoursRetryAfterWhenWoken(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("503 (Service Unavailable)")
	a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		return answer(w, http.StatusServiceUnavailable, "unavailable")
	})
	halt(page)
	keep(page, "/ws", "")
	page.Wait(`waits.length === 1`)
	page.Eval(`dispatchEvent(new Event('online'))`, nil)
	all := waits(page)
	require.Len(t, all, 2)
	assert.InDelta(t, 3_600_000, all[1], 120_000)
}

// A ticket that was lost on its way is replaced at once, the first time: something may lose all.
func TestConnectReplacesLostTicket(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	lost := make(chan bool, 4)
	for _, l := range []bool{true, true, true, false} {
		lost <- l
	}
	a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
		if !<-lost {
			return false
		}
		w.Header().Set("Content-Type", jsonType)
		fmt.Fprint(w, `{"ticket":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","ttl_seconds":30}`)
		return true
	})
	chance(page, 1)
	hasten(page)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	assert.Equal(t, []float64{0, 2000, 4000}, waits(page))
	assert.Equal(t, 3, a.lines.count("ws_ticket_rejected", `"reason":"unknown"`))
	assert.Equal(t, "/?room=7", page.String(`location.pathname + location.search`))
}

// A server that lets a socket open and then refuses it gets fewer and fewer attempts.
func TestConnectBacksOffThoughItOpens(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	chance(page, 0.5)
	hasten(page)
	keep(page, "/behind?do=close&code=1013&reason=unavailable", "")
	page.Wait(`waits.length >= 7`)
	page.Eval(`kept.close()`, nil)
	assert.Equal(t, []float64{500, 1000, 2000, 4000, 8000, 15_000, 15_000}, waits(page)[:7])
	assert.Zero(t, a.lines.count("ws_ticket_rejected"))
}

// After 5 s open, connect counts its attempts anew.
func TestConnectCountsAnew(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	chance(page, 1)
	halt(page)
	page.Eval(`(() => {
		const now = Date.now
		window.later = 0
		Date.now = () => now() + later
	})()`, nil)
	keep(page, "/behind?x=1", "")
	order := func(n int) {
		t.Helper()
		page.Wait(`kept.socket?.readyState === 1`)
		page.Eval(`kept.send('close 1013 unavailable')`, nil)
		page.Wait(fmt.Sprintf(`waits.length === %d`, n))
	}
	order(1)
	page.Eval(`dispatchEvent(new Event('online'))`, nil) // its wait is 0, and written down
	order(3)
	page.Eval(`dispatchEvent(new Event('online'))`, nil)
	page.Wait(`kept.socket?.readyState === 1`)
	page.Eval(`later = 6000`, nil)
	order(5)
	assert.Equal(t, []float64{1000, 0, 2000, 0, 1000}, waits(page))
}

// What cannot succeed is not tried again, and where another socket took the place it stays.
func TestConnectStops(t *testing.T) {
	for name, c := range map[string]struct{ url, settings, want string }{
		"another endpoint":  {"/ws", `endpoint: '/elsewhere'`, "4403 forbidden"},
		"an endpoint badly": {"/ws", `endpoint: '//'`, "4400 bad_request"},
		"evicted":           {"/behind?do=close&code=4429&reason=evicted", ``, "4429 evicted"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			page := a.ticketgate()
			page.Expect("4403 forbidden")
			page.Expect("4400 bad_request")
			page.Expect("400 (Bad Request)")
			hasten(page)
			keep(page, c.url, c.settings)
			page.Wait(`closes.length === 1`)
			assert.Equal(t, c.want, page.String(`closes[0]`))
			page.Eval(`dispatchEvent(new Event('online')), `+
				`dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))`, nil)
			assert.Empty(t, waits(page))
			page.Eval(`fetch('/login').then((r) => r.text())`, nil)
			assert.Len(t, a.bodies(), 1, "it asked for one ticket")
		})
	}
}
