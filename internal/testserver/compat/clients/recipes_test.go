package clients

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

// libraries are those of pages, each by the recipe that the README shows. A page that has
// joined counts how often it has been greeted.
var libraries = []struct{ recipe, join, greeted string }{
	{"party", `join((text) => said.push(text))`, ``},
	{"graphql", `join((text) => said.push(text))`, ``},
	{"yjs", `join((text) => said.push(text))`, ``},
	{"stomp", `join((text) => said.push(text))`, ``},
	{"trpc", `join((text) => said.push(text))`, ``},
	{"socketio", `join((text) => said.push(text))`, ``},
	{"xterm", `(() => { window.terminal = attach(document.body, leave.signal) })()`,
		`Array.from({ length: 20 }, (_, i) => ` +
			`terminal.buffer.active.getLine(i)?.translateToString() ?? '')` +
			`.join().match(/hello ada/g)?.length ?? 0`},
}

// forEachLibrary runs a test with a page that is about to join, and with what waits until it has
// been greeted so often.
func forEachLibrary(t *testing.T, test func(
	t *testing.T, a *app, page *browser.Page, join func(), greeted func(times int),
)) {
	for _, l := range libraries {
		t.Run(l.recipe, func(t *testing.T) {
			t.Parallel() // each waits most of the time
			a := newApp(t)
			page := a.open(l.recipe)
			chance(page, 0)
			for _, expected := range []string{"net::ERR_", "WebSocket connection to",
				"401 (Unauthorized)", "429 (Too Many Requests)", "503 (Service Unavailable)"} {
				page.Expect(expected)
			}
			count := l.greeted
			if count == "" {
				count = `said.length`
			}
			test(t, a, page,
				func() { page.Eval("void "+l.join, nil) },
				func(times int) { page.Wait(fmt.Sprintf("(%s) === %d", count, times)) })
		})
	}
}

// A page asks for a ticket when there is none just now, gets one that is lost on its way, comes in,
// sees its server deployed anew, and goes to sign in when its session is revoked.
func TestLibraries(t *testing.T) {
	forEachLibrary(t, func(
		t *testing.T, a *app, page *browser.Page, join func(), greeted func(int),
	) {
		var asked atomic.Int32
		a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
			switch asked.Add(1) {
			case 1:
				return answer(w, http.StatusServiceUnavailable, "unavailable")
			case 2:
				return answer(w, http.StatusTooManyRequests, "too_many")
			case 3:
				w.Header().Set("Content-Type", jsonType)
				fmt.Fprint(w, `{"ticket":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",`+
					`"ttl_seconds":30}`)
				return true
			}
			return false
		})
		join()
		greeted(1)
		assert.Equal(t, int32(4), asked.Load())
		assert.Equal(t, 1, a.lines.count("ws_ticket_rejected", `"reason":"unknown"`))

		a.stop()
		a.start()
		greeted(2)
		assert.Zero(t, a.lines.count("ws_ticket_rejected", "used"))
		assert.Equal(t, "/?room=7", page.String(`location.pathname + location.search`))

		before := asked.Load()
		a.signOut("ada")
		page.WaitPath("/login?next=%2F%3Froom%3D7")
		// The page sees the close frame; the line is written when the connection is closed.
		eventually(t, "the line of the close", func() bool {
			return a.lines.count("ws_closed", "session_revoked", "4401") == 1
		})
		assert.LessOrEqual(t, asked.Load(), before+1)
	})
}

// There is no session from the start: each page goes to sign in, though there is never a socket.
func TestLibrariesWithoutSession(t *testing.T) {
	forEachLibrary(t, func(t *testing.T, a *app, page *browser.Page, join func(), _ func(int)) {
		a.signOut("ada")
		join()
		page.WaitPath("/login?next=%2F%3Froom%3D7")
		assert.Zero(t, a.lines.count("ws_opened"))
	})
}

// What cannot succeed is tried once.
func TestLibrariesStop(t *testing.T) {
	forEachLibrary(t, func(t *testing.T, a *app, page *browser.Page, join func(), _ func(int)) {
		page.Expect("403 (Forbidden)")
		a.atMint(func(w http.ResponseWriter, _ *http.Request) bool {
			return answer(w, http.StatusForbidden, "forbidden")
		})
		join()
		page.WaitProblems(1, "4403 forbidden: ")
		page.Eval(`new Promise((then) => setTimeout(then, 4000))`, nil)
		assert.Len(t, a.bodies(), 1)
	})
}

// Two pages edit one text, and go on doing it through a restart.
func TestTwoPagesEditOneText(t *testing.T) {
	a := newApp(t)
	pages := []*browser.Page{a.open("yjs"), a.open("yjs")}
	for _, page := range pages {
		page.Expect("net::ERR_")
		page.Expect("WebSocket connection to")
		page.Eval(`void join((text) => said.push(text))`, nil)
		page.Wait(`said.length === 1`)
	}
	both := func(want string) {
		t.Helper()
		for _, page := range pages {
			page.Wait(fmt.Sprintf(`text.toString() === %q`, want))
		}
	}
	pages[0].Eval(`text.insert(0, 'one')`, nil)
	both("one")
	pages[1].Eval(`text.insert(3, ' two')`, nil)
	both("one two")
	a.stop()
	pages[0].Eval(`text.insert(7, ' three')`, nil)
	pages[1].Eval(`text.insert(0, 'zero ')`, nil)
	a.start()
	both("zero one two three")
	pages[1].Eval(`text.delete(0, 5)`, nil)
	both("one two three")
}
