//go:build linux

package audit_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// times is how often the tests of this file do what they do: once in CI,
// AUDIT_TIMES=10 for the figures in the package documentation.
func times(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("AUDIT_TIMES"))
	if err != nil {
		return 1
	}
	t.Logf("AUDIT_TIMES=%d", n)
	return n
}

// shortOr returns short, or long times AUDIT_TIMES where that is set.
func shortOr(t *testing.T, short, long int) int {
	if n := times(t); n > 1 {
		return n * long
	}
	return short
}

// children are what the test binary does when it is started as a child.
var children = map[string]func(path string){
	"writers": childWriters,
	"limited": childLimited,
	"opens":   childOpens,
	"fds":     childWithoutDescriptors,
}

func TestMain(m *testing.M) {
	if child := children[os.Getenv("AUDIT_CHILD")]; child != nil {
		child(os.Getenv("AUDIT_PATH"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func startChild(t *testing.T, what, path string, env ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "AUDIT_CHILD="+what, "AUDIT_PATH="+path), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, out
}

// logFiles returns a log's files, the oldest first, without those that a killed compression left.
func logFiles(t testing.TB, path string) []string {
	t.Helper()
	files, err := filepath.Glob(path + ".[0-9]*")
	require.NoError(t, err)
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, ".tmp") })
	slices.Sort(files)
	if _, err := os.Stat(path); err == nil {
		files = append(files, path)
	}
	return files
}

// records returns all records of a log's files, and what was skipped.
func records(t testing.TB, path string) (all []logged, skipped int) {
	t.Helper()
	for _, name := range logFiles(t, path) {
		f, err := os.Open(name)
		require.NoError(t, err)
		var r io.Reader = f
		if strings.HasSuffix(name, ".gz") {
			r, err = gzip.NewReader(f)
			require.NoError(t, err, name)
		}
		recs, none := read(t, r)
		all, skipped = append(all, recs...), skipped+none
		f.Close()
	}
	return all, skipped
}

// count returns how many records have each id, and how many lines the log
// wrote on its own account, by reason.
func count(t testing.TB, all []logged) (ids map[string]int, own map[string]int) {
	t.Helper()
	ids, own = map[string]int{}, map[string]int{}
	for _, rec := range all {
		if rec.Event == "audit_gap" {
			n, err := rec.Fields["lines"].(json.Number).Int64()
			require.NoError(t, err)
			own[rec.Fields["reason"].(string)] += int(n)
			continue
		}
		ids[rec.Fields["id"].(string)]++
	}
	return ids, own
}

// waitFor waits for another goroutine's work, however long it takes.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for !done() {
		time.Sleep(time.Millisecond)
	}
}
