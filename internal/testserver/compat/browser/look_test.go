package browser_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

var screenshots = flag.String("screenshots", "", "`folder` for pictures of every state of the demo")

// What the demo looks like in each of its states: in light and dark, on a phone
// and on a desk.
func TestLook(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(browser.Packages(t), "axe-core", "axe.min.js"))
	require.NoError(t, err)
	_, base := demo(t, testserver.Options{})
	page := browser.NewProfile(t).Open(base + "/login")
	page.Expect("422 (Unprocessable Entity)") // the name of spaces, below

	look := func(state string) {
		t.Helper()
		page.Eval(string(axe)+"; 0", nil)
		for _, scheme := range []string{"light", "dark"} {
			page.Scheme(scheme)
			for _, width := range []int64{360, 1280} {
				page.Size(width, 900)
				name := fmt.Sprintf("%s-%s-%d", state, scheme, width)
				if *screenshots != "" {
					page.Eval(`scrollTo(0, 0)`, nil)
					keep(t, name, page.Screenshot())
				}
				assert.Empty(t, tooWide(page), "%s: reaches beyond the window", name)
				assert.Empty(t, faint(page), name)
				if scheme == "light" { // the colours are all that differs
					assert.Empty(t, inaccessible(page), name)
				}
			}
		}
	}

	look("login")
	page.Type("#user", "   ")
	page.Click("form .primary")
	page.WaitText("#problem", "Not signed in")
	look("login-problem")
	page.Eval(`document.getElementById("user").value = ""`, nil)
	page.Type("#user", "Ada Augusta King, Countess of Lovelace-Wolfeschlegelsteinhausen")
	page.Click("form .primary")
	page.WaitText("#log-state", "live")
	page.WaitText(".people", "no open connection")
	look("dashboard")

	// Much at once: a ticket in the hand, sockets open and closed, cheats refused,
	// other people.
	other := signIn(browser.NewProfile(t), base, "bob")
	other.Click("#open-admin")
	other.WaitText(".socket .pill", "open")
	for i := range 2 {
		page.Click("#open-ws")
		const open = `document.querySelectorAll(".socket[data-state=open]").length`
		page.Wait(fmt.Sprintf(open+` === %d`, i+1))
	}
	page.Type(".socket input", "a long line without any space: "+longWord+kb.Enter)
	page.WaitText(".messages", longWord)
	page.Click(`.socket:last-child button[aria-label="Close socket 1"]`)
	page.WaitText(".socket:last-child .pill", "closed 1000")
	for i := range 5 {
		if i != 1 { // it waits for 31 s
			page.Click(fmt.Sprintf(".cheat:nth-child(%d) button", i+1))
			const state = `document.querySelector(".cheat:nth-child(%d)").dataset.state`
			page.Wait(fmt.Sprintf(state+` === "refused"`, i+1))
		}
	}
	page.Click("#ticket-mint")
	page.WaitText("#ticket-said", "Good once")
	look("busy")
	page.Click("#ticket-mint") // looking may have taken longer than a ticket is good
	page.Wait(`document.getElementById("ticket-stamp").innerText === ""`)
	page.Click("#ticket-use")
	page.WaitText("#ticket-said", "Let in.")
	page.Click("#ticket-use")
	page.WaitText("#ticket-said", "used before")
	look("used")

	other.Wait(`document.querySelectorAll(".people td[data-name=Connection]").length === 5`)
	other.Click(`button[aria-label^="Revoke this one"][aria-label*="of Ada"]`)
	page.WaitText("#notice", "Your session is over")
	page.Wait(`![...document.querySelectorAll(".people .pill")]` +
		`.some((p) => p.innerText === "open")`)
	look("ended")

	page.Go(base + "/elsewhere")
	look("elsewhere")
}

// keep saves a picture where -screenshots names a folder.
func keep(t *testing.T, name string, png []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600))
}

const longWord = "https://example.com/0123456789012345678901234567890123456789" +
	"012345678901234567890123456789"

// tooWide returns what reaches beyond the window's sides.
func tooWide(page *browser.Page) (found []string) {
	page.Eval(`(() => {
		const wide = document.documentElement.clientWidth
		const clipped = (e) => {
			for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== "visible") return true
		}
		const found = [...document.body.querySelectorAll("*")].filter((e) => {
			const { left, right, width } = e.getBoundingClientRect()
			return width > 0 && (right > wide + 0.5 || left < -0.5) && !clipped(e)
		}).map((e) => e.tagName + "." + e.className + " " + Math.round(e.getBoundingClientRect().right))
		if (document.documentElement.scrollWidth > wide) found.push("the page scrolls to the side: " + document.documentElement.scrollWidth)
		for (const e of document.querySelectorAll("button, .pill, td, h1, h2, h3, label")) {
			if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1) found.push("its text is cut: " + e.outerHTML.slice(0, 120))
		}
		return found
	})()`, &found)
	return found
}

// inaccessible returns what axe-core finds by the rules of WCAG 2.2 AA and its
// best practices.
func inaccessible(page *browser.Page) (found []string) {
	page.Eval(`axe.run(document, { iframes: false, resultTypes: ["violations"] }).then((r) =>
		r.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.target.join(" ") + ": " + (n.any[0]?.message ?? v.help))))`, &found)
	return found
}

