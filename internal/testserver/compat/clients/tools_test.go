package clients

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

const (
	clientFolder = "../../../../middleware/client"
	packageLimit = 3072 // bytes, minified and compressed
)

// project is an npm project that has the recipes in it, and ticketgate as npm packs it.
var project struct {
	once  sync.Once
	dir   string
	files []string // of the package
	err   error
}

func newProject(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Dir(browser.Packages(t))
	project.once.Do(func() {
		project.dir = dir
		project.err = errors.Join(
			os.CopyFS(filepath.Join(dir, "recipes"), os.DirFS("recipes")),
			installClient(dir))
	})
	require.NoError(t, project.err)
	return project.dir
}

// installClient packs ticketgate as for a registry, and unpacks that where a bundler looks.
func installClient(dir string) error {
	source, err := filepath.Abs(clientFolder)
	if err != nil {
		return err
	}
	cmd := exec.Command("npm", "pack", "--silent", "--ignore-scripts", source)
	cmd.Dir = dir
	browser.EndWithTest(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	packed, err := os.Open(filepath.Join(dir, "ticketgate-0.0.0.tgz"))
	if err != nil {
		return err
	}
	defer packed.Close()
	unzipped, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, "node_modules", "ticketgate")
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		name := strings.TrimPrefix(header.Name, "package/")
		project.files = append(project.files, name)
		content, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o600); err != nil {
			return err
		}
	}
}

// tool runs a program of the project and returns what it writes.
func tool(t *testing.T, input string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = newProject(t)
	cmd.Stdin = strings.NewReader(input)
	browser.EndWithTest(cmd)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		require.NoError(t, err, "%s %v\n%s%s", name, args, out, exit.Stderr)
	}
	require.NoError(t, err, name)
	return string(out)
}

func esbuild(t *testing.T, input string, args ...string) string {
	t.Helper()
	args = append([]string{"node_modules/esbuild/bin/esbuild", "--log-level=warning"}, args...)
	return tool(t, input, "node", args...)
}

func TestPackedFiles(t *testing.T) {
	newProject(t)
	assert.ElementsMatch(t, []string{"package.json", "ticketgate.js", "ticketgate.d.ts"},
		project.files)
}

func TestModuleIsSmall(t *testing.T) {
	small := esbuild(t, "", "node_modules/ticketgate/ticketgate.js", "--minify")
	var compressed bytes.Buffer
	w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	require.NoError(t, err)
	_, err = io.WriteString(w, small)
	require.NoError(t, errors.Join(err, w.Close()))
	t.Logf("%d bytes minified, %d compressed by Go", len(small), compressed.Len())
	path := browser.Need(t, "gzip", "apt-get install gzip")
	assert.LessOrEqual(t, len(tool(t, small, path, "-9", "-n")), packageLimit)
}

// A bundler takes the folder, and leaves out what a page does not import.
func TestBundle(t *testing.T) {
	whole := esbuild(t, `import { TicketSocket } from 'ticketgate'; new TicketSocket('/ws')`,
		"--bundle", "--minify")
	assert.Contains(t, whole, "/api/auth/ws-ticket")
	none := esbuild(t, `import { TicketSocket } from 'ticketgate'`, "--bundle", "--minify")
	assert.NotContains(t, none, "/api/auth/ws-ticket", "the package has no side effects")
}

// The types hold under every strict option, and so does each recipe.
func TestTypes(t *testing.T) {
	common := []string{"node_modules/typescript/bin/tsc", "--noEmit", "--strict",
		"--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler",
		"--lib", "es2024,dom,dom.iterable", "--types", "", "--noUnusedLocals",
		"--noUncheckedIndexedAccess", "--noImplicitReturns", "--noFallthroughCasesInSwitch"}
	dir := newProject(t)
	use, err := os.ReadFile("cases/types.ts")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "types.ts"), use, 0o600))
	out := tool(t, "", "node", append(common, "--exactOptionalPropertyTypes", "types.ts")...)
	assert.Empty(t, out)

	recipes, err := filepath.Glob(filepath.Join(dir, "recipes", "*.ts"))
	require.NoError(t, err)
	require.NotEmpty(t, recipes)
	// The libraries' own types are theirs to mend.
	assert.Empty(t, tool(t, "", "node", append(append(common, "--skipLibCheck"), recipes...)...))
}

var bundles sync.Map // name → text

// bundle has the recipes of the names served as a bundler makes them. esbuild runs here, in the
// test, and not while a page waits.
func (a *app) bundle(names ...string) {
	a.t.Helper()
	for _, name := range names {
		if _, ok := bundles.Load(name); !ok {
			bundles.Store(name, esbuild(a.t, "", "recipes/"+name+".ts", "--bundle", "--format=esm"))
		}
	}
}

func (a *app) recipe(w http.ResponseWriter, r *http.Request) {
	text, ok := bundles.Load(strings.TrimSuffix(r.PathValue("name"), ".js"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/javascript")
	_, _ = io.WriteString(w, text.(string))
}
