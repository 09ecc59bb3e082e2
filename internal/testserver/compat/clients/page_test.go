package clients

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

// recipes keep a socket of a page open: connect(path, onmessage, signal).
var recipes = []struct {
	file string
	npm  bool
}{
	{"plain.js", false},
	{"party.js", true},
}

// forEachRecipe runs a test with an application, and with a page of somebody who
// is signed in and has the recipe as connect.
func forEachRecipe(t *testing.T, test func(t *testing.T, a *app, page *browser.Page)) {
	for _, r := range recipes {
		t.Run(r.file, func(t *testing.T) {
			a := newApp(t)
			if r.npm {
				a.npm = browser.Packages(t)
			}
			page := a.open(r.file)
			test(t, a, page)
		})
	}
}

// open signs ada in, in a browser of her own, on a page with the recipes' functions.
func (a *app) open(files ...string) *browser.Page {
	a.t.Helper()
	page := browser.NewProfile(a.t).Open(a.base + "/?room=7")
	page.WaitPath("/login?next=%2F%3Froom%3D7")
	page.Type("input[name=user]", "ada")
	page.Click("button")
	page.WaitPath("/?room=7")
	for _, file := range files {
		page.Eval(fmt.Sprintf(`import(%q).then((recipe) => { Object.assign(window, recipe) })`, "/recipes/"+file), nil)
	}
	page.Eval(`(() => {
		window.said = []
		window.leave = new AbortController()
		window.hear = ({ data }) => said.push(data)
	})()`, nil)
	return page
}

// hasten has the page's clock run 100 times as fast, and writes down in waits what
// it waited for, but for partysocket's limits to an attempt.
func hasten(page *browser.Page) {
	page.Eval(`(() => {
		const real = setTimeout, limits = [4000, 5000]
		window.waits = []
		window.setTimeout = (fn, ms, ...args) => {
			if (limits.includes(ms)) return real(fn, ms, ...args)
			if (ms > 0) waits.push(ms)
			return real(fn, ms / 100, ...args)
		}
	})()`, nil)
}

// soon has what a recipe chooses at random be the least.
func soon(page *browser.Page) { page.Eval(`Math.random = () => 0`, nil) }

// The server is deployed anew: the page is told 1001, comes back with another
// ticket, and is the same person.
func TestReconnects(t *testing.T) {
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		page.Expect("net::ERR_")
		page.Expect("WebSocket connection to")
		soon(page)
		page.Eval(`void connect('/ws', hear, leave.signal)`, nil)
		page.Wait(`said.length === 1`)
		a.stop()
		a.start()
		page.Wait(`said.length === 2`)
		assert.Equal(t, "hello ada hello ada", page.String(`said.join(" ")`))
		assert.Equal(t, 1, a.lines.count("ws_closed", "going_away"))
		assert.Zero(t, a.lines.count("ws_ticket_rejected", "used"), "no ticket is shown twice; one may be lost with the server that minted it")

		page.Eval(`leave.abort()`, nil)
		eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
	})
}

// The session is ended by somebody else: the page stops, and goes to sign in; and
// then comes back to where it was.
func TestSignsInAgain(t *testing.T) {
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		soon(page)
		hasten(page)
		page.Eval(`void connect('/ws', hear, leave.signal)`, nil)
		page.Wait(`said.length === 1`)
		minted := a.lines.count("ws_ticket_minted")
		a.signOut("ada")
		page.WaitPath("/login?next=%2F%3Froom%3D7")
		assert.Equal(t, 1, a.lines.count("ws_closed", "session_revoked", "4401"))
		assert.Equal(t, minted, a.lines.count("ws_ticket_minted"))
		assert.Zero(t, a.lines.count("session_verify_failure"), "it did not ask for another ticket")
		page.Type("input[name=user]", "ada")
		page.Click("button")
		page.WaitPath("/?room=7")
	})
}

// The session is over before there is a socket: no ticket, and so to sign in.
func TestSignsInFirst(t *testing.T) {
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		page.Expect("401 (Unauthorized)")
		a.signOut("ada")
		page.Eval(`void connect('/ws', hear, leave.signal)`, nil)
		page.WaitPath("/login?next=%2F%3Froom%3D7")
		assert.Equal(t, 1, a.lines.count("session_verify_failure"), "it asked once")
		assert.Zero(t, a.lines.count("ws_opened"))
	})
}

