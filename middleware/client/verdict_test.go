package client_test

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rules are a table of verdicts: "4401 ticket_rejected", "4401" or "" → what to do.
type rules map[string]string

func (r rules) verdict(code int, reason string) string {
	c := strconv.Itoa(code)
	return cmp.Or(r[c+" "+reason], r[c], r[""])
}

// Three tables say what a page does about a close, and they say the same.
func TestVerdictTablesAgree(t *testing.T) {
	module := rulesOfModule(t)
	assert.Equal(t, module, rulesOfText(t, "client.go", "//\t"), "the doc of this package")
	assert.Equal(t, module, rulesOfText(t, "../../internal/testserver/compat/README.md", "| "),
		"compat's README")
}

// Every close that Go can send has a verdict that somebody has decided on.
func TestVerdictOfEveryClose(t *testing.T) {
	module := rulesOfModule(t)
	sent := sentByGo(t)
	for pair := range sent {
		code, reason, _ := strings.Cut(pair, " ")
		n, err := strconv.Atoi(code)
		require.NoError(t, err)
		assert.Contains(t, decided, pair, "Go sends it: decide what a page does about it")
		assert.Equal(t, decided[pair], module.verdict(n, reason), pair)
	}
	for pair := range decided {
		assert.Contains(t, sent, pair, "Go does not send it")
	}
	// An application gives its own reasons to CloseSession and Revoke.
	assert.Equal(t, "sign-in", module.verdict(4401, "your account was merged"))
}

var decided = map[string]string{
	"4401 ticket_rejected": "retry",
	"4401 unauthenticated": "sign-in",
	"4401 session_expired": "sign-in",
	"4401 session_revoked": "sign-in",
	"4403 forbidden":       "stop",
	"4429 too_many":        "wait",
	"4429 evicted":         "stop",
	"1013 unavailable":     "wait",
	"1011 panic":           "wait",
	"1001 going_away":      "wait",
	"1001 unavailable":     "wait", // an upgrade that is refused in Shutdown
}

func rulesOfModule(t *testing.T) rules {
	t.Helper()
	module, err := os.ReadFile("ticketgate.js")
	require.NoError(t, err)
	table := regexp.MustCompile(`(?s)\nconst verdicts = \{\n(.*?)\n\}\n`).FindSubmatch(module)
	require.NotNil(t, table)
	r := rules{}
	row := regexp.MustCompile(`^  '?(\d{4}(?: \w+)?)'?: '([\w-]+)', // `)
	for line := range strings.Lines(string(table[1])) {
		m := row.FindStringSubmatch(line)
		require.NotNil(t, m, line)
		require.NotContains(t, r, m[1])
		r[m[1]] = m[2]
	}
	unknown := regexp.MustCompile(`\?\? verdicts\[code\] \?\? '(\w+)'`).FindSubmatch(module)
	require.NotNil(t, unknown)
	r[""] = string(unknown[1])
	return r
}

// rulesOfText reads the rows "code reason verdict" of a table, be it in Go's doc or Markdown.
func rulesOfText(t *testing.T, file, prefix string) rules {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(file))
	require.NoError(t, err)
	r := rules{}
	row := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(prefix) +
		`(\d{4})?[ |]+(any other|any|\w+)[ |]+(retry|sign-in|wait|stop)\b`)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		key := m[1]
		if !strings.HasPrefix(m[2], "any") {
			key += " " + m[2]
		}
		require.NotContains(t, r, key)
		r[key] = m[3]
	}
	require.NotEmpty(t, r, file)
	return r
}

// sentByGo is every close code with every reason of its own that package middleware can send:
// "4401 session_revoked". Its source has them in each refusal, which RejectByClosing sends, and in
// each CloseError.
func sentByGo(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	s := source{constants: map[string]ast.Expr{}, sent: map[string]bool{}}
	var parsed []*ast.File
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			require.NoError(t, err)
			parsed = append(parsed, f)
		}
	}
	for _, read := range []func(ast.Node) bool{s.readConstants, s.readCloses} {
		for _, file := range parsed {
			ast.Inspect(file, read)
		}
	}
	require.True(t, s.refusals, "there is no table of refusals")
	return s.sent
}

type source struct {
	constants map[string]ast.Expr
	refusals  bool
	sent      map[string]bool
}

func (s *source) readConstants(n ast.Node) bool {
	if spec, ok := n.(*ast.ValueSpec); ok {
		for i, name := range spec.Names {
			if i < len(spec.Values) {
				s.constants[name.Name] = spec.Values[i]
			}
		}
	}
	return true
}

func (s *source) readCloses(n ast.Node) bool {
	row, ok := n.(*ast.CompositeLit)
	if !ok {
		return true
	}
	name, _ := row.Type.(*ast.Ident)
	switch {
	case name == nil || len(row.Elts) < 2:
	case name.Name == "refusal": // status, code, close code, event, reason
		s.refusals = true
		s.add(row.Elts[2], row.Elts[1])
	case name.Name == "CloseError": // code, reason, err
		s.add(value(row.Elts[0]), value(row.Elts[1]))
	}
	return true
}

func value(e ast.Expr) ast.Expr {
	if pair, ok := e.(*ast.KeyValueExpr); ok {
		return pair.Value
	}
	return e
}

// add adds a pair of constants. What an application or a peer says is none, and 1006 is in no
// close frame (RFC 6455 section 7.4.1).
func (s *source) add(code, reason ast.Expr) {
	c, r := s.constant(code), s.constant(reason)
	if c != "" && c != "0" && c != "1006" && r != "" {
		s.sent[c+" "+r] = true
	}
}

func (s *source) constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		if value, ok := s.constants[e.Name]; ok {
			return s.constant(value)
		}
	case *ast.CallExpr: // cmp.Or(what the application says, a constant)
		return s.constant(e.Args[len(e.Args)-1])
	case *ast.BasicLit:
		return strings.Trim(e.Value, `"`)
	}
	return ""
}
