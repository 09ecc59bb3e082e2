// Package browser drives Debian's Chromium through its DevTools protocol, for
// tests of what only a browser does: cookies and origins, redirects, WebSockets,
// layout, colours, and the keyboard. One process serves a test binary; each
// Profile is a person's own browser in it.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience bounds what would otherwise hang for ever. Nothing is measured by it.
const patience = time.Minute

var chromium struct {
	start sync.Once
	ctx   context.Context
	end   func()
	err   error
}

// Run runs the tests of a package, takes away what they shared, and fails if they
// left a goroutine.
func Run(m *testing.M) int {
	code := m.Run()
	if chromium.end != nil {
		chromium.end()
	}
	if npm.dir != "" {
		_ = os.RemoveAll(npm.dir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Need skips a test whose program, as path, is not on this machine, and fails
// it in CI: what is not run there is not known to work.
func Need(tb testing.TB, command, how string) (path string) {
	tb.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		unavailable(tb, command+" is not installed: "+how)
	}
	return path
}

func unavailable(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(why)
	}
	tb.Skip(why)
}

func startChromium(path string) {
	// Its folder is new and temporary, and it ends with this process: both are the
	// allocator's own doing.
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path),
		chromedp.NoFirstRun,
		chromedp.NoSandbox, // Chromium has none for root
		chromedp.Headless,
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		// A test looks at several windows, of which only one can be in front.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.IgnoreCertErrors, // a proxy under test has signed its own
		// RFC 2606: nobody's.
		chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1"),
	)
	ctx, cancel := chromedp.NewContext(allocator)
	chromium.ctx, chromium.err = ctx, chromedp.Do(ctx)
	chromium.end = func() {
		cancel()
		stop() // waits for the process
	}
}

// Profile is a browser of its own: it shares no cookie and no cache with others.
type Profile struct {
	tb   testing.TB
	ctx  context.Context
	tabs int
}

// NewProfile starts a browser without any history, which ends with the test.
func NewProfile(tb testing.TB) *Profile {
	tb.Helper()
	path := Need(tb, "chromium", "apt-get install chromium")
	chromium.start.Do(func() { startChromium(path) })
	require.NoError(tb, chromium.err, "chromium does not start")
	ctx, cancel := chromedp.NewContext(chromium.ctx, chromedp.WithNewBrowserContext())
	tb.Cleanup(cancel)
	return &Profile{tb: tb, ctx: ctx}
}
