package logfile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit/internal/logfile"
)

// options are those of a log of lines that are no events.
func options(t *testing.T) logfile.Options {
	return logfile.Options{
		MaxSize: 1000, KeepFiles: 3,
		Gap: func(reason string, lines int) []byte {
			return fmt.Appendf(nil, "gap: %s %d\n", reason, lines)
		},
		Written: func([]byte) (time.Time, error) { return time.Time{}, errors.New("no time") },
		Warn:    func(what string, err error) { t.Errorf("%s: %v", what, err) },
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func TestWrite_RotatesWholeLinesAndKeepsNewest(t *testing.T) {
	for _, durable := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(dir, "log")
			o := options(t)
			o.Sync = durable
			f, err := logfile.Open(path, o)
			require.NoError(t, err)
			for i := range 100 {
				line := fmt.Sprintf("%03d %s\n", i, strings.Repeat("x", 95))
				require.NoError(t, f.Write(time.Now(), []byte(line)))
				synctest.Wait() // for the removal of old files
			}
			require.NoError(t, f.Close())
			require.ErrorIs(t, f.Write(time.Now(), []byte("x\n")), logfile.ErrClosed)

			files, err := filepath.Glob(path + ".*")
			require.NoError(t, err)
			require.Len(t, files, 3)
			var all strings.Builder
			for _, name := range append(files, path) {
				all.WriteString(content(t, name))
				assert.LessOrEqual(t, len(content(t, name)), 1000)
			}
			lines := strings.Split(strings.TrimSuffix(all.String(), "\n"), "\n")
			require.Len(t, lines, 40)
			for i, line := range lines {
				assert.True(t, strings.HasPrefix(line, fmt.Sprintf("%03d ", 60+i)), line)
			}
		})
	}
}

func TestWrite_LineForEachGap(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "log")
		require.NoError(t, os.WriteFile(path, []byte("one\ntwo\npart"), 0o600))
		f, err := logfile.Open(path, options(t))
		require.NoError(t, err)
		require.NoError(t, f.Write(time.Now(), []byte("three\n")))
		assert.Equal(t, "one\ntwo\npart\ngap: torn 1\nthree\n", content(t, path))

		require.NoError(t, os.Truncate(path, int64(len("one\n"))))
		time.Sleep(time.Second)
		require.NoError(t, f.Write(time.Now(), []byte("four\n")))
		assert.Equal(t, "one\ngap: truncated 3\nfour\n", content(t, path))

		require.NoError(t, os.Remove(path))
		time.Sleep(time.Second)
		require.NoError(t, f.Write(time.Now(), []byte("five\n")))
		assert.Equal(t, "gap: removed 3\nfive\n", content(t, path))
		require.NoError(t, f.Close())
	})
}

func TestWrite_SyncedLinesOfManyGoroutines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	o := options(t)
	o.Sync, o.MaxSize = true, 1<<20
	f, err := logfile.Open(path, o)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 10 {
				line := fmt.Sprintf("%d-%d\n", w, i)
				assert.NoError(t, f.Write(time.Now(), []byte(line)))
				assert.Contains(t, "\n"+content(t, path), "\n"+line)
			}
		})
	}
	wg.Wait()
	require.NoError(t, f.Close())
	assert.Equal(t, 320, strings.Count(content(t, path), "\n"))
}
