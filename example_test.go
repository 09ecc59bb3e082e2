package ticketgate_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/justinas/alice"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// newApp is a whole application: sign-in, a page, its socket, sign-out.
func newApp(auditFile string) (http.Handler, error) {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	events, err2 := audit.OpenFile(auditFile, nil)

	var signedIn sync.Map // cookie → *middleware.Session: stands for your own session store
	sessions := middleware.CookieSessions("session", func(_ context.Context, cookie string) (*middleware.Session, error) {
		s, _ := signedIn.Load(cookie)
		session, _ := s.(*middleware.Session)
		return session, nil // nil: a cookie that nobody knows
	})
	gate, err3 := middleware.NewGate(sessions, &middleware.GateOptions{LoginURL: "/login", Audit: events})
	mint, err4 := middleware.NewMint(issuer, &middleware.MintOptions{Audit: events})
	// RejectByClosing: a page can read a close code, and nothing of an HTTP refusal.
	guard, err5 := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: events, OnReject: middleware.RejectByClosing})
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint))
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		conn, err := websocket.Accept(w, r, nil) // or gorilla, gobwas, gws, x/net
		if err != nil {
			return
		}
		defer conn.CloseNow()
		_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
		_, _, _ = conn.Read(r.Context())
	})))
	mux.Handle("/{$}", gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `<!doctype html><form method=post action=/logout><button>Sign out</button></form><pre id=log></pre><script type=module>
			const { ticket } = await (await fetch('/api/auth/ws-ticket', { method: 'POST' })).json()
			const socket = new WebSocket('/ws?ticket=' + ticket)
			socket.onmessage = message => log.append(message.data + '\n')
			socket.onclose = close => log.append('closed: ' + close.code + ' ' + close.reason)</script>`)
	})))
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `<!doctype html><form method=post><input name=user> <button>Sign in</button></form>`)
	})
	sameOrigin := http.NewCrossOriginProtection() // other sites' forms sign nobody in or out
	mux.Handle("POST /login", sameOrigin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		signedIn.Store(id, &middleware.Session{ID: id, UserID: r.FormValue("user"), StartedAt: time.Now()})
		http.SetCookie(w, &http.Cookie{Name: "session", Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	})))
	mux.Handle("POST /logout", sameOrigin.Handler(gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		signedIn.Delete(session.ID) // first your own store, then every socket of it:
		if err := issuer.Revoke(r.Context(), tickets.Revocation{SessionID: session.ID, Reason: "logout"}); err != nil {
			log.Print(err) // in force here; other servers are told when they can be
		}
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	}))))
	return mux, nil
}

func Example() {
	dir, err := os.MkdirTemp("", "ticketgate")
	check(err)
	defer os.RemoveAll(dir)
	app, err := newApp(filepath.Join(dir, "auth.log"))
	check(err)
	server := httptest.NewTLSServer(app)
	defer server.Close()
	client := server.Client()
	client.Jar, err = cookiejar.New(nil)
	check(err)
	ctx := context.Background()

	response, err := client.PostForm(server.URL+"/login", url.Values{"user": {"ada"}})
	check(err)
	response.Body.Close()
	fmt.Println("signed in:", response.StatusCode, response.Request.URL.Path)

	response, err = client.Post(server.URL+"/api/auth/ws-ticket", "", nil)
	check(err)
	var minted struct {
		Ticket string `json:"ticket"`
		TTL    int    `json:"ttl_seconds"`
	}
	check(json.NewDecoder(response.Body).Decode(&minted))
	response.Body.Close()
	fmt.Printf("a ticket: %d characters, good for %d seconds\n", len(minted.Ticket), minted.TTL)

	open := func() {
		// The cookie stays behind: the ticket is all that an upgrade needs.
		conn, _, err := websocket.Dial(ctx, server.URL+"/ws?ticket="+minted.Ticket,
			&websocket.DialOptions{HTTPClient: &http.Client{Transport: client.Transport}})
		check(err)
		defer conn.CloseNow()
		if _, message, err := conn.Read(ctx); err != nil {
			fmt.Println("the socket was closed:", websocket.CloseStatus(err), closeReason(err))
		} else {
			fmt.Println("the socket says:", string(message))
			conn.Close(websocket.StatusNormalClosure, "")
		}
	}
	open()
	open()

	// Output:
	// signed in: 200 /
	// a ticket: 43 characters, good for 30 seconds
	// the socket says: hello ada
	// the socket was closed: StatusCode(4401) ticket_rejected
}

