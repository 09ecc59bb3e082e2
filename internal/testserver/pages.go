package testserver

import (
	"bytes"
	"fmt"
	"html/template"
	"io/fs"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/ticketgate/ticketgate/middleware"
)

// LoginPage is what login.html is given.
type LoginPage struct {
	Next    string // the local path to go to afterwards
	Problem string // "": none so far
	User    string // what was typed before
	MaxName int    // characters
}

// A system's own table of types may say anything of .js, so this one stands.
var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// pages serves what a person looks at.
type pages struct {
	files fs.FS
	form  *template.Template
	peers []string
}

func newPages(files fs.FS, peers []string) (*pages, error) {
	for _, name := range []string{"index.html", "elsewhere.html"} {
		if _, err := fs.Stat(files, name); err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
	}
	form, err := template.ParseFS(files, "login.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	return &pages{files: files, form: form, peers: peers}, nil
}

// dashboard stands at the mux's root, and so answers for every path that nobody
// else has; only a person who is signed in learns that it is not there.
func (p *pages) dashboard(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		problem(w, http.StatusNotFound, "not_found", "Not Found")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "method_not_allowed", "Method Not Allowed")
		return
	}
	frames := "'self'"
	if twin, ok := twinHost(r.Host); ok {
		frames += " " + scheme(r, "http") + twin
	}
	connect := "connect-src 'self'"
	for _, peer := range p.peers {
		connect += " " + scheme(r, "ws") + peer
	}
	policy(w, connect, "frame-src "+frames, "frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	p.serve(w, r, "index.html")
}

// elsewhere is a page that stands for somebody else's site: the dashboard frames
// it at the other name of this machine, where it is another origin to a browser,
// and it tries a ticket at the first.
func (p *pages) elsewhere(w http.ResponseWriter, r *http.Request) {
	connect, ancestors := "'self'", "'self'"
	if twin, ok := twinHost(r.Host); ok {
		connect += " " + scheme(r, "ws") + twin
		ancestors += " " + scheme(r, "http") + twin
	}
	policy(w, "connect-src "+connect, "frame-ancestors "+ancestors)
	p.serve(w, r, "elsewhere.html")
}

func (p *pages) login(w http.ResponseWriter, r *http.Request) {
	p.renderLogin(w, r, http.StatusOK, "")
}

func (p *pages) renderLogin(w http.ResponseWriter, r *http.Request, status int, problem string) {
	var body bytes.Buffer
	err := p.form.Execute(&body, LoginPage{
		Next:    middleware.Next(r),
		Problem: problem,
		User:    r.PostForm.Get("user"),
		MaxName: maxName,
	})
	if err != nil {
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	policy(w, "frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", contentTypes[".html"])
	w.WriteHeader(status)
	w.Write(body.Bytes())
}

func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	policy(w, "frame-ancestors 'none'")
	p.serve(w, r, strings.TrimPrefix(r.URL.Path, "/"))
}

func (p *pages) serve(w http.ResponseWriter, r *http.Request, name string) {
	kind, known := contentTypes[path.Ext(name)]
	body, err := fs.ReadFile(p.files, name)
	if err != nil || !known {
		problem(w, http.StatusNotFound, "not_found", "Not Found")
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache")
	}
	w.Write(body)
}

// policy lets a page run what came from here as a file, and nothing else.
func policy(w http.ResponseWriter, more ...string) {
	rules := append([]string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
		"form-action 'self'", "base-uri 'none'",
	}, more...)
	h := w.Header()
	h.Set("Content-Security-Policy", strings.Join(rules, "; "))
	h.Set("X-Content-Type-Options", "nosniff")
	// "no-referrer" would make a form's Origin null, which is all that a browser
	// says of itself over plain HTTP from another machine.
	h.Set("Referrer-Policy", "same-origin")
}

// twinHost is the other name under which a browser on this machine reaches the
// same listener: the same server, and another origin. Other hosts have none.
func twinHost(host string) (string, bool) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return "", false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", false // the Host header is the client's to write
	}
	switch name {
	case "localhost":
		name = "127.0.0.1"
	case "127.0.0.1", "::1":
		name = "localhost"
	default:
		return "", false
	}
	return net.JoinHostPort(name, port), true
}

func scheme(r *http.Request, plain string) string {
	if r.TLS != nil {
		return plain + "s://"
	}
	return plain + "://"
}
