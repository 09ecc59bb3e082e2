package release

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const (
	root    = "../../../.." // of the repository
	version = "v0.1.0"      // the one to be tagged next
)

// published is a module that users require.
type published struct {
	dir     string // in the repository; ".": the root module
	path    string
	goMod   []byte
	require []module.Version
}

// tag is the name of the git tag that makes version of m.
func (m published) tag() string { return path.Join(m.dir, version) }

// modules returns all modules but those under internal/, which only tests need.
func modules(t *testing.T) []published {
	t.Helper()
	var all []published
	for _, file := range files(t, "*go.mod") {
		if strings.HasPrefix(file, "internal/") {
			continue
		}
		source, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		mod, err := modfile.Parse(file, source, nil)
		require.NoError(t, err)
		m := published{dir: path.Dir(file), path: mod.Module.Mod.Path, goMod: source}
		for _, r := range mod.Require {
			m.require = append(m.require, r.Mod)
		}
		all = append(all, m)
	}
	require.NotEmpty(t, all)
	return all
}

// files returns the tracked files of the working tree that match a pattern of git's.
func files(t *testing.T, pattern string) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "-z", "--", pattern).Output()
	require.NoError(t, err)
	var there []string
	for _, file := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if _, err := os.Lstat(filepath.Join(root, file)); err == nil { // it is not deleted
			there = append(there, file)
		}
	}
	return there
}

// zipped is a file of a module's zip.
type zipped struct{ name, file string }

func (z zipped) Path() string                 { return z.name }
func (z zipped) Lstat() (os.FileInfo, error)  { return os.Lstat(z.file) }
func (z zipped) Open() (io.ReadCloser, error) { return os.Open(z.file) }

// publish puts m into the directory of a module proxy, as its tag would.
// The layout is that of https://go.dev/ref/mod#goproxy-protocol.
func (m published) publish(t *testing.T, proxy string) {
	t.Helper()
	escaped, err := module.EscapePath(m.path)
	require.NoError(t, err)
	dir := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	var content []zip.File // zip.Create leaves out what belongs to a nested module
	for _, file := range files(t, m.dir) {
		name, err := filepath.Rel(m.dir, file)
		require.NoError(t, err)
		content = append(content, zipped{filepath.ToSlash(name), filepath.Join(root, file)})
	}
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	require.NoError(t, err)
	require.NoError(t, zip.Create(archive, module.Version{Path: m.path, Version: version}, content))
	require.NoError(t, archive.Close())
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
	require.NoError(t, err)
	for name, text := range map[string][]byte{
		"list": []byte(version + "\n"), version + ".info": info, version + ".mod": m.goMod,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
}

// consumer is a user's module in an empty directory, with a module cache of its own.
type consumer struct {
	t   *testing.T
	dir string
	env []string
}

// newConsumer returns one that fetches modules from proxy, and what those require from this
// machine's module cache. What is there has been verified already, against the go.sum of each
// module.
func newConsumer(t *testing.T, proxy string) *consumer {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	require.NoError(t, err)
	cache := filepath.Join(strings.TrimSpace(string(out)), "cache", "download")
	dir := t.TempDir()
	c := &consumer{t: t, dir: filepath.Join(dir, "app"), env: append(os.Environ(),
		"GOPROXY="+fileURL(proxy)+","+fileURL(cache)+",off",
		"GOMODCACHE="+filepath.Join(dir, "cache"), "GOBIN="+filepath.Join(dir, "bin"),
		"GOSUMDB=off", "GOWORK=off", "GOFLAGS=-modcacherw -trimpath")}
	require.NoError(t, os.Mkdir(c.dir, 0o700))
	c.run("go", "mod", "init", "app.example")
	return c
}

func fileURL(dir string) string { return "file://" + filepath.ToSlash(dir) }

func (c *consumer) write(name, text string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600))
}

func (c *consumer) run(command ...string) {
	c.t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = c.dir, c.env
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "%s\n%s", strings.Join(command, " "), out)
}
