package browser_test

import (
	"net/http/httptest"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
	"github.com/ticketgate/ticketgate/internal/testserver/demo/page"
)

func TestMain(m *testing.M) { os.Exit(browser.Run(m)) }

// demo serves what the demo serves, pages and all.
func demo(t *testing.T, opts testserver.Options) (*testserver.Server, string) {
	t.Helper()
	opts.Pages = page.Files
	app, err := testserver.New(&opts)
	require.NoError(t, err)
	server := httptest.NewServer(app.Handler())
	t.Cleanup(func() {
		assert.NoError(t, app.Close())
		server.Close()
	})
	return app, server.URL
}

// signIn is somebody with a browser of their own who opens the demo.
func signIn(p *browser.Profile, base, name string) *browser.Page {
	page := p.Open(base + "/")
	page.WaitPath("/login?next=%2F")
	typeName(page, name)
	return page
}

func typeName(page *browser.Page, name string) {
	page.Type("#user", name)
	page.Click("form .primary")
	page.WaitPath("/")
	page.WaitText("#me-name", name)
	page.WaitText("#log-state", "live")
}

// What a person does with the demo, from the sign-in to the sign-out.
func TestWalk(t *testing.T) {
	app, base := demo(t, testserver.Options{})
	ada := signIn(browser.NewProfile(t), base, "ada")

	// A ticket, and a socket for it.
	ada.Click("#ticket-mint")
	ada.WaitText("#ticket-value", "")
	ada.Wait(`document.getElementById("ticket").dataset.state === "fresh"`)
	ticket := ada.String(`document.getElementById("ticket-value").textContent`)
	require.Regexp(t, `^[\w-]{43}$`, ticket)
	ada.Eval(`window.ringAt = () => `+
		`parseFloat(document.getElementById("ring-run").style.strokeDashoffset); `+
		`window.ringWas = ringAt()`, nil)
	ada.Wait(`ringAt() > ringWas && ringAt() < 100`) // a hundredth is 0.3 s
	ada.Wait(`Number(document.getElementById("ring-left").innerText) < 30`)
	ada.Click("#ticket-use")
	ada.WaitText("#ticket-said", "Let in.")
	ada.WaitText(".socket .pill", "open")
	ada.WaitText(".messages", "hello")

	ada.Type(".socket input", "Grüße, 世界 🎟"+kb.Enter)
	ada.WaitText(".messages", "Grüße, 世界 🎟")

	// Shown again, it is refused; the page learns less than the log.
	ada.Click("#ticket-use")
	ada.WaitText("#ticket-said", "Refused: it had been used before.")
	ada.WaitText("#ticket-said .evidence", "4401 ticket_rejected")
	ada.WaitText("#ticket-said .evidence", "ws_ticket_rejected used")
	if *screenshots != "" { // the one of the README
		ada.Scheme("light")
		ada.Size(1280, 1000)
		ada.Eval(`document.activeElement.blur(), scrollTo(0, 0)`, nil)
		keep(t, "demo", ada.View())
	}

	// Another person, in another browser, ends the session of the first.
	ada.Expect("/api/sessions") // the table's timer may ask once more
	bob := signIn(browser.NewProfile(t), base, "bob")
	bob.Click("#open-ws")
	bob.WaitText(".socket .pill", "open")
	// Two of each.
	bob.Wait(`document.querySelectorAll(".people td[data-name=Connection]").length === 4`)
	bob.Click(`button[aria-label^="Revoke this one"][aria-label$="of ada"]`)
	bob.WaitText("#people-said",
		"1 session ended, 2 connections closed; each page was told 4401 session_revoked.")
	ada.WaitText(".socket .pill", "closed 4401 session_revoked")
	ada.WaitText("#notice", "They were told 4401 session_revoked.")
	ada.Wait(`["ticket-mint", "ticket-use", "open-ws", "open-admin", "cheat-all", "sign-out"]` +
		`.every((id) => document.getElementById(id).disabled)`)
	require.Equal(t, "open", bob.String(`document.querySelector(".socket .pill").textContent`),
		"only hers")
	for info := range app.Sockets().All() {
		require.Equal(t, "bob", info.UserID)
	}

	// The cookie is still there, and good for nothing.
	ada.Go(base + "/")
	ada.WaitPath("/login?next=%2F")
	typeName(ada, "ada")

	// Signed out by herself.
	ada.Click("#open-admin")
	ada.WaitText(".socket .pill", "open")
	ada.Click("#sign-out")
	ada.WaitText("#notice", "You are signed out")
	ada.WaitText("#notice", "each page was told 4401 session_revoked")
	ada.WaitText(".socket .pill", "closed 4401 session_revoked")
	ada.Click("#notice-link")
	ada.WaitPath("/login")
	var cookies string
	ada.Eval(`document.cookie`, &cookies)
	assert.Empty(t, cookies, "no script reads the session's cookie")

	// And nowhere in the log, which shows all of it, is a ticket.
	log := bob.String(`document.getElementById("lines").textContent`)
	for _, event := range []string{"login_success", "ws_ticket_minted", "ws_opened",
		"ws_ticket_rejected", "revoke", "ws_closed", "logout"} {
		assert.Contains(t, log, event)
	}
	assert.NotContains(t, log, ticket)
	assert.NotRegexp(t, regexp.MustCompile(`ticket=[\w-]{43}`), log)
}

