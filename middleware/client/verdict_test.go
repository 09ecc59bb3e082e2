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
	assert.Equal(t, module, rulesOfText(t, "../../internal/testserver/compat/README.md", "| "), "compat's README")
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
		if !sent[pair] && planned[pair] {
			continue
		}
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
}

// planned is part of the contract, and not in the source yet.
var planned = map[string]bool{"4429 evicted": true, "1011 panic": true}

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

// sentByGo is every close code with every reason of its own that package middleware can send, as
// its source has them side by side: "4401 session_revoked". A refusal has a status in place of a
// close code, and its code as reason.
func sentByGo(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	s := source{constants: map[string]ast.Expr{}, sent: map[string]bool{}}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		s.files = append(s.files, parsed)
	}
	for _, file := range s.files {
		ast.Inspect(file, s.readConstants)
	}
	for _, file := range s.files {
		ast.Inspect(file, s.readPairs)
	}
	require.Greater(t, len(s.sent), 5, "%v", s.sent)
	return s.sent
}

type source struct {
	files     []*ast.File
	constants map[string]ast.Expr
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

func (s *source) readPairs(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		s.readPair(n.Args)
	case *ast.CompositeLit:
		s.readPair(n.Elts)
	}
	return true
}

// readPair looks for a close code, or the status that has one, and for the first text after it.
func (s *source) readPair(list []ast.Expr) {
	code := ""
	for _, e := range list {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			e = pair.Value
		}
		if code == "" {
			code = s.closeCode(e)
		} else if text, ok := s.text(e); ok {
			s.sent[code+" "+text] = true
			return
		}
	}
}

var closeCodes = map[string]string{
	"StatusUnauthorized": "4401", "StatusForbidden": "4403",
	"StatusTooManyRequests": "4429", "StatusServiceUnavailable": "1013",
}

func (s *source) closeCode(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		if pkg, ok := e.X.(*ast.Ident); ok && pkg.Name == "http" {
			return closeCodes[e.Sel.Name]
		}
	case *ast.Ident:
		if value, ok := s.constants[e.Name]; ok && strings.HasPrefix(e.Name, "close") {
			return s.closeCode(value)
		}
	case *ast.BasicLit:
		if e.Kind == token.INT && regexp.MustCompile(`^(4\d\d\d|10(01|11|13))$`).MatchString(e.Value) {
			return e.Value
		}
	}
	return ""
}

func (s *source) text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.Ident:
		if value, ok := s.constants[e.Name]; ok {
			return s.text(value)
		}
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil && text != ""
		}
	}
	return "", false
}
