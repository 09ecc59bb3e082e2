//go:build linux

package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// childWithoutDescriptors rotates when there is no descriptor left (EMFILE).
func childWithoutDescriptors(path string) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: math.MaxInt})
	if err != nil {
		panic(err)
	}
	most := &syscall.Rlimit{Cur: 30, Max: 30}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, most); err != nil {
		panic(err)
	}
	var hold []*os.File
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		hold = append(hold, f)
	}
	for i := range 20 {
		l.Record(context.Background(), audit.Logout, slog.String("id", fmt.Sprint(i)),
			slog.String("pad", strings.Repeat("x", 1000)))
	}
	for _, f := range hold {
		f.Close()
	}
	time.Sleep(1100 * time.Millisecond)
	l.Record(context.Background(), audit.Logout, slog.String("id", "after"))
	fmt.Println(l.Stats().Written, l.Close())
}

func TestRotate_WithoutDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	cmd, out := startChild(t, "fds", path)
	b, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	assert.Equal(t, "21 <nil>\n", string(b))
	all, _ := records(t, path)
	ids, _ := count(t, all)
	assert.Len(t, ids, 21)
	assert.Len(t, logFiles(t, path), 2, "it goes on in the old file, then rotates")
}

func TestRotate_FailureKeepsOldFile(t *testing.T) {
	var out bytes.Buffer
	asDefault(t, slog.NewTextHandler(&out, nil))
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "auth.log")
		l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10})
		require.NoError(t, err)
		defer l.Close()
		spare := filepath.Join(dir, ".auth.log.new")
		// in the new file's way
		require.NoError(t, os.MkdirAll(filepath.Join(spare, "full"), 0o700))
		for i := range 20 {
			l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint(i)),
				slog.String("pad", strings.Repeat("x", 1000)))
		}
		assert.Equal(t, audit.Stats{Written: 20}, l.Stats())
		assert.Equal(t, []string{path}, logFiles(t, path))
		synctest.Wait()
		assert.Contains(t, out.String(), "could not be replaced")
		require.NoError(t, os.RemoveAll(spare))
		time.Sleep(time.Second)
		l.Record(ctx, audit.Logout, slog.String("id", "after"))
		assert.Len(t, logFiles(t, path), 2)
		all, _ := records(t, path)
		ids, _ := count(t, all)
		assert.Len(t, ids, 21)
	})
}

// A process that is killed amid a rotation leaves one of these (D5).
func TestRotate_KilledHalfway(t *testing.T) {
	l, path := open(t, nil)
	l.Record(ctx, audit.Logout, slog.String("id", "1"))
	require.NoError(t, l.Close())
	old := path + ".0000000007-20260527T091227Z"
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), ".auth.log.new"), nil, 0o600))
	require.NoError(t, os.Link(path, old))
	l, err := audit.OpenFile(path, nil)
	require.NoError(t, err)
	l.Record(ctx, audit.Logout, slog.String("id", "2"))
	require.NoError(t, l.Close())
	assert.Equal(t, []string{path}, logFiles(t, path))
	all, _ := records(t, path)
	ids, _ := count(t, all)
	assert.Equal(t, map[string]int{"1": 1, "2": 1}, ids)
	_, err = os.Stat(filepath.Join(filepath.Dir(path), ".auth.log.new"))
	require.ErrorIs(t, err, os.ErrNotExist)

	// Compressed, but the plain one was not yet removed.
	require.NoError(t, os.WriteFile(old, []byte("{}\n"), 0o600))
	require.NoError(t, os.WriteFile(old+".gz", []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(old+".gz.tmp", []byte("x"), 0o600))
	l, err = audit.OpenFile(path, nil)
	require.NoError(t, err)
	require.NoFileExists(t, old, "its lines would be there twice")
	require.NoError(t, l.Close())
	assert.Equal(t, []string{old + ".gz", path}, logFiles(t, path))
}

func TestOpenFile_HealsTornLine(t *testing.T) {
	l, path := open(t, nil)
	l.Record(ctx, audit.Logout, slog.String("id", "1"))
	require.NoError(t, l.Close())
	whole := readAll(t, path)
	require.NoError(t, os.WriteFile(path, []byte(whole+whole[:30]), 0o600))
	l, err := audit.OpenFile(path, nil)
	require.NoError(t, err)
	l.Record(ctx, audit.Logout, slog.String("id", "2"))
	require.NoError(t, l.Close())
	all, skipped := records(t, path)
	ids, own := count(t, all)
	assert.Equal(t, map[string]int{"1": 1, "2": 1}, ids)
	assert.Equal(t, map[string]int{"torn": 1}, own)
	assert.Equal(t, 1, skipped)
}