// A person who is signed in twice ends both, and nobody else's.
func TestSignOutEverywhere(t *testing.T) {
	app, base := demo(t, testserver.Options{})
	desk := signIn(browser.NewProfile(t), base, "ada")
	phone := signIn(browser.NewProfile(t), base, "ada")
	bob := signIn(browser.NewProfile(t), base, "bob")
	for _, page := range []*browser.Page{desk, phone, bob} {
		page.Click("#open-ws")
		page.WaitText(".socket .pill", "open")
	}
	phone.Expect("/api/sessions") // the table's timer may ask once more
	desk.Click("#sign-out-all")
	desk.WaitText("#notice", "You are signed out")
	desk.WaitText("#notice",
		"2 sessions ended, 4 connections closed; each page was told 4401 session_revoked.")
	desk.WaitText(".socket .pill", "closed 4401 session_revoked")
	phone.WaitText(".socket .pill", "closed 4401 session_revoked")
	phone.WaitText("#notice", "They were told 4401 session_revoked.")
	bob.WaitText(".people .pill", "ended 4401 session_revoked")

	bob.Type(".socket input", "still here"+kb.Enter)
	bob.WaitText(".messages", "still here")
	for info := range app.Sockets().All() {
		require.Equal(t, "bob", info.UserID)
	}
	phone.Go(base + "/")
	phone.WaitPath("/login?next=%2F")
}

// A ticket whose time is over, and every way to cheat that the page offers.
func TestCheats(t *testing.T) {
	t.Parallel() // it waits, most of the time
	_, base := demo(t, testserver.Options{TTL: 5 * time.Second})
	ada := signIn(browser.NewProfile(t), base, "ada")
	ada.Click("#ticket-mint")
	ada.WaitText("#ticket-stamp", "Expired")
	ada.Click("#ticket-use")
	ada.WaitText("#ticket-said", "Refused: its time was over.")
	ada.WaitText("#ticket-said .evidence", "ws_ticket_rejected expired")

	ada.Click("#cheat-all")
	ada.Wait(`document.querySelectorAll(".cheat[data-state=refused]").length === 5`)
	outcomes := ada.String(`[...document.querySelectorAll(".cheat .outcome")]` +
		`.map((o) => o.innerText).join("\n")`)
	for _, reason := range []string{"used", "expired", "endpoint", "no_ticket", "unknown"} {
		assert.Contains(t, outcomes, "ws_ticket_rejected "+reason)
	}
	assert.Contains(t, outcomes, "ws_upgrade_refused origin")
	assert.Contains(t, outcomes, "4403 forbidden")
	assert.Contains(t, outcomes, "let in: it was not spent", "the ticket that another site showed")
	assert.NotContains(t, outcomes, "nothing yet", "the log has a line for each")
}

// A session that runs out: the server ends it by itself. A machine may be so slow
// that it has ended before there is a socket: then it is to last longer.
func TestSessionRunsOut(t *testing.T) {
	t.Parallel()
	for ttl := 3 * time.Second; ttl < time.Minute; ttl *= 2 {
		_, base := demo(t, testserver.Options{SessionTTL: ttl})
		ada := browser.NewProfile(t).Open(base + "/login")
		ada.Expect("401 (Unauthorized)") // what asks first may be the table's timer
		ada.Type("#user", "ada")
		ada.Click("form .primary")
		ada.Wait(`document.readyState === "complete" && (location.search !== "" || ` +
			`document.querySelector("#open-ws:disabled") || ` +
			`document.querySelector("#me-until")?.innerText)`)
		ada.Eval(`document.querySelector("#open-ws")?.click()`, nil)
		ada.Wait(`document.querySelector(".socket[data-state=open]") || ` +
			`document.querySelector("#open-ws:disabled") || location.search !== ""`)
		var opened bool
		ada.Eval(`document.querySelector(".socket[data-state=open]") !== null`, &opened)
		if !opened {
			continue
		}
		ada.WaitText("#notice", "Your session is over")
		ada.WaitText(".socket .pill", "4401 session_expired")
		ada.Go(base + "/")
		ada.WaitPath("/login?next=%2F")
		return
	}
	t.Error("no session lasted until there was a socket")
}
