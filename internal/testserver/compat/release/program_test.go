package release

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

func TestMain(m *testing.M) { os.Exit(browser.Run(m)) }

// program returns example_test.go as a program: without its Example.
func program(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, "example_test.go"))
	require.NoError(t, err)
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, "", source, parser.ParseComments)
	require.NoError(t, err)
	text := ""
	used := make(map[string]bool)
	for _, d := range file.Decls {
		f, isFunc := d.(*ast.FuncDecl)
		g, isGen := d.(*ast.GenDecl)
		if isFunc && strings.HasPrefix(f.Name.Name, "Example") || isGen && g.Tok == token.IMPORT {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok {
					used[x.Name] = true
				}
			}
			return true
		})
		from, to := positions.Position(d.Pos()).Offset, positions.Position(d.End()).Offset
		text += string(source[from:to]) + "\n\n"
	}
	imports := ""
	for _, i := range file.Imports {
		imported, err := strconv.Unquote(i.Path.Value)
		require.NoError(t, err)
		if used[path.Base(imported)] {
			imports += "import " + i.Path.Value + "\n"
		}
	}
	return "package main\n\n" + imports + "\n" + text
}

// main serves the program on a free port, until its standard input ends.
const main = `package main

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
)

func main() {
	app, err := newApp(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(app)
	fmt.Println(server.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	server.Close()
}
`

// What a new user does first, in a browser: sign in, see the socket speak, sign out.
func visit(t *testing.T, binary string) {
	t.Helper()
	cmd := exec.Command(binary, filepath.Join(t.TempDir(), "auth.log"))
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
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	base := strings.Replace(strings.TrimSpace(line), "127.0.0.1", "localhost", 1) // a Secure cookie

	person := browser.NewProfile(t)
	page, other := person.Open(base+"/"), person.Open(base+"/login")
	for _, p := range []*browser.Page{page, other} {
		p.Expect("favicon.ico")
	}
	page.WaitPath("/login?next=%2F")
	page.Type("input[name=user]", "ada")
	page.Click("button")
	page.WaitPath("/")
	page.WaitText("#log", "hello ada")
	other.Go(base + "/")
	other.WaitText("#log", "hello ada")
	other.Click("button")
	// By the form's redirect, or because its socket was closed.
	other.Wait(`location.pathname === "/login"`)
	page.WaitPath("/login?next=%2F") // because its socket was closed
}
