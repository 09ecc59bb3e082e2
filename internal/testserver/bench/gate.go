package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/go-chi/jwtauth/v5"
	"github.com/gorilla/sessions"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
)

const (
	copyName    = "shallow copy of the request"
	gorillaName = "gorilla/sessions v1.4.0"
	jwtauthName = "chi/jwtauth v5.3.3"
	scsGateName = "scs v2.9.0 LoadAndSave"
	user        = "0123456789abcdef"
)

// opaque keeps the compiler from seeing who is behind a handler: it would put the copy of the
// request on the stack, which it cannot in any program that chains handlers.
var opaque http.Handler

// A door lets in who has its cookie.
type door struct {
	name   string
	wrap   func(http.Handler) http.Handler
	user   func(*http.Request) string // who it is, as the handler behind the door asks
	cookie string
}

func doors() []door {
	return []door{ourDoor(), scsDoor(), gorillaDoor(), jwtauthDoor()}
}

func ourDoor() door {
	value := strings.Repeat("c", 43)
	known := &middleware.Session{
		ID: value, Provider: "oidc", UserID: user, ExpiresAt: time.Now().Add(time.Hour)}
	byCookie := map[string]*middleware.Session{value: known}
	lookUp := func(_ context.Context, value string) (*middleware.Session, error) {
		return byCookie[value], nil
	}
	gate := must(middleware.NewGate(middleware.CookieSessions("session", lookUp),
		&middleware.GateOptions{LoginURL: "/login", Public: []string{"/static/"},
			Audit: audit.New(slog.DiscardHandler)}))
	return door{ours, gate.Wrap, func(r *http.Request) string {
		s, _ := middleware.SessionFrom(r.Context())
		return s.UserID
	}, "session=" + value}
}

func scsDoor() door {
	m := scs.New()
	m.Store = memstore.NewWithCleanupInterval(0)
	ctx := must(m.Load(context.Background(), ""))
	m.Put(ctx, "user", user)
	value, _, err := m.Commit(ctx)
	if err != nil {
		panic(err)
	}
	get := func(r *http.Request) string { return m.GetString(r.Context(), "user") }
	return door{scsGateName, func(next http.Handler) http.Handler {
		return m.LoadAndSave(refuseUnless(get, next))
	}, get, m.Cookie.Name + "=" + value}
}

func gorillaDoor() door {
	store := sessions.NewCookieStore([]byte(strings.Repeat("k", 32)))
	get := func(r *http.Request) string {
		s, _ := store.Get(r, "session")
		user, _ := s.Values["user"].(string)
		return user
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	s, _ := store.Get(r, "session")
	s.Values["user"] = user
	if err := s.Save(r, w); err != nil {
		panic(err)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return door{gorillaName, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// It writes into the request, and here the same one comes again.
			refuseUnless(get, next).ServeHTTP(w, r.WithContext(r.Context()))
		})
	}, get, cookie}
}

func jwtauthDoor() door {
	auth := jwtauth.New("HS256", []byte(strings.Repeat("k", 32)), nil)
	_, value, err := auth.Encode(map[string]any{"user": user, "exp": time.Now().Add(time.Hour)})
	if err != nil {
		panic(err)
	}
	return door{jwtauthName, func(next http.Handler) http.Handler {
		return jwtauth.Verifier(auth)(jwtauth.Authenticator(auth)(next))
	}, func(r *http.Request) string {
		_, claims, _ := jwtauth.FromContext(r.Context())
		user, _ := claims["user"].(string)
		return user
	}, "jwt=" + value}
}

func refuseUnless(user func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user(r) == "" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// check sees that a door lets in who has the cookie, and only them.
func (d *door) check() {
	who := "nobody"
	h := d.wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who = d.user(r) }))
	r := httptest.NewRequest("GET", "/dashboard", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if who != "nobody" {
		panic(d.name + " lets everybody in")
	}
	r.Header.Set("Cookie", d.cookie)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if who != user {
		panic(fmt.Sprintf("%s says that %q came in", d.name, who))
	}
}

// nowhere is a ResponseWriter that costs nothing but its header.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}

func gateRow(r *report) {
	reached := 0
	opaque = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ })
	next := opaque
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, 1)
	calls := func(h http.Handler, cookie string) func(n int) {
		w, req := &nowhere{make(http.Header)}, httptest.NewRequest("GET", "/dashboard", nil)
		req.Header.Set("Cookie", cookie)
		return func(n int) {
			before := reached
			for range n {
				clear(w.header)
				h.ServeHTTP(w, req)
			}
			if reached-before != n {
				panic(fmt.Sprintf("%d of %d came in", reached-before, n))
			}
		}
	}
	all := doors()
	floor := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opaque.ServeHTTP(w, r.WithContext(ctx))
	})
	// A copy of a request is little but an allocation, of which the collection is half the cost:
	// there are some in every turn of these two.
	things := []thing{{name: copyName, batch: true, do: calls(floor, all[0].cookie)}}
	for _, d := range all {
		d.check()
		things = append(things, thing{name: d.name, batch: d.name == ours,
			do: calls(d.wrap(next), d.cookie)})
	}
	t := r.inTurns(6*time.Second, r.many(50_000), things...)
	t.print(r, "gate pass, in process")
	r.atMost("gate pass with CookieSessions and a map look-up, in process, "+
		"against a shallow copy of the request", t.ratio(ours, copyName), 2.5, "%.2f")
	for _, name := range []string{jwtauthName, scsGateName} {
		share := t.ratio(ours, name)
		r.goal("the same, against "+name, "≤ 1/25", fmt.Sprintf("1/%.1f", 1/share),
			share <= 1.0/25)
	}
}

// loopbackRow is requests over one connection each, to servers that have a door or none.
func loopbackRow(r *report) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})
	var things []thing
	none := door{name: "no gate", cookie: ourDoor().cookie,
		wrap: func(h http.Handler) http.Handler { return h }}
	for _, d := range append([]door{none}, doors()...) {
		server := httptest.NewServer(d.wrap(ok))
		defer server.Close()
		conn := must(net.Dial("tcp", server.Listener.Addr().String()))
		defer conn.Close()
		request := "GET /dashboard HTTP/1.1\r\nHost: app.example\r\n" +
			"Cookie: " + d.cookie + "\r\n\r\n"
		in := bufio.NewReader(conn)
		things = append(things, thing{name: d.name, do: repeat(func() {
			_, _ = io.WriteString(conn, request)
			res := must(http.ReadResponse(in, nil))
			if body := must(io.ReadAll(res.Body)); string(body) != "ok" {
				panic(fmt.Sprintf("%s: %s %q", d.name, res.Status, body))
			}
		})})
	}
	t := r.inTurns(8*time.Second, 50, things...)
	t.print(r, "gate pass, over loopback")
	r.atMost("gate pass, over loopback, against no gate", t.ratio(ours, "no gate"), 1.10, "%.2f")
}