// There is no ticket just now, which says nothing about the session: the page
// stays where it is and asks again.
func TestTicketsUnavailable(t *testing.T) {
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		page.Expect("503 (Service Unavailable)")
		page.Expect("429 (Too Many Requests)")
		answers := make(chan int, 3)
		answers <- http.StatusServiceUnavailable
		answers <- http.StatusTooManyRequests
		answers <- 0
		a.mu.Lock()
		a.onMint = func() int { return <-answers }
		a.mu.Unlock()
		hasten(page)
		page.Eval(`void connect('/ws', hear, leave.signal)`, nil)
		page.Wait(`said.length === 1`)
		assert.Equal(t, "/?room=7", page.String(`location.pathname + location.search`))
		assert.Zero(t, a.lines.count("ws_ticket_rejected"))
		assert.Equal(t, 1, a.lines.count("ws_ticket_minted"))
	})
}

// A framework mounts a component, unmounts it and mounts it again, as React does
// in its strict mode, while the first ticket is on its way: one socket.
func TestDoubleMount(t *testing.T) {
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		came, gone := make(chan struct{}, 2), make(chan struct{})
		a.mu.Lock()
		a.onMint = func() int { came <- struct{}{}; <-gone; return 0 }
		a.mu.Unlock()
		page.Eval(`void connect('/ws', hear, leave.signal)`, nil)
		<-came
		page.Eval(`(() => {
			leave.abort()
			window.leave = new AbortController()
			void connect('/ws', hear, leave.signal)
		})()`, nil)
		<-came
		close(gone)
		page.Wait(`said.length === 1`)
		// What the first could still do, it has done when a fetch that is younger has
		// been answered.
		page.Eval(`fetch('/login').then((r) => r.text())`, nil)
		assert.Equal(t, 1, a.lines.count("ws_opened"))
		assert.Equal(t, 1, a.sockets.Len())
		assert.Equal(t, "hello ada", page.String(`said.join(" ")`))

		page.Eval(`leave.abort()`, nil)
		eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
	})
}

// Many pages at once, and a server that is away for a while: their attempts are
// spread, become fewer, and when it is back each comes back once.
func TestNoStorm(t *testing.T) {
	const pages = 20
	forEachRecipe(t, func(t *testing.T, a *app, page *browser.Page) {
		page.Expect("net::ERR_")
		page.Expect("WebSocket connection to")
		hasten(page)
		page.Eval(fmt.Sprintf(`(() => { for (let i = 0; i < %d; i++) void connect('/ws', hear, leave.signal) })()`, pages), nil)
		page.Wait(fmt.Sprintf(`said.length === %d`, pages))
		a.stop()
		page.Wait(fmt.Sprintf(`waits.length >= %d`, 6*pages))
		a.start()
		page.Wait(fmt.Sprintf(`said.length >= %d`, 2*pages))
		assert.Equal(t, 2*pages, a.lines.count("ws_opened"))
		assert.Zero(t, a.lines.count("ws_ticket_rejected"))

		var waits []float64
		page.Eval(`waits`, &waits)
		first, later := waits[:pages], waits[len(waits)-pages:]
		assert.Greater(t, slices.Max(first)-slices.Min(first), 250.0, "ms: the first attempts are spread")
		bins := make(map[int]int) // of 250 ms
		for _, wait := range first {
			bins[int(wait/250)]++
		}
		for bin, n := range bins {
			assert.Less(t, n, pages*3/4, "within the same quarter of a second: %v", bin)
		}
		assert.Greater(t, mean(later), 1.5*mean(first), "they become fewer")
	})
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}

// A socket that is refused by closing opens first, so that onopen says nothing
// about success: whoever begins to count anew there never waits longer.
func TestRefusedSocketsOpenFirst(t *testing.T) {
	a := newApp(t)
	page := a.open()
	got := page.String(`new Promise((resolve) => {
		const seen = []
		const socket = new WebSocket('/ws?ticket=' + 'A'.repeat(43))
		socket.onopen = () => seen.push('open')
		socket.onclose = ({ code, reason }) => resolve([...seen, code, reason].join(' '))
	})`)
	require.Equal(t, "open 4401 ticket_rejected", got)
}

// Each recipe of a page is one that a reader takes in at a glance.
func TestRecipesAreShort(t *testing.T) {
	files, err := filepath.Glob("page/*.js")
	require.NoError(t, err)
	require.Len(t, files, 4)
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.LessOrEqual(t, bytes.Count(source, []byte("\n")), 15, file)
	}
}
