//go:build linux

package audit_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func childOpens(path string) {
	_, err := audit.OpenFile(path, nil)
	fmt.Println(err)
}

func TestOpenFile_SecondOpenFails(t *testing.T) { // a second process
	l, path := open(t, nil)
	_, err := audit.OpenFile(path, nil)
	require.ErrorContains(t, err, "in use")
	cmd, out := startChild(t, "opens", path)
	b, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	assert.Contains(t, string(b), "it is in use")
	assert.Contains(t, string(b), path)
	require.NoError(t, l.Close())
	l, err = audit.OpenFile(path, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestOpenFile_RefusesAllButPrivateFiles(t *testing.T) {
	tests := map[string]func(t *testing.T, path string){
		"symbolic link": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path+".target", nil, 0o600))
			require.NoError(t, os.Symlink(path+".target", path))
		},
		"dangling symbolic link": func(t *testing.T, path string) {
			require.NoError(t, os.Symlink(path+".none", path))
		},
		"FIFO": func(t *testing.T, path string) {
			require.NoError(t, syscall.Mkfifo(path, 0o600))
		},
		"directory": func(t *testing.T, path string) {
			require.NoError(t, os.Mkdir(path, 0o700))
		},
		"hard link": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path+".other", nil, 0o600))
			require.NoError(t, os.Link(path+".other", path))
		},
		"device": func(t *testing.T, path string) {
			if err := syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
				t.Skip(err)
			}
		},
		"foreign owner": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			if err := os.Chown(path, 12345, 12345); err != nil {
				t.Skip(err)
			}
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "auth.log")
			prepare(t, path)
			_, err := audit.OpenFile(path, nil)
			require.ErrorContains(t, err, path)
			_, err = os.Stat(path + ".none")
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

func TestOpenFile_ModesAre0600(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		was := syscall.Umask(umask)
		dir := t.TempDir()
		path := filepath.Join(dir, "sub", "auth.log")
		l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10, Compress: true})
		require.NoError(t, err)
		for range 10 {
			l.Record(ctx, audit.Logout, slog.String("pad", strings.Repeat("x", 1000)))
		}
		require.NoError(t, l.Close())
		syscall.Umask(was)
		files, err := filepath.Glob(filepath.Join(dir, "sub", "*"))
		require.NoError(t, err)
		dots, err := filepath.Glob(filepath.Join(dir, "sub", ".a*"))
		require.NoError(t, err)
		for _, f := range append(files, dots...) {
			info, err := os.Stat(f)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), f)
		}
	}
	path := filepath.Join(t.TempDir(), "auth.log")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	l, err := audit.OpenFile(path, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// What others do to the file is noticed (Vault #3935), by the clock that
// synctest keeps.
func TestFile_RemovedMovedOrTruncatedIsNoticed(t *testing.T) {
	tests := []struct {
		name, reason string
		lines        int // that may be missing, as the log says
		kept         int // lines before, that are still there
		take         func(path string) error
	}{
		{"removed", "removed", 2, 0, os.Remove},
		{"moved", "moved", 0, 2, func(p string) error { return os.Rename(p, p+".1") }},
		{"replaced", "moved", 0, 2, func(p string) error {
			return os.WriteFile(p+".x", []byte("{}\n"), 0o644)
		}},
		{"cut to nothing", "truncated", 2, 0, func(p string) error { return os.Truncate(p, 0) }},
		{"cut amid a line", "truncated", 2, 0, func(p string) error { return os.Truncate(p, 10) }},
		{"its folder removed", "removed", 2, 0, func(p string) error {
			return os.RemoveAll(filepath.Dir(p))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(dir, "sub", "auth.log")
				l, err := audit.OpenFile(path, nil)
				require.NoError(t, err)
				defer l.Close()
				l.Record(ctx, audit.Logout, slog.String("id", "1"))
				time.Sleep(time.Second)
				l.Record(ctx, audit.Logout, slog.String("id", "2"))
				require.NoError(t, tt.take(path))
				if tt.name == "replaced" {
					require.NoError(t, os.Rename(path, path+".1"))
					require.NoError(t, os.Rename(path+".x", path))
				}
				time.Sleep(250 * time.Millisecond)
				l.Record(ctx, audit.Logout, slog.String("id", "3"))
				got := readAll(t, path)
				assert.Contains(t, got,
					fmt.Sprintf(`"event":"audit_gap","reason":%q,"lines":%d}`, tt.reason, tt.lines))
				assert.Contains(t, got, `"id":"3"`)
				if tt.kept > 0 {
					assert.Equal(t, tt.kept, lines(readAll(t, path+".1")))
				}
				info, err := os.Stat(path)
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
				_, err = audit.OpenFile(path, nil)
				require.ErrorContains(t, err, "in use")
			})
		})
	}
}

func TestReopen(t *testing.T) {
	l, path := open(t, nil)
	l.Record(ctx, audit.Logout, slog.String("id", "1"))
	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, l.Reopen())
	l.Record(ctx, audit.Logout, slog.String("id", "2"))
	assert.NotContains(t, readAll(t, path), "audit_gap")
	assert.Contains(t, readAll(t, path), `"id":"2"`)
	require.NoError(t, l.Reopen())
	require.NoError(t, os.Rename(path, path+".2"))
	require.NoError(t, os.Mkdir(path, 0o700))
	require.ErrorContains(t, l.Reopen(), "not a regular file")
	l.Record(ctx, audit.Logout, slog.String("id", "3"))
	assert.Contains(t, readAll(t, path+".2"), `"id":"3"`, "the old one goes on")
	require.NoError(t, l.Close())
	require.ErrorContains(t, l.Reopen(), "closed")
	var none *audit.Log
	require.NoError(t, none.Reopen())
}

func TestFile_PathBecomesDirectory(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "auth.log")
		l, err := audit.OpenFile(path, nil)
		require.NoError(t, err)
		defer l.Close()
		l.Record(ctx, audit.Logout, slog.String("id", "1"))
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700))
		time.Sleep(250 * time.Millisecond)
		l.Record(ctx, audit.Logout, slog.String("id", "2"))
		l.Record(ctx, audit.Logout, slog.String("id", "3"))
		assert.Equal(t, audit.Stats{Written: 1, Failed: 2}, l.Stats())
		require.NoError(t, os.Remove(path))
		time.Sleep(250 * time.Millisecond)
		l.Record(ctx, audit.Logout, slog.String("id", "4"))
		all, _ := records(t, path)
		ids, own := count(t, all)
		assert.Equal(t, map[string]int{"4": 1}, ids)
		assert.Equal(t, map[string]int{"removed": 1, "failed": 2}, own)
	})
}

func TestOpenFile_AllBadOptionsAreNamed(t *testing.T) {
	_, err := audit.OpenFile(filepath.Join(t.TempDir(), "x"), &audit.FileOptions{
		MaxSize: 100, MaxAge: time.Millisecond, KeepFiles: -1, RepeatsPerMinute: -1,
		RefusalsPerMinute: -1})
	for _, name := range []string{"MaxSize is 100: want 0 (default 67108864) or at least 4096",
		"MaxAge", "KeepFiles", "RepeatsPerMinute", "RefusalsPerMinute"} {
		assert.ErrorContains(t, err, name)
	}
}
