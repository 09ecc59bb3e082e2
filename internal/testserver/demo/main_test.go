package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/demo/page"
)

// demo runs the program on a free port and returns its URL. stop ends it as a
// signal does, and returns what run did.
func demo(t *testing.T, args ...string) (base string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, printed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), printed, io.Discard)
		printed.CloseWithError(err)
		done <- err
	}()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "it says where it is: %v", lines.Err())
	base = strings.TrimSuffix(strings.TrimPrefix(lines.Text(), "ticketgate demo: "), "/")
	go io.Copy(io.Discard, out)
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return base, stop
}

func get(t *testing.T, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func signIn(t *testing.T, base string) string {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	res, err := client.PostForm(base+"/login", url.Values{"user": {"ada"}})
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	return strings.Split(res.Header.Get("Set-Cookie"), ";")[0]
}

var (
	loaded   = regexp.MustCompile(`(?:src|href)="(/[^"]*)"`)
	imported = regexp.MustCompile(`from "\./([^"]+)"`)
	inline   = regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:\s[^>]*)?>[^<]|` +
		`javascript:|https?://`)
)

// A page may load what came from here, as files, and nothing else; so nothing
// in it may need more.
func TestPages(t *testing.T) {
	base, _ := demo(t)
	cookie := signIn(t, base)
	host := strings.TrimPrefix(base, "http://")
	twin := strings.Replace(host, "127.0.0.1", "localhost", 1)
	strict := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"form-action 'self'; base-uri 'none'; "
	assets := map[string]bool{"/favicon.ico": true, "/ticketgate.js": true}
	for path, policy := range map[string]string{
		"/": strict + "connect-src 'self'; frame-src 'self' http://" + twin +
			"; frame-ancestors 'none'",
		"/login": strict + "frame-ancestors 'none'",
		"/elsewhere": strict + "connect-src 'self' ws://" + twin +
			"; frame-ancestors 'self' http://" + twin,
	} {
		res, body := get(t, base+path, "Cookie", cookie)
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		assert.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"), path)
		assert.Equal(t, policy, res.Header.Get("Content-Security-Policy"), path)
		assert.Equal(t, "same-origin", res.Header.Get("Referrer-Policy"), path)
		assert.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"), path)
		assert.Empty(t, inline.FindAllString(body, -1), path)
		assert.Contains(t, body, `<html lang="en">`, path)
		for _, m := range loaded.FindAllStringSubmatch(body, -1) {
			if strings.HasPrefix(m[1], "/assets/") {
				assets[m[1]] = true
			}
		}
	}
	for asset := range assets {
		res, body := get(t, base+asset)
		require.Equal(t, http.StatusOK, res.StatusCode, asset)
		types := map[string]string{".css": "text/css", ".js": "text/javascript",
			".svg": "image/svg+xml", ".ico": "image/svg+xml"}
		assert.Contains(t, res.Header.Get("Content-Type"), types[filepath.Ext(asset)], asset)
		assert.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"), asset)
		for _, m := range imported.FindAllStringSubmatch(body, -1) {
			assets["/assets/"+m[1]] = true
			res, _ := get(t, base+"/assets/"+m[1])
			assert.Equal(t, http.StatusOK, res.StatusCode, "%s imports %s", asset, m[1])
		}
	}

	clean := func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		if entry.IsDir() {
			return nil
		}
		body, err := fs.ReadFile(page.Files, path)
		require.NoError(t, err)
		for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML",
			"document.write", "eval(", "@import", "url(http", "cdn"} {
			assert.NotContains(t, string(body), forbidden, path)
		}
		return nil
	}
	require.NoError(t, fs.WalkDir(page.Files, "assets", clean))
	for _, path := range []string{"/assets/", "/assets/none.js",
		"/assets/..%2flogin.html", "/assets/%2e%2e/login.html"} {
		res, body := get(t, base+path)
		assert.Equal(t, http.StatusNotFound, res.StatusCode, path)
		assert.NotContains(t, body, "{{", path)
	}
}

// The Host header is the client's to write, and stands in a policy.
func TestPolicyKeepsToKnownHosts(t *testing.T) {
	base, _ := demo(t)
	for _, host := range []string{"evil.example:8080", "localhost", "localhost:x",
		"localhost:99999", "127.0.0.1.evil.example:80"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/elsewhere", nil)
		require.NoError(t, err)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		if res.StatusCode == http.StatusBadRequest {
			continue // net/http's own answer
		}
		assert.Contains(t, res.Header.Get("Content-Security-Policy"),
			"connect-src 'self'; frame-ancestors 'self'", host)
	}
}

func TestAuditFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "logs", "auth.log")
	base, stop := demo(t, "-audit", file, "-ttl", "10s")
	cookie := signIn(t, base)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		base+"/api/auth/ws-ticket", nil)
	require.NoError(t, err)
	req.Header.Set("Cookie", cookie)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Regexp(t, `^\{"ticket":"[\w-]{43}","ttl_seconds":10\}`, string(body))

	require.NoError(t, stop())
	lines, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Regexp(t, `(?s)^\{"ts":"[^"]+","event":"login_success","provider":"demo",`+
		`"user_id":"ada","ip":"127\.0\.0\.1".*\n`+
		`\{"ts":"[^"]+","event":"ws_ticket_minted","provider":"demo","user_id":"ada".*\n$`,
		string(lines))
	assert.NotContains(t, string(lines), strings.Split(cookie, "=")[1])
}

// A stream that is open does not keep the program alive.
func TestEndsWithAStreamOpen(t *testing.T) {
	base, stop := demo(t)
	cookie := signIn(t, base)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		base+"/api/auth/ws-ticket", nil)
	require.NoError(t, err)
	req.Header.Set("Cookie", cookie)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	ticket := regexp.MustCompile(`[\w-]{43}`).FindString(string(body))

	stream, err := http.Get(base + "/events?ticket=" + ticket)
	require.NoError(t, err)
	defer stream.Body.Close()
	require.Equal(t, http.StatusOK, stream.StatusCode)
	require.NoError(t, stop())
	_, err = io.ReadAll(stream.Body)
	assert.NoError(t, err, "the stream ends, it does not break")
}

func TestRunRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a port that is taken", []string{"-addr", taken.Addr().String()},
			"address already in use"},
		{"no address", []string{"-addr", "nowhere"}, "missing port"},
		{"a short ttl", []string{"-ttl", "10ms"}, "-ttl is 10ms, want at least 1s"},
		{"an argument", []string{"audit.log"}, `unexpected argument "audit.log"`},
		{"a directory as log", []string{"-audit", t.TempDir()}, "-audit: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.ErrorContains(t, run(t.Context(), c.args, io.Discard, io.Discard), c.want)
		})
	}
	err = run(t.Context(), []string{"-h"}, io.Discard, io.Discard)
	assert.True(t, errors.Is(err, flag.ErrHelp))
}

func TestURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080/",
		"[::1]:8080":     "http://[::1]:8080/",
		"[::]:8080":      "http://localhost:8080/",
		"0.0.0.0:8080":   "http://localhost:8080/",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		require.NoError(t, err)
		assert.Equal(t, want, testserver.Address(a))
	}
}
