package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An EventSource by itself comes back with the address that it has. The ticket in
// that is spent, and a refusal ends it for good: it misses what comes later.
func TestEventSourceAlone(t *testing.T) {
	a := newApp(t)
	page := a.ticketgate()
	page.Expect("401 (Unauthorized)")
	page.Eval(`ticketed('/events').then((url) => {
		window.stream = new EventSource(url)
		stream.onmessage = receive
	})`, nil)
	a.events.send()
	page.Wait(`said.length === 1`)
	a.events.cutAll()
	page.Wait(`stream.readyState === EventSource.CLOSED`)
	a.events.send()
	assert.Equal(t, 1, a.lines.count("ws_ticket_rejected", `"reason":"used"`, "/events"))
	assert.Equal(t, "message 1", page.String(`said.join(" ")`))
}

// The recipe closes it first, mints anew, and says what it has seen: through cuts
// and a restart it misses nothing, and receives nothing twice.
func TestEventSource(t *testing.T) {
	a := newApp(t)
	page := a.open("stream")
	page.Expect("net::ERR_")          // a connection that is cut, or refused during the restart
	page.Expect("401 (Unauthorized)") // a ticket that was lost with the server that minted it
	chance(page, 0)
	page.Eval(`void listen('/events', receive, leave.signal)`, nil)
	for i := range 6 {
		a.events.send()
		page.Wait(fmt.Sprintf(`said.length === %d`, i+1))
		switch i {
		case 1, 2:
			a.events.cutAll()
		case 4:
			a.stop()
			a.start()
		}
	}
	assert.Equal(t, "message 1,message 2,message 3,message 4,message 5,message 6",
		page.String(`said.join()`))
	assert.Zero(t, a.lines.count("ws_ticket_rejected", `"reason":"used"`),
		"no ticket is shown twice")

	a.signOut("ada")
	page.WaitPath("/login?next=%2F%3Froom%3D7")
}

// An image, and a link to a file: each address is good once, and for its own path.
func TestImageAndDownload(t *testing.T) {
	a := newApp(t)
	page := a.open("image")
	page.Eval(`import('/ticketgate.js').then((m) => { window.ticketed = m.ticketed })`, nil)
	page.Expect("401 (Unauthorized)")
	page.Expect("403 (Forbidden)")
	load := `(url) => new Promise((resolve) => {
		const image = new Image()
		image.onload = () => resolve(image.naturalWidth + 'x' + image.naturalHeight)
		image.onerror = () => resolve('refused')
		image.src = url
	})`
	assert.Equal(t, "7x5", page.String(`new Promise((resolve) => {
		const image = new Image()
		image.onload = () => resolve(image.naturalWidth + 'x' + image.naturalHeight)
		void show(image, '/picture.png')
	})`))
	url := page.String(`ticketed('/picture.png')`)
	require.Regexp(t, `^`+a.base+`/picture\.png\?ticket=[\w-]{43}$`, url)
	assert.Equal(t, "7x5", page.String(fmt.Sprintf(`(%s)(%q)`, load, url)))
	assert.Equal(t, "refused", page.String(fmt.Sprintf(`(%s)(%q)`, load, url+"&again")))
	assert.Equal(t, 1, a.lines.count("ws_ticket_rejected", `"reason":"used"`, "/picture.png"))
	other := `ticketed('/report.csv')` +
		`.then((url) => (%s)(url.replace('/report.csv', '/picture.png')))`
	assert.Equal(t, "refused", page.String(fmt.Sprintf(other, load)))
	assert.Equal(t, 1, a.lines.count("ws_ticket_rejected", `"reason":"endpoint"`, "/picture.png"))

	folder := page.Downloads()
	page.Eval(`download('/report.csv')`, nil)
	var file []byte
	eventually(t, "the download", func() bool {
		file, _ = os.ReadFile(filepath.Join(folder, "report.csv"))
		return len(file) > 0
	})
	assert.Equal(t, "user\nada\n", string(file))
	assert.Equal(t, "/?room=7", page.String(`location.pathname + location.search`),
		"the page stays")
}
