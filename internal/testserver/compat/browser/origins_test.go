package browser_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
	"github.com/ticketgate/ticketgate/internal/testserver/demo/page"
)

// seen is what came to the demo, and how it answered.
type seen struct {
	Method, Path, Origin, Site string
	Cookie                     bool
	Status                     int // 0: an upgrade, which the page tells of
}

type recorder struct {
	next http.Handler
	mu   sync.Mutex
	all  []seen
}

func (rec *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := seen{r.Method, r.URL.Path, r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site"),
		r.Header.Get("Cookie") != "", 0}
	if r.Header.Get("Upgrade") == "" {
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		w = status
		defer func() {
			s.Status = status.status
			rec.add(s)
		}()
	} else {
		rec.add(s)
	}
	rec.next.ServeHTTP(w, r)
}

func (rec *recorder) add(s seen) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.all = append(rec.all, s)
}

// from is what the pages of an origin have sent, by method and path.
func (rec *recorder) from(origin string) []seen {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(rec.all), func(s seen) bool { return s.Origin != origin })
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// A page of another origin, in the browser of somebody who is signed in. To the
// browser 127.0.0.1 with another port is the same site, so that SameSite keeps
// no cookie back; localhost is another.
func TestOtherOrigins(t *testing.T) {
	minted := &tally{text: []byte(`"event":"ws_ticket_minted"`)}
	app, err := testserver.New(&testserver.Options{
		Pages: page.Files, Audit: slog.NewJSONHandler(minted, nil)})
	require.NoError(t, err)
	rec := &recorder{next: app.Handler()}
	server := httptest.NewServer(rec)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><title>evil</title>`+
			`<iframe name="sink"></iframe>`)
	}))
	t.Cleanup(func() {
		assert.NoError(t, app.Close())
		server.Close()
		evil.Close()
	})

	for _, c := range []struct {
		name, origin, site string
		cookie             bool
		forms              int // the answer to forms, which bring the cookie or don't
	}{
		{"the same site", evil.URL, "same-site", true, http.StatusForbidden},
		{"another site", strings.Replace(evil.URL, "127.0.0.1", "localhost", 1),
			"cross-site", false, http.StatusUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			person := browser.NewProfile(t)
			own := signIn(person, server.URL, "ada")
			page := person.Open(c.origin)
			for _, refused := range []string{"CORS policy", "net::ERR_FAILED",
				"403 (Forbidden)", "401 (Unauthorized)", "EventSource's response"} {
				page.Expect(refused)
			}
			before := minted.count()

			// It reads no answer, and gets no ticket made.
			for _, mode := range []string{"cors", "no-cors"} {
				got := page.String(fmt.Sprintf(
					`fetch(%q, { method: "POST", mode: %q, credentials: "include" })`+
						`.then((r) => r.type + r.status, (e) => e.name)`,
					server.URL+"/api/auth/ws-ticket", mode))
				want := map[string]string{"cors": "TypeError", "no-cors": "opaque0"}[mode]
				assert.Equal(t, want, got)
			}
			assert.Equal(t, "TypeError", page.String(fmt.Sprintf(
				`fetch(%q, { credentials: "include" }).then((r) => r.text(), (e) => e.name)`,
				server.URL+"/api/auth/me")))

			// A form needs no CORS. None of these does anything.
			for _, path := range []string{"/api/auth/ws-ticket", "/api/sessions/revoke",
				"/logout", "/login"} {
				page.Eval(fmt.Sprintf(`new Promise((resolve) => {
					const form = Object.assign(document.createElement("form"), { method: "post", action: %q, target: "sink" })
					const user = Object.assign(document.createElement("input"), { name: "user", value: "ada" })
					form.append(user)
					document.body.append(form)
					document.querySelector("iframe").onload = resolve
					form.submit()
				})`, server.URL+path), nil)
			}

			// A socket with the cookie alone, and then with a good ticket that it got
			// hold of somehow; the origin is looked at first, so the ticket stays good.
			present := `new Promise((resolve) => {
				const socket = new WebSocket(%q)
				socket.onmessage = () => resolve("let in")
				socket.onclose = ({ code, reason }) => resolve(code + " " + reason)
				socket.onopen = () => socket.send("hello")
			})`
			ws := "ws" + strings.TrimPrefix(server.URL, "http") + "/ws"
			ticket := mintIn(own)
			assert.Equal(t, "4403 forbidden", page.String(fmt.Sprintf(present, ws)))
			assert.Equal(t, "4403 forbidden",
				page.String(fmt.Sprintf(present, ws+"?ticket="+ticket)))
			assert.Equal(t, "let in", own.String(fmt.Sprintf(present, ws+"?ticket="+ticket)))
			ticket = mintIn(own)
			stream := `new Promise((resolve) => {
				const stream = new EventSource(%q, { withCredentials: true })
				stream.addEventListener("beat", () => resolve("let in", stream.close()))
				stream.onerror = () => resolve("closed " + stream.readyState)
			})`
			address := server.URL + "/events?ticket=" + ticket
			assert.Equal(t, "closed 2", page.String(fmt.Sprintf(stream, address)))
			assert.Equal(t, "let in", own.String(fmt.Sprintf(stream, address)))

			// It frames neither the dashboard nor the sign-in.
			for _, path := range []string{"/", "/login"} {
				page.Eval(fmt.Sprintf(`new Promise((resolve) => {
					const frame = document.createElement("iframe")
					frame.onload = resolve
					frame.src = %q
					document.body.append(frame)
				})`, server.URL+path), nil)
			}
			page.WaitProblems(2, "Framing '"+server.URL+"/' violates the following "+
				"Content Security Policy directive: \"frame-ancestors 'none'\"")

			// What a link can do: nothing but show what is there.
			page.Go(server.URL + "/logout")
			assert.Contains(t, page.String(`document.body.innerText`), "method_not_allowed")
			page.Expect("405")
			page.Go(server.URL + "/api/auth/ws-ticket")
			assert.Contains(t, page.String(`document.body.innerText`), "method_not_allowed")

			me := `fetch("/api/auth/me").then((r) => r.json()).then((m) => m.user_id)`
			assert.Equal(t, "ada", own.String(me), "still signed in")
			assert.Equal(t, before+2, minted.count(), "but for the own page's two")

			sent := rec.from(c.origin)
			assert.Len(t, sent, 10, "two fetches and a read, four forms, two sockets, a stream: "+
				"what was meant to come came")
			for _, s := range sent {
				assert.Equal(t, c.cookie, s.Cookie, "SameSite: %+v", s)
				if s.Status != 0 { // an upgrade says where it comes from in Origin alone
					assert.Equal(t, c.site, s.Site, "%+v", s)
				}
				if s.Method == http.MethodPost {
					want := http.StatusForbidden
					if s.Path == "/api/auth/ws-ticket" {
						want = c.forms // the gate is asked first
					}
					assert.Equal(t, want, s.Status, "%+v", s)
				}
			}
		})
	}
}

// mintIn has a page get a ticket for any path.
func mintIn(page *browser.Page) string {
	return page.String(`fetch("/api/auth/ws-ticket", { method: "POST" })` +
		`.then((r) => r.json()).then((m) => m.ticket)`)
}

// tally counts the lines of the audit that hold a text.
type tally struct {
	text []byte
	n    atomic.Int64
}

func (l *tally) Write(p []byte) (int, error) {
	if bytes.Contains(p, l.text) {
		l.n.Add(1)
	}
	return len(p), nil
}

func (l *tally) count() int { return int(l.n.Load()) }