// faint returns the texts with a contrast below 4.5:1, large ones too. What stands
// over a picture, or has a sticky neighbour, axe leaves undecided.
func faint(page *browser.Page) (found []string) {
	page.Eval(`(() => {
		const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
		// Colours on top of each other, from below, painted to one that is seen.
		const paint = (...layers) => {
			for (const layer of layers) {
				canvas.fillStyle = layer
				canvas.fillRect(0, 0, 1, 1)
			}
			return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
		}
		const luminance = (rgb) => {
			const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
			return 0.2126 * r + 0.7152 * g + 0.0722 * b
		}
		const contrast = (a, b) => {
			const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y)
			return (light + 0.05) / (dark + 0.05)
		}
		const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
		const elements = new Set()
		while (texts.nextNode()) if (texts.currentNode.data.trim()) elements.add(texts.currentNode.parentElement)
		for (const e of document.querySelectorAll("input")) elements.add(e)
		return [...elements].filter((e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !e.closest("noscript")).flatMap((e) => {
			const backgrounds = ["Canvas"]
			for (let p = e; p; p = p.parentElement) backgrounds.splice(1, 0, getComputedStyle(p).backgroundColor)
			const ratio = contrast(paint(...backgrounds), paint(...backgrounds, getComputedStyle(e).color))
			return ratio < 4.5 ? ["contrast " + ratio.toFixed(2) + ": " + e.outerHTML.slice(0, 120)] : []
		})
	})()`, &found)
	return found
}

// Every control of the demo is reached by Tab, shows that it is, is not behind
// anything, and is worked by the keyboard alone.
func TestKeyboard(t *testing.T) {
	_, base := demo(t, testserver.Options{})
	for _, width := range []int64{360, 1280} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			page := browser.NewProfile(t).Open(base + "/login")
			page.Size(width, 900)
			page.Scheme("light")
			require.Equal(t, "user", page.String(`document.activeElement.id`),
				"the field has the focus")
			page.Do(chromedp.KeyEvent("ada" + kb.Enter))
			page.WaitText("#log-state", "live")
			walkByTab(t, page)

			// From the top: over the skip link into the page, to a ticket and a socket.
			fromTheTop(page)
			page.Press(kb.Tab)
			page.Press(kb.Enter)
			page.Wait(`location.hash === "#main"`)
			tabTo(t, page, "ticket-mint")
			page.Press(" ")
			page.WaitText("#ticket-said", "Good once")
			tabTo(t, page, "ticket-use")
			page.Press(kb.Enter)
			page.WaitText(".socket .pill", "open")
			page.Wait(`!document.querySelector(".socket input").disabled`)
			walkByTab(t, page)
			page.Click("#sign-out")
			page.WaitText("#notice", "You are signed out")
			walkByTab(t, page)
		})
	}
}

// fromTheTop has the next Tab go to the first control of the page.
func fromTheTop(page *browser.Page) {
	page.Eval(`document.body.tabIndex = -1, document.body.focus(), `+
		`document.body.removeAttribute("tabindex"), scrollTo(0, 0)`, nil)
}

func tabTo(t *testing.T, page *browser.Page, id string) {
	t.Helper()
	for range 100 {
		page.Press(kb.Tab)
		if page.String(`document.activeElement.id`) == id {
			return
		}
	}
	require.Fail(t, "Tab never comes to #"+id)
}

// walkByTab goes once around the page and compares with what is there.
func walkByTab(t *testing.T, page *browser.Page) {
	t.Helper()
	var count int
	page.Eval(`(() => {
		window.controls = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
			.filter((e) => !e.disabled && e.type !== "hidden" && e.checkVisibility())
		return controls.length
	})()`, &count)
	fromTheTop(page)
	require.Greater(t, count, 2)
	for i := range count {
		page.Press(kb.Tab)
		requireFocus(t, page, i)
	}
	for i := count - 2; i >= 0; i-- {
		page.Press(kb.Tab, chromedp.KeyModifiers(kb.ModifierShift))
		requireFocus(t, page, i)
	}
}

// requireFocus fails unless the focus is at a control of the list, and seen.
func requireFocus(t *testing.T, page *browser.Page, index int) {
	t.Helper()
	var at struct {
		Index    int
		Focused  string
		Outline  string
		Obscured string
	}
	page.Eval(`(() => {
		const e = document.activeElement, { x, y, width, height } = e.getBoundingClientRect()
		const style = getComputedStyle(e)
		const points = [[x + 3, y + 3], [x + width - 3, y + height - 3], [x + width / 2, y + height / 2]]
		const over = points.map(([x, y]) => document.elementFromPoint(x, y)).find((o) => !o || !(e.contains(o) || o.contains(e)))
		return { index: controls.indexOf(e), focused: e.outerHTML.slice(0, 100), outline: style.outlineStyle + " " + style.outlineWidth,
			obscured: height > innerHeight / 2 || over === undefined ? "" : over ? over.outerHTML.slice(0, 80) : "outside the window" }
	})()`, &at)
	require.Equal(t, index, at.Index, "Tab goes in the order of the page: %s", at.Focused)
	assert.Equal(t, "solid 3px", at.Outline, at.Focused)
	assert.Empty(t, at.Obscured, "the focus is behind something: %s", at.Focused)
}
