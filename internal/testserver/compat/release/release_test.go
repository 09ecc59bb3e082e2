// Package release tests what a user gets who requires the modules by their tags: the files of the
// working tree, served by a module proxy, and no replace directive.
package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

const demo = "github.com/ticketgate/ticketgate/internal/testserver/demo"

// Each module can be fetched by its version into a module that has nothing else, and builds there.
func TestModules(t *testing.T) {
	all := modules(t)
	proxy := t.TempDir()
	for _, m := range all {
		m.publish(t, proxy)
		for _, command := range []string{"download", "graph"} { // fetch what it requires
			cmd := exec.Command("go", "mod", command)
			cmd.Dir = filepath.Join(root, m.dir)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	for _, m := range all {
		t.Run(m.path, func(t *testing.T) {
			c := newConsumer(t, proxy)
			c.run("go", "get", m.path+"@"+version)
			if m.dir == "." {
				c.write("app.go", program(t))
				c.write("main.go", main)
				c.run("go", "get", ".") // the program's WebSocket library
			} else {
				text := fmt.Sprintf("package main\n\nimport _ %q\n\nfunc main() {}\n", m.path)
				c.write("main.go", text)
			}
			binary := filepath.Join(t.TempDir(), "program")
			c.run("go", "build", "-o", binary, ".")
			goMod, err := os.ReadFile(filepath.Join(c.dir, "go.mod"))
			require.NoError(t, err)
			require.Contains(t, string(goMod), m.path+" "+version)
			require.NotContains(t, string(goMod), "replace")
			if m.dir == "." {
				visit(t, binary)
			}
		})
	}
	t.Run("the demo", func(t *testing.T) {
		c := newConsumer(t, proxy)
		c.run("go", "install", demo+"@"+version)
	})
}

// RELEASING.md names the tag of each module, and what a module requires before itself. A version
// that is required by a go.mod is the one that is tagged.
func TestReleaseNote(t *testing.T) {
	note, err := os.ReadFile(filepath.Join(root, ".github/RELEASING.md"))
	require.NoError(t, err)
	var tags []string
	line := regexp.MustCompile(`(?m)^git tag (\S+)$`)
	for _, found := range line.FindAllStringSubmatch(string(note), -1) {
		tags = append(tags, found[1])
	}
	all := modules(t)
	require.Len(t, tags, len(all))
	for _, m := range all {
		at := slices.Index(tags, m.tag())
		require.GreaterOrEqual(t, at, 0, "RELEASING.md has no line: git tag %s", m.tag())
		for _, other := range all {
			for _, r := range m.require {
				if r.Path == other.path {
					require.Equal(t, version, r.Version, "%s requires %s", m.path, r.Path)
					before := slices.Index(tags, other.tag())
					require.Less(t, before, at, "%s requires %s", m.path, r.Path)
				}
			}
		}
	}
	changes, err := os.ReadFile(filepath.Join(root, ".github/CHANGELOG.md"))
	require.NoError(t, err)
	require.Contains(t, string(changes), fmt.Sprintf("\n## %s", version))
}
