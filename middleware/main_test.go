package middleware_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails a run that leaves goroutines behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if left := goroutinesLeft(10 * time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines are left behind:\n\n%s\n", len(left),
				strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// goroutinesLeft waits for goroutines that are about to end, and returns the others.
func goroutinesLeft(atMost time.Duration) (left []string) {
	for wait := time.Millisecond; ; wait *= 2 {
		left = left[:0]
		for stack := range strings.SplitSeq(allStacks(), "\n\n") {
			if !isOfTheRun(stack) {
				left = append(left, stack)
			}
		}
		if atMost -= wait; len(left) == 0 || atMost < 0 {
			return left
		}
		time.Sleep(wait)
	}
}

func allStacks() string {
	for size := 1 << 20; ; size *= 2 {
		if buf := make([]byte, size); runtime.Stack(buf, true) < size {
			return strings.TrimSpace(string(buf[:runtime.Stack(buf, true)]))
		}
	}
}

// isOfTheRun reports whether a goroutine belongs to the runtime or to package
// testing: this one, the one that waits for signals, the fuzzer's.
func isOfTheRun(stack string) bool {
	for _, f := range []string{
		"middleware_test.TestMain(", "os/signal.loop(", "os/signal.signal_recv(",
		"runtime.ensureSigM", "testing.runFuzzing", "internal/fuzz.", "testing.(*M).",
		"runtime/pprof.",
	} {
		if strings.Contains(stack, f) {
			return true
		}
	}
	return stack == ""
}
