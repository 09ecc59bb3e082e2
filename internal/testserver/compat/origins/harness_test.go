package origins

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
	"github.com/ticketgate/ticketgate/middleware/client"
)

func TestMain(m *testing.M) { os.Exit(browser.Run(m)) }

const appPackage = "github.com/ticketgate/ticketgate/internal/testserver/compat/origins/app"

// build compiles the recipe and variants of it into one program. A variant is a list of pairs: what
// is in the recipe, and what is there instead. The variants exist in an overlay only.
func build(t *testing.T, variants [][]string) (program string) {
	t.Helper()
	dir := t.TempDir()
	here, err := os.Getwd()
	require.NoError(t, err)
	recipe, err := os.ReadFile("app/app.go")
	require.NoError(t, err)
	replace := make(map[string]string)
	add := func(file, text string) {
		replace[filepath.Join(here, file)] = filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
		require.NoError(t, os.WriteFile(replace[filepath.Join(here, file)], []byte(text), 0o600))
	}
	imports, calls := "", ""
	for i, pairs := range variants {
		for n := 0; n < len(pairs); n += 2 {
			require.Contains(t, string(recipe), pairs[n])
		}
		name := fmt.Sprint("app", i)
		add(filepath.Join(name, "app.go"), strings.NewReplacer(pairs...).Replace(string(recipe)))
		imports += fmt.Sprintf("import %s %q\n", name, appPackage+fmt.Sprint(i))
		call := "func(page string) { serve(page, %s.New, (*%s.Sessions).Start) }"
		calls += fmt.Sprintf("apis = append(apis, "+call+")\n", name, name)
	}
	add("serve/variants.go", "package main\n"+imports+"func init() {\n"+calls+"}\n")
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	program = filepath.Join(dir, "serve")
	build := exec.Command("go", "build", "-overlay", file, "-o", program, "./serve")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// api is a running variant.
type api struct{ port, token string }

// start runs the APIs of a program for pages of the origins given: apis[variant][origin].
func start(t *testing.T, program string, variants int, origins []string) [][]api {
	t.Helper()
	cmd := exec.Command(program, origins...)
	browser.EndWithTest(cmd)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, stdin.Close())
		assert.NoError(t, cmd.Wait())
	})
	lines := bufio.NewReader(stdout)
	apis := make([][]api, variants)
	for i := range apis {
		for range origins {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			address, token, _ := strings.Cut(strings.TrimSpace(line), " ")
			u, err := url.Parse(address)
			require.NoError(t, err)
			apis[i] = append(apis[i], api{u.Port(), token})
		}
	}
	return apis
}

// servePage serves an empty page and the recipe's scripts, and returns its port. ?without= leaves a
// text out of a script.
func servePage(t *testing.T) (port string) {
	t.Helper()
	files := http.NewServeMux()
	files.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><title>page</title>`)
	})
	files.Handle("/ticketgate.js", client.Handler())
	files.HandleFunc("/page/{script}", func(w http.ResponseWriter, r *http.Request) {
		script, err := os.ReadFile(filepath.Join("page", filepath.Base(r.PathValue("script"))))
		assert.NoError(t, err)
		without := r.FormValue("without")
		assert.Contains(t, string(script), without)
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, strings.Replace(string(script), without, "", 1))
	})
	server := httptest.NewTLSServer(files)
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	return u.Port()
}
