package clients

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What wakes a page makes it come back at once.
func TestConnectWakes(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("net::ERR_")
	halt(page)
	chance(page, 1)
	keep(page, "/ws", "")
	for i, event := range []string{
		`dispatchEvent(new Event('online'))`,
		`document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))`,
		`dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))`,
	} {
		page.Wait(fmt.Sprintf(`said.length === %d`, i+1))
		a.stop()
		page.Wait(fmt.Sprintf(`closes.length === %d`, i+1))
		a.start()
		page.Eval(event, nil)
	}
	page.Wait(`said.length === 4`)
}

// A browser keeps a page to come back to, with its socket: connect closes that, and opens another
// when the person is back.
func TestConnectInBackForwardCache(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Eval(`addEventListener('pageshow', (e) => { window.restored = e.persisted })`, nil)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	page.Go(a.base + "/login")
	eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
	page.Eval(`history.back()`, nil)
	page.Wait(`window.restored === true`)
	page.Wait(`said.length === 2`)
	assert.Equal(t, "1006 pagehide", page.String(`closes.join()`))
	assert.Equal(t, 1, a.sockets.Len())
}

// A phone that was suspended has a socket that nobody is at the other end of.
func TestConnectAfterSuspension(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Eval(`(() => {
		const now = Date.now
		window.later = 0
		Date.now = () => now() + later
		window.setInterval = (fn) => { window.tick = fn }
	})()`, nil)
	keep(page, "/ws", "")
	page.Wait(`said.length === 1`)
	page.Eval(`later += 60e3, tick(), later += 120e3, tick()`, nil)
	assert.Equal(t, "", page.String(`closes.join()`))
	page.Eval(`later += 200e3, tick()`, nil)
	page.Wait(`said.length === 2`)
	assert.Equal(t, "1006 suspended", page.String(`closes.join()`))
	eventually(t, "one socket", func() bool { return a.sockets.Len() == 1 })
}

// A connection sends while it is open, and throws while it is not.
func TestConnectSends(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("net::ERR_")
	thrown := `(() => { try { return String(kept.send('x')) } catch (e) { return e.name } })()`
	asked := make(chan struct{})
	a.atMint(func(http.ResponseWriter, *http.Request) bool { <-asked; return false })
	keep(page, "/ws", "onopen: () => kept.send('from onopen')")
	assert.Equal(t, "InvalidStateError", page.String(thrown), "while it mints")
	close(asked)
	page.Wait(`said.length === 2`)
	page.Eval(`kept.send(new Blob(['binary'])), kept.send('text')`, nil)
	page.Wait(`said.length === 4`)
	assert.Equal(t, "hello ada,from onopen,[object Blob],text", page.String(`said.join()`))
	a.stop()
	page.Wait(`closes.length > 0`)
	assert.Equal(t, "InvalidStateError", page.String(thrown), "between two sockets")
	a.start()
	page.Wait(`said.length === 6`)
	page.Eval(`kept.close(4000, 'bye')`, nil)
	assert.Equal(t, "InvalidStateError", page.String(thrown), "closed")
	page.Wait(`closes.at(-1) === '4000 bye'`)
	assert.Equal(t, "undefined", page.String(`(leave.abort(), kept.close(), String(kept.socket))`))
	eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
	assert.Equal(t, "undefined",
		page.String(`String(connect('/ws', { signal: leave.signal }).socket)`), "aborted before")
}

// A framework mounts a component, unmounts it and mounts it again, as React does in its strict
// mode, while the first ticket is on its way: one socket.
func TestConnectTwice(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	came, gone := make(chan struct{}, 2), make(chan struct{})
	a.atMint(func(http.ResponseWriter, *http.Request) bool {
		came <- struct{}{}
		<-gone
		return false
	})
	keep(page, "/ws", "")
	<-came
	page.Eval(`leave.abort(), window.leave = new AbortController()`, nil)
	keep(page, "/ws", "")
	<-came
	close(gone)
	page.Wait(`said.length === 1`)
	// What the first could still do, it has done when a younger fetch has been answered.
	page.Eval(`fetch('/login').then((r) => r.text())`, nil)
	assert.Equal(t, 1, a.lines.count("ws_opened"))
	assert.Equal(t, 1, a.sockets.Len())
	assert.Equal(t, "hello ada", page.String(`said.join(" ")`))
	page.Eval(`leave.abort()`, nil)
	eventually(t, "the end", func() bool { return a.sockets.Len() == 0 })
}

// Many pages at once, and a server that is away for a while: their attempts are spread, become
// fewer, and when it is back each comes back once.
func TestConnectMakesNoStorm(t *testing.T) {
	const pages = 20
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("net::ERR_")
	page.Expect("WebSocket connection to")
	hasten(page)
	for range pages {
		keep(page, "/ws", "")
	}
	page.Wait(fmt.Sprintf(`said.length === %d`, pages))
	a.stop()
	page.Wait(fmt.Sprintf(`waits.length >= %d`, 6*pages))
	a.start()
	page.Wait(fmt.Sprintf(`said.length >= %d`, 2*pages))
	assert.Equal(t, 2*pages, a.lines.count("ws_opened"))
	assert.Zero(t, a.lines.count("ws_ticket_rejected", `"reason":"used"`))

	all := waits(page)
	first, later := all[:pages], all[len(all)-pages:]
	assert.Greater(t, slices.Max(first)-slices.Min(first), 250.0,
		"ms: the first attempts are spread")
	bins := make(map[int]int) // of 250 ms
	for _, wait := range first {
		bins[int(wait/250)]++
	}
	for bin, n := range bins {
		assert.Less(t, n, pages*3/4, "within the same quarter of a second: %v", bin)
	}
	assert.Greater(t, mean(later), 1.5*mean(first), "they become fewer")
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}
