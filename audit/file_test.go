package audit_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func TestOpenFile_MakesDirectoriesAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "auth.log")
	l, err := audit.OpenFile(path, nil)
	require.NoError(t, err)
	l.Record(ctx, audit.LoginStart)
	require.NoError(t, l.Close())
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700,
		filepath.Dir(filepath.Dir(path)): 0o700} {
		info, err := os.Stat(p)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), p)
	}

	l, err = audit.OpenFile(path, nil)
	require.NoError(t, err)
	l.Record(ctx, audit.LoginSuccess)
	require.NoError(t, l.Close())
	assert.Regexp(t, `^\{.*"login_start"\}\n\{.*"login_success"\}\n$`, readAll(t, path))
}

func TestOpenFile_ErrorNamesPath(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, path := range []string{filepath.Join(dir, "file", "auth.log"), dir} {
		_, err := audit.OpenFile(path, nil)
		require.ErrorContains(t, err, path)
	}
}

func TestClose_IsIdempotentAndFinal(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	l, path := open(t, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l.Record(ctx, audit.Logout)
			}
		})
		wg.Go(func() { assert.NoError(t, l.Close()) })
	}
	wg.Wait()
	require.NoError(t, l.Close())
	before := readAll(t, path)
	require.NoError(t, os.Remove(path))
	l.Record(ctx, audit.Logout)
	_, err := os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist, "it was opened again")
	stats := l.Stats()
	assert.EqualValues(t, 801, stats.Written+stats.Failed)
	assert.EqualValues(t, stats.Written, lines(before))
}

func lines(s string) (n int) {
	for _, c := range s {
		if c == '\n' {
			n++
		}
	}
	return n
}

func TestHomePath(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	t.Setenv("HERMES_HOME", "")
	got, err := audit.HomePath("hermes", "dashboard-auth.log")
	require.NoError(t, err)
	assert.Equal(t, filepath.FromSlash("/home/me/.hermes/logs/dashboard-auth.log"), got)

	t.Setenv("HERMES_HOME", "/srv/hermes")
	got, err = audit.HomePath("hermes", "auth.log")
	require.NoError(t, err)
	assert.Equal(t, filepath.FromSlash("/srv/hermes/logs/auth.log"), got)

	t.Setenv("MY_APP_2_HOME", "/x")
	got, err = audit.HomePath("my-app.2", "auth.log")
	require.NoError(t, err)
	assert.Equal(t, filepath.FromSlash("/x/logs/auth.log"), got)

	for _, bad := range []string{
		"", ".", "..", "../x", "a/b", `a\b`, "/etc", ".hidden", "a\x00b", "a\nb", "C:x"} {
		_, err := audit.HomePath(bad, bad)
		require.Error(t, err, bad)
		assert.Contains(t, err.Error(), "app")
		assert.Contains(t, err.Error(), "file")
	}

	t.Setenv("HERMES_HOME", "")
	t.Setenv("HOME", "")
	_, err = audit.HomePath("hermes", "auth.log")
	assert.ErrorContains(t, err, "HERMES_HOME")
}
