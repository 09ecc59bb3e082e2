// Command example is one server of an application that runs on several, over one PostgreSQL:
//
//	go run . -addr localhost:8080 -audit auth-1.log
//	go run . -addr localhost:8081 -audit auth-2.log
//
// Sign in on either. A ticket of one server is valid on the other, and a sign-out on one closes the
// sockets on both.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/pgstore"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "where to listen")
	auditFile := flag.String("audit", "auth.log", "audit file of this process, and of no other")
	url := flag.String("postgres", "postgres://app@localhost/app", "the PostgreSQL of all servers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *auditFile, *url); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, addr, auditFile, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	// The error says what is missing. Leave CreateTables out if a migration runs pgstore.DDL.
	store, err := pgstore.New(ctx, pool, &pgstore.Options{CreateTables: true})
	if err != nil {
		return err
	}
	issuer, err := tickets.NewIssuer(store, &tickets.IssuerOptions{MaxStaleness: time.Minute})
	if err != nil {
		return err
	}
	defer issuer.Close() // publishes what could not be published before
	events, err := audit.OpenFile(auditFile, nil)
	if err != nil {
		return err
	}
	defer events.Close()
	shared := sessions{pool}
	if err := shared.create(ctx); err != nil {
		return err
	}
	guard, err := middleware.NewGuard(issuer, &middleware.GuardOptions{
		Audit: events, OnReject: middleware.RejectByClosing, // a page can read a close code
	})
	if err != nil {
		return err
	}
	handler, err := routes(issuer, guard, events, shared)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: addr, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(guard.Sockets().Shutdown(ctx), server.Shutdown(ctx))
}

func routes(
	issuer *tickets.Issuer, guard *middleware.Guard, events *audit.Log, shared sessions,
) (http.Handler, error) {
	cookie := middleware.CookieSessions("session", shared.find)
	gate, err := middleware.NewGate(cookie,
		&middleware.GateOptions{LoginURL: "/login", Audit: events})
	mint, err2 := middleware.NewMint(issuer, &middleware.MintOptions{Audit: events})
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	sameOrigin := http.NewCrossOriginProtection()
	mux := http.NewServeMux()
	mux.Handle("/api/auth/ws-ticket", gate.Wrap(mint))
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(hello)))
	mux.Handle("GET /{$}", gate.Wrap(html(page)))
	mux.Handle("GET /login", html(login))
	mux.Handle("POST /login", sameOrigin.Handler(signIn(shared)))
	mux.Handle("POST /logout", sameOrigin.Handler(gate.Wrap(signOut(shared, issuer))))
	// The load balancer's readiness probe: no sockets to a server that would refuse them.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := issuer.Health()
		if err != nil {
			log.Print(err) // alert on any error
		}
		if errors.Is(err, tickets.ErrStale) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return mux, nil
}

func signIn(shared sessions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		if err := shared.add(r.Context(), id, r.FormValue("user")); err != nil {
			http.Error(w, "no session store", http.StatusServiceUnavailable)
			return
		}
		http.SetCookie(w, &http.Cookie{
			Name: "session", Value: id, Path: "/", HttpOnly: true, Secure: true,
			SameSite: http.SameSiteLaxMode,
		})
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	})
}

func signOut(shared sessions, issuer *tickets.Issuer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		// First your own session store, then every socket, on every server.
		err := shared.remove(r.Context(), session.ID)
		logout := tickets.Revocation{SessionID: session.ID, Reason: "logout"}
		if err := errors.Join(err, issuer.Revoke(r.Context(), logout)); err != nil {
			log.Print(err) // a revocation is in force here, and published when it can be
		}
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	})
}

// hello is the socket. Any WebSocket library will do.
func hello(w http.ResponseWriter, r *http.Request) {
	session, _ := middleware.SessionFrom(r.Context())
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello "+session.UserID))
	_, _, _ = conn.Read(r.Context())
}

// sessions are the application's own. All servers share them: a page may load from one and open its
// socket on another.
type sessions struct{ pool *pgxpool.Pool }

const lifetime = 12 * time.Hour

// create makes the table. Two servers may start at once, and IF NOT EXISTS is no lock.
func (s sessions) create(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(20260527)`)
		if err == nil {
			_, err = tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS sessions (
				id text PRIMARY KEY, username text NOT NULL, started timestamptz NOT NULL)`)
		}
		return err
	})
}

func (s sessions) add(ctx context.Context, id, user string) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO sessions VALUES ($1, $2, now())`, id, user)
	return err
}

func (s sessions) find(ctx context.Context, id string) (*middleware.Session, error) {
	found := &middleware.Session{ID: id}
	err := s.pool.QueryRow(ctx, `SELECT username, started FROM sessions WHERE id = $1`, id).
		Scan(&found.UserID, &found.StartedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, middleware.ErrNoSession
	}
	found.ExpiresAt = found.StartedAt.Add(lifetime)
	return found, err // 503 for an error: nobody is signed out because PostgreSQL is down
}

func (s sessions) remove(ctx context.Context, id string) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, id)
	return err
}

func html(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, text)
	})
}

const login = `<!doctype html><form method=post><input name=user> <button>Sign in</button></form>`

const page = `<!doctype html>
<form method=post action=/logout><button>Sign out</button></form><pre id=log></pre>
<script type=module>
const { ticket } = await (await fetch('/api/auth/ws-ticket', { method: 'POST' })).json()
const socket = new WebSocket('/ws?ticket=' + ticket)
socket.onmessage = message => log.append(message.data + '\n')
socket.onclose = close => log.append('closed: ' + close.code + ' ' + close.reason)
</script>`