func TestRotate_Keeps(t *testing.T) {
	write := func(l *audit.Log, n int) {
		for range n {
			l.Record(ctx, audit.Logout, slog.String("id", "x"),
				slog.String("pad", strings.Repeat("x", 1000)))
		}
	}
	t.Run("N files", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: 3})
		write(l, 100)
		require.NoError(t, l.Close())
		files := tidied(t, path, &audit.FileOptions{KeepFiles: 3}, 4, "Z")
		assert.Regexp(t, `auth\.log\.0000000031-\d{8}T\d{6}Z$`, files[0])
	})
	t.Run("compressed", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{
			MaxSize: 4 << 10, KeepFiles: math.MaxInt, Compress: true})
		write(l, 100)
		require.NoError(t, l.Close())
		tidied(t, path, &audit.FileOptions{KeepFiles: math.MaxInt, Compress: true}, 34, ".gz")
		all, _ := records(t, path)
		assert.Len(t, all, 100)
	})
	t.Run("not compressed while it is put away", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10})
		write(l, 8)
		require.NoError(t, l.Close())
		old := path + ".0000000100-20260527T091227Z" // the first one to be looked at
		// as path is, until the new file takes its place
		second := filepath.Join(t.TempDir(), "second")
		require.NoError(t, os.WriteFile(second, []byte("{}\n"), 0o600))
		require.NoError(t, os.Link(second, old))
		l, err := audit.OpenFile(path, &audit.FileOptions{KeepFiles: math.MaxInt, Compress: true})
		require.NoError(t, err)
		waitFor(t, func() bool { // the others are
			return !slices.ContainsFunc(logFiles(t, path), func(f string) bool {
				return f != path && f != old && !strings.HasSuffix(f, ".gz")
			})
		})
		require.NoError(t, l.Close())
		require.NoFileExists(t, old+".gz", "a process killed now would leave its lines twice")
	})
	t.Run("files of others stay", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: 1})
		others := []string{path + ".1", path + ".1-20260527T091227Z", path + ".0000000001-x",
			path + "x.0000000001-20260527T091227Z", path + ".0000000001-20260527T091227Z.bak",
			path + ".bak"}
		for _, o := range others {
			require.NoError(t, os.WriteFile(o, nil, 0o600))
		}
		write(l, 100)
		require.NoError(t, l.Close())
		for _, o := range others {
			_, err := os.Stat(o)
			require.NoError(t, err)
		}
	})
	t.Run("nothing of a compression that was killed", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: 1})
		old := path + ".0000000001-20260527T091227Z"
		require.NoError(t, os.WriteFile(old, nil, 0o600))
		require.NoError(t, os.WriteFile(old+".gz.tmp", nil, 0o600))
		write(l, 100)
		require.NoError(t, l.Close())
		tidied(t, path, &audit.FileOptions{KeepFiles: 1}, 2, "Z")
	})
	t.Run("what can't be removed", func(t *testing.T) {
		l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: 1, Compress: true})
		require.NoError(t, os.MkdirAll(path+".0000000001-20260527T091227Z/full", 0o700))
		write(l, 100)
		assert.Equal(t, audit.Stats{Written: 100}, l.Stats())
		require.NoError(t, l.Close())
	})
}

// tidied opens a log once more, waits until it has n files of which the old
// ones end in suffix, and returns them.
func tidied(t *testing.T, path string, opts *audit.FileOptions, n int,
	suffix string) (files []string) {
	t.Helper()
	l, err := audit.OpenFile(path, opts)
	require.NoError(t, err)
	waitFor(t, func() bool {
		files = logFiles(t, path)
		other := func(f string) bool { return !strings.HasSuffix(f, suffix) }
		return len(files) == n && !slices.ContainsFunc(files[:n-1], other)
	})
	require.NoError(t, l.Close())
	assert.Equal(t, files, logFiles(t, path))
	return files
}

func TestRotate_ByAge(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "auth.log")
		opts := &audit.FileOptions{MaxAge: time.Hour}
		l, err := audit.OpenFile(path, opts)
		require.NoError(t, err)
		l.Record(ctx, audit.Logout)
		time.Sleep(40 * time.Minute)
		require.NoError(t, l.Close())
		l, err = audit.OpenFile(path, opts) // its age is that of its first line
		require.NoError(t, err)
		l.Record(ctx, audit.Logout)
		assert.Len(t, logFiles(t, path), 1)
		time.Sleep(20 * time.Minute)
		l.Record(ctx, audit.Logout)
		assert.Len(t, logFiles(t, path), 2)
		time.Sleep(59 * time.Minute)
		l.Record(ctx, audit.Logout)
		assert.Len(t, logFiles(t, path), 2)
		require.NoError(t, l.Close())
	})
}

// No old file takes another's place, should somebody have used its name.
func TestRotate_TakesNoOtherName(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "auth.log")
		l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10})
		require.NoError(t, err)
		next := path + ".0000000001-" + time.Now().UTC().Format("20060102T150405Z")
		require.NoError(t, os.WriteFile(next, []byte("somebody's"), 0o600))
		for range 8 {
			l.Record(ctx, audit.Logout, slog.String("pad", strings.Repeat("x", 1000)))
		}
		require.NoError(t, l.Close())
		assert.Equal(t, "somebody's", readAll(t, next))
		files := logFiles(t, path)
		require.Len(t, files, 4)
		assert.Contains(t, files[1], ".0000000002-")
	})
}

// Old files keep their order when the clock steps back (D14).
func TestRotate_NumbersRiseWhenClockStepsBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "auth.log")
	future := path + ".0000000041-29990101T000000Z"
	require.NoError(t, os.WriteFile(future, nil, 0o600))
	l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10})
	require.NoError(t, err)
	for range 8 {
		l.Record(ctx, audit.Logout, slog.String("pad", strings.Repeat("x", 1000)))
	}
	require.NoError(t, l.Close())
	files := logFiles(t, path)
	require.Len(t, files, 4)
	assert.Equal(t, future, files[0])
	assert.Contains(t, files[1], ".0000000042-")
	assert.Contains(t, files[2], ".0000000043-")
}
