package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// Page is a tab. Its methods fail the test if they can't be done in time.
type Page struct {
	tb  testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string
	expected []string
}

// Open opens a tab and loads url in it. What the page writes to the console as
// an error or warning fails the test at its end, unless Expect has named it.
func (p *Profile) Open(url string) *Page {
	p.tb.Helper()
	ctx, cancel := p.ctx, func() {}
	if p.tabs++; p.tabs > 1 {
		ctx, cancel = chromedp.NewContext(p.ctx)
	}
	page := &Page{tb: p.tb, ctx: ctx}
	console := chromedp.Console(ctx)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for m, err := range console {
			if err != nil {
				return
			}
			page.hear(m)
		}
	}()
	p.tb.Cleanup(func() {
		for _, problem := range page.Problems() {
			p.tb.Errorf("the console of %s says: %s", url, problem)
		}
		cancel()
		_ = chromedp.Cancel(ctx)
		<-read
	})
	page.Size(1280, 900)
	page.Go(url)
	return page
}

func (p *Page) hear(m chromedp.ConsoleMessage) {
	switch m.Type {
	case chromedp.ConsoleError, chromedp.ConsoleException, chromedp.ConsoleWarning, "assert":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.problems = append(p.problems, m.Text+" "+m.URL)
	}
}

// Expect says that the console may hold what contains text: that a request was
// refused, where the test has it refused.
func (p *Page) Expect(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, text)
}

// WaitProblems waits until the console holds n entries that contain text, which
// are then expected.
func (p *Page) WaitProblems(n int, text string) {
	p.tb.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		found := 0
		for _, problem := range p.Problems() {
			if strings.Contains(problem, text) {
				found++
			}
		}
		if found >= n {
			p.Expect(text)
			return
		}
	}
	require.Fail(p.tb, "the console never says: "+text, "%q", p.Problems())
}

// AllProblems is what the console said so far, expected or not.
func (p *Page) AllProblems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.problems)
}

// Problems is what the console said so far that nobody expects.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []string
next:
	for _, problem := range p.problems {
		for _, text := range p.expected {
			if strings.Contains(problem, text) {
				continue next
			}
		}
		problems = append(problems, problem)
	}
	return problems
}

// Do does one thing of chromedp's after another.
func (p *Page) Do(steps ...chromedp.Action[chromedp.Void]) {
	p.tb.Helper()
	require.NoError(p.tb, p.try(steps...))
}

func (p *Page) try(steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// Go loads url, and returns when it has been loaded.
func (p *Page) Go(url string) {
	p.tb.Helper()
	p.Do(chromedp.Navigate(url))
}

// Size makes the window so large, in CSS pixels.
func (p *Page) Size(width, height int64) {
	p.tb.Helper()
	p.Do(chromedp.EmulateViewport(width, height))
}

// Scheme is what the page is told of the person's taste: "light" or "dark", and
// that motion is unwelcome.
func (p *Page) Scheme(name string) {
	p.tb.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name},
			{Name: "prefers-reduced-motion", Value: "reduce"},
		},
	})
	require.NoError(p.tb, err)
}

// Click clicks at the middle of the first element that selector finds, once it
// is there, enabled, covered by nothing, and stays where it is.
func (p *Page) Click(selector string) {
	p.tb.Helper()
	p.Wait(fmt.Sprintf(`(() => {
		const e = document.querySelector(%s)
		if (!e || e.disabled) return false
		e.scrollIntoView({ block: "center", behavior: "instant" })
		const { x, y, width, height } = e.getBoundingClientRect()
		const before = window.clickAt
		window.clickAt = x + " " + y
		return before === clickAt && e.contains(document.elementFromPoint(x + width / 2, y + height / 2))
	})()`, quote(selector)))
	require.NoError(p.tb, p.try(chromedp.Click(chromedp.CSS(selector))), "click at %s", selector)
}

// Type types into the first element that selector finds, once it can be typed in.
func (p *Page) Type(selector, text string) {
	p.tb.Helper()
	p.Wait(fmt.Sprintf(`(() => {
		const e = document.querySelector(%s)
		e?.focus()
		return e && document.activeElement === e
	})()`, quote(selector)))
	p.Do(chromedp.KeyEvent(text))
}

// Press presses a key of chromedp's package kb.
func (p *Page) Press(key string, opts ...chromedp.KeyOption) {
	p.tb.Helper()
	p.Do(chromedp.KeyEvent(key, opts...))
}

// Screenshot is the whole page as a PNG.
func (p *Page) Screenshot() []byte {
	p.tb.Helper()
	return p.picture(chromedp.FullScreenshot(100))
}

// View is what the window shows, as a PNG.
func (p *Page) View() []byte {
	p.tb.Helper()
	return p.picture(chromedp.CaptureScreenshot())
}

func (p *Page) picture(take chromedp.Action[[]byte]) []byte {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, take)
	require.NoError(p.tb, err)
	return png
}

// Downloads has the page's downloads saved, under their own names, in the folder
// that it returns.
func (p *Page) Downloads() (folder string) {
	p.tb.Helper()
	folder = p.tb.TempDir()
	params := cdpbrowser.SetDownloadBehaviorParams{
		Behavior:         cdpbrowser.SetDownloadBehaviorBehaviorAllow,
		BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID,
		DownloadPath:     folder,
	}
	_, err := chromedp.CallBrowser(p.ctx, cdpbrowser.SetDownloadBehavior, params)
	require.NoError(p.tb, err)
	return folder
}

// Eval evaluates an expression in the page, waits for it if it is a promise, and
// stores its value in out, which may be nil.
func (p *Page) Eval(expression string, out any) {
	p.tb.Helper()
	require.NoError(p.tb, p.eval(expression, out), "%s", expression)
}

// EvalIn is Eval for what takes longer than everything else.
func (p *Page) EvalIn(limit time.Duration, expression string, out any) {
	p.tb.Helper()
	require.NoError(p.tb, p.evalIn(limit, expression, out), "%s", expression)
}

func (p *Page) eval(expression string, out any) error { return p.evalIn(patience, expression, out) }

func (p *Page) evalIn(limit time.Duration, expression string, out any) error {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	raw, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
	if err != nil || out == nil || len(raw) == 0 {
		return err
	}
	return json.Unmarshal(raw, out)
}

// String evaluates an expression that is a string.
func (p *Page) String(expression string) (s string) {
	p.tb.Helper()
	p.Eval(expression, &s)
	return s
}

// Wait waits until an expression is true, in this page or one that it leads to.
func (p *Page) Wait(expression string) {
	p.tb.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var ok bool
		// A page that is being left can't be asked.
		if err = p.eval("!!("+expression+")", &ok); ok {
			return
		}
	}
	body := ""
	_ = p.eval(`location.href + "\n" + document.body.innerText`, &body)
	require.Fail(p.tb, "never became true: "+expression, "%v\n%s", err, body)
}

// WaitText waits until the text of what selector finds contains text.
func (p *Page) WaitText(selector, text string) {
	p.tb.Helper()
	p.Wait(fmt.Sprintf(`[...document.querySelectorAll(%s)].some((e) => e.innerText.includes(%s))`,
		quote(selector), quote(text)))
}

// WaitPath waits until the page has been led to a path and loaded it.
func (p *Page) WaitPath(path string) {
	p.tb.Helper()
	p.Wait(fmt.Sprintf(`location.pathname + location.search === %s`+
		` && document.readyState === "complete"`, quote(path)))
}

// quote writes s as a JavaScript string.
func quote(s string) string {
	b, _ := json.Marshal(s) // strings can be written
	return string(b)
}