// The same gate and guard in chains of justinas/alice; chi's r.Use takes them
// as they stand too.
func Example_alice() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	var signedIn sync.Map // cookie → *middleware.Session: stands for your own session store
	sessions := middleware.CookieSessions("session", func(_ context.Context, cookie string) (*middleware.Session, error) {
		s, _ := signedIn.Load(cookie)
		session, _ := s.(*middleware.Session)
		return session, nil
	})
	gate, err := middleware.NewGate(sessions, &middleware.GateOptions{Audit: quiet})
	check(err)
	mint, err := middleware.NewMint(issuer, &middleware.MintOptions{Audit: quiet})
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)

	form := alice.New(http.NewCrossOriginProtection().Handler)
	page := alice.New(gate.Wrap)
	socket := alice.New(middleware.ConcealTicket, accessLog, guard.Wrap)
	mux := http.NewServeMux()
	mux.Handle("POST /login", form.ThenFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		signedIn.Store(id, &middleware.Session{ID: id, UserID: r.FormValue("user"), StartedAt: time.Now()})
		http.SetCookie(w, &http.Cookie{Name: "session", Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	}))
	mux.Handle("/api/auth/ws-ticket", page.Then(mint))
	mux.Handle("/ws", socket.ThenFunc(hello))
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	client := server.Client()
	client.Jar, err = cookiejar.New(nil)
	check(err)

	response, err := client.PostForm(server.URL+"/login", url.Values{"user": {"ada"}})
	check(err)
	response.Body.Close()
	response, err = client.Post(server.URL+"/api/auth/ws-ticket", "", nil)
	check(err)
	var minted struct{ Ticket string }
	check(json.Unmarshal([]byte(text(response)), &minted))

	withoutCookie := &http.Client{Transport: client.Transport}
	fmt.Println(dial(withoutCookie, server.URL+"/ws?ticket="+minted.Ticket))
	fmt.Println(dial(withoutCookie, server.URL+"/ws?ticket="+minted.Ticket))
	// Output:
	// access log: GET /ws
	// hello ada
	// access log: GET /ws
	// refused: 401
}

// ConcealTicket stands before whatever writes URLs down. The guard behind it
// finds the ticket all the same.
func Example_accessLog() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	server := httptest.NewServer(middleware.ConcealTicket(accessLog(guard.Wrap(http.HandlerFunc(hello)))))
	defer server.Close()

	ticket, err := issuer.Mint(context.Background(), tickets.Grant{SessionID: "s1", UserID: "ada"})
	check(err)
	fmt.Println(dial(http.DefaultClient, server.URL+"/ws?room=7&ticket="+string(ticket)))
	// Output:
	// access log: GET /ws?room=7
	// hello ada
}

// The wrong order: the access log stands before ConcealTicket and has the
// ticket. It cost nothing here, for the guard has spent the ticket by now; but
// whoever reads the log in time of a ticket that was never used comes in with
// it, and is there who it was minted for.
func Example_wrongOrder() {
	issuer, err := tickets.NewIssuer(tickets.NewMemoryStore(nil), nil)
	check(err)
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: quiet})
	check(err)
	var lines bytes.Buffer
	logged := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(&lines, r.Method, r.RequestURI)
			next.ServeHTTP(w, r)
		})
	}
	down := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	wrong := logged(middleware.ConcealTicket(down)) // the upgrade never reaches the guard
	right := middleware.ConcealTicket(logged(down))
	ticket, err := issuer.Mint(context.Background(), tickets.Grant{SessionID: "s1", UserID: "ada"})
	check(err)

	request := httptest.NewRequest("GET", "/ws?ticket="+string(ticket), nil)
	right.ServeHTTP(httptest.NewRecorder(), request)
	fmt.Println("right order, a ticket in the log:", strings.Contains(lines.String(), string(ticket)))
	wrong.ServeHTTP(httptest.NewRecorder(), request)
	fmt.Println("wrong order, a ticket in the log:", strings.Contains(lines.String(), string(ticket)))

	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(hello)))
	defer server.Close()
	_, stolen, _ := strings.Cut(strings.TrimSpace(lines.String()), "ticket=")
	fmt.Println("what the log's reader hears:", dial(http.DefaultClient, server.URL+"/ws?ticket="+stolen))
	// Output:
	// right order, a ticket in the log: false
	// wrong order, a ticket in the log: true
	// what the log's reader hears: hello ada
}

// What begins with no tag that net/http knows is served as plain text.
func TestPagesAreHTML(t *testing.T) {
	app, err := newApp(filepath.Join(t.TempDir(), "auth.log"))
	require.NoError(t, err)
	answer := httptest.NewRecorder()
	app.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/login", nil))
	require.Equal(t, "text/html; charset=utf-8", answer.Header().Get("Content-Type"))
}

// The README's program is newApp, and it builds.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, program, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "README.md has no Go block")
	program, _, _ = strings.Cut(program, "```\n")
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	require.Equal(t, function(t, string(example), "newApp"), function(t, program, "newApp"))

	main := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(main, []byte(program), 0o600))
	out, err := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "main"), main).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// function cuts a function's text, comment included, out of a file's.
func function(t *testing.T, source, name string) string {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", source, parser.ParseComments)
	require.NoError(t, err)
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
			return source[files.Position(f.Doc.Pos()).Offset:files.Position(f.End()).Offset]
		}
	}
	require.Fail(t, "no function "+name)
	return ""
}

// quiet keeps the examples' audit out of their output.
var quiet = audit.New(slog.DiscardHandler)

// hello is a socket that greets whoever the guard let in.
func hello(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	session, _ := middleware.SessionFrom(r.Context())
	_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
	_ = conn.Close(websocket.StatusNormalClosure, "")
}

func accessLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("access log:", r.Method, r.RequestURI)
		next.ServeHTTP(w, r)
	})
}

// dial opens a socket and returns the first message that comes, or how it was
// refused.
func dial(client *http.Client, url string) string {
	conn, response, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{HTTPClient: client})
	if err != nil && response != nil {
		return fmt.Sprint("refused: ", response.StatusCode)
	}
	check(err)
	defer conn.CloseNow()
	_, message, err := conn.Read(context.Background())
	check(err)
	return string(message)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func text(r *http.Response) string {
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	check(err)
	return string(b)
}

func closeReason(err error) string {
	var closed websocket.CloseError
	errors.As(err, &closed)
	return closed.Reason
}
