package client_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware/client"
)

func do(t *testing.T, method, url string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, body
}

func TestHandler(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/static/ticketgate.js", client.Handler())
	server := httptest.NewServer(mux)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	url := server.URL + "/static/ticketgate.js"
	module, err := os.ReadFile("ticketgate.js")
	require.NoError(t, err)

	res, body := do(t, http.MethodGet, url)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	assert.Equal(t, string(module), string(body))
	assert.Equal(t, "text/javascript; charset=utf-8", res.Header.Get("Content-Type"))
	assert.Equal(t, "no-cache", res.Header.Get("Cache-Control"))
	assert.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	etag := res.Header.Get("Etag")
	assert.Regexp(t, `^"[0-9a-f]{32}"$`, etag)
	assert.Empty(t, res.Header.Get("Last-Modified"))

	res, body = do(t, http.MethodHead, url)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	assert.Equal(t, int64(len(module)), res.ContentLength)
	assert.Equal(t, etag, res.Header.Get("Etag"))
	assert.Empty(t, body)

	res, body = do(t, http.MethodGet, url, "If-None-Match", etag)
	assert.Equal(t, http.StatusNotModified, res.StatusCode)
	assert.Empty(t, body)
	res, _ = do(t, http.MethodGet, url, "If-None-Match", `"another"`)
	assert.Equal(t, http.StatusOK, res.StatusCode)

	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		res, body = do(t, method, url)
		assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, method)
		assert.Equal(t, "GET, HEAD", res.Header.Get("Allow"), method)
		assert.NotContains(t, string(body), "TicketSocket", method)
	}
}

// A page loads the module as it is: it must be small, readable, and in need of nothing.
func TestModule(t *testing.T) {
	module, err := os.ReadFile("ticketgate.js")
	require.NoError(t, err)
	assert.LessOrEqual(t, bytes.Count(module, []byte("\n")), 340, "lines")
	for line := range strings.Lines(string(module)) {
		assert.LessOrEqual(t, len(strings.TrimSuffix(line, "\n")), 100, line)
	}
	code := regexp.MustCompile(`(?m)(^|\s)//.*$`).ReplaceAllString(string(module), "")
	for _, forbidden := range []string{`\beval\b`, `\bFunction\(`, `innerHTML`, `document\.write`,
		`^import\b`, `\bimport\(`, `localStorage`, `sessionStorage`, `document\.cookie`,
		`\bvar\b`} {
		assert.NotRegexp(t, "(?m)"+forbidden, code)
	}
}

// What the module exports, the types declare, and the other way around.
func TestTypesDeclareWhatIsExported(t *testing.T) {
	module, err := os.ReadFile("ticketgate.js")
	require.NoError(t, err)
	types, err := os.ReadFile("ticketgate.d.ts")
	require.NoError(t, err)
	names := func(text []byte, pattern string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			all = append(all, string(m[1]))
		}
		return all
	}
	exported := names(module, `(?m)^export (?:async )?(?:const|function|class) (\w+)`)
	assert.ElementsMatch(t, []string{"verdict", "signIn", "ticketed", "TicketSocket", "connect"},
		exported)
	assert.ElementsMatch(t, exported,
		names(types, `(?m)^export declare (?:const|function|class) (\w+)`))

	settings := regexp.MustCompile(`(?s)export interface Settings \{(.*?)\n\}`).FindSubmatch(types)
	require.NotNil(t, settings)
	list := regexp.MustCompile(`(?m)^const settingNames = \[(.*)\]$`).FindSubmatch(module)
	require.NotNil(t, list)
	assert.ElementsMatch(t, names(list[1], `'(\w+)'`), names(settings[1], `(?m)^  (\w+)\?:`))
}

// The folder is an npm package, as a bundler takes it.
func TestPackage(t *testing.T) {
	data, err := os.ReadFile("package.json")
	require.NoError(t, err)
	var p struct {
		Type        string
		SideEffects *bool
		Exports     map[string]map[string]string
		Files       []string
	}
	require.NoError(t, json.Unmarshal(data, &p))
	assert.Equal(t, "module", p.Type)
	require.NotNil(t, p.SideEffects)
	assert.False(t, *p.SideEffects)
	assert.Equal(t, []string{"ticketgate.js", "ticketgate.d.ts"}, p.Files)
	assert.Equal(t, map[string]string{"types": "./ticketgate.d.ts", "default": "./ticketgate.js"},
		p.Exports["."])
	for _, file := range p.Files {
		assert.FileExists(t, file)
	}
}
