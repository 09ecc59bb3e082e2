package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/ticketgate/ticketgate/middleware"
)

// The pages of a dashboard are for people who have signed in; the sign-in page
// and the stylesheets are for everybody.
func ExampleGate() {
	sessions := middleware.CookieSessions("sid",
		func(_ context.Context, value string) (*middleware.Session, error) {
			if value != "the-value-of-anns-cookie" {
				return nil, middleware.ErrNoSession
			}
			return &middleware.Session{ID: "s1", Provider: "oidc", UserID: "ann"}, nil
		})
	gate, err := middleware.NewGate(sessions, &middleware.GateOptions{
		LoginURL: "/in",
		Public:   []string{"/static/"},
	})
	check(err)

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if s, ok := middleware.SessionFrom(r.Context()); ok {
			fmt.Fprintf(w, "hello, %s", s.UserID)
			return
		}
		fmt.Fprint(w, "hello, stranger")
	})
	app := gate.Wrap(mux)

	ask := func(path, accept, cookie string) {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Location")+w.Body.String())
	}
	ask("/reports?year=2026", "text/html", "")
	ask("/api/reports", "application/json", "")
	ask("/static/style.css", "text/css", "")
	ask("/static/../reports", "text/css", "")
	ask("/reports", "text/html", "sid=the-value-of-anns-cookie")
	// Output:
	// 302 /in?next=%2Freports%3Fyear%3D2026
	// 401 {"error":"unauthenticated","detail":"Unauthorized","reason":"no_session","login_url":"/in"}
	// 200 hello, stranger
	// 401 {"error":"unauthenticated","detail":"Unauthorized","reason":"no_session","login_url":"/in"}
	// 200 hello, ann
}

// An application with its own framework asks for the decision, and answers by
// itself.
func ExampleGate_Authenticate() {
	gate, err := middleware.NewGate(middleware.BearerSessions(
		func(_ context.Context, token string) (*middleware.Session, error) {
			return nil, errors.New("session store: connection refused")
		}), nil)
	check(err)

	handle := func(w http.ResponseWriter, r *http.Request) {
		s, rej := gate.Authenticate(w, r)
		if rej != nil {
			rej.ServeHTTP(w, r)
			return
		}
		fmt.Fprintln(w, s.UserID)
	}

	r := httptest.NewRequest("GET", "/api/reports", nil)
	r.Header.Set("Authorization", "Bearer c2Vzc2lvbg")
	w := httptest.NewRecorder()
	handle(w, r)
	fmt.Println(w.Code, w.Header().Get("Retry-After"), w.Body)
	// Output: 503 2 {"error":"unavailable","detail":"Service Unavailable"}
}

// The application's own table of sessions stands behind the cookie. What is not
// in it is no session; what cannot be asked is an error, and signs nobody out.
func ExampleCookieSessions() {
	type row struct {
		user string
		end  time.Time
	}
	table := map[string]row{"c29tZXRoaW5nIHJhbmRvbQ": {"ann", time.Now().Add(time.Hour)}}

	sessions := middleware.CookieSessions("sid",
		func(_ context.Context, value string) (*middleware.Session, error) {
			found, ok := table[value]
			if !ok {
				return nil, middleware.ErrNoSession
			}
			return &middleware.Session{ID: value, UserID: found.user, ExpiresAt: found.end}, nil
		})

	for _, cookie := range []string{"", "sid=c29tZXRoaW5nIHJhbmRvbQ", "sid=guessed"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", cookie)
		s, err := sessions.Authenticate(httptest.NewRecorder(), r)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(s.UserID)
	}
	// Output:
	// no session
	// ann
	// session invalid or expired
}

func ExampleBearerSessions() {
	lookup := func(_ context.Context, token string) (*middleware.Session, error) {
		if token != "mF_9.B5f-4.1JqM" {
			return nil, middleware.ErrNoSession
		}
		return &middleware.Session{ID: "s1", UserID: "a-script"}, nil
	}
	sessions := middleware.BearerSessions(lookup)
	for _, authorization := range []string{
		"Bearer mF_9.B5f-4.1JqM", "Bearer guessed", "Basic YW5uOnNlY3JldA==",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", authorization)
		s, err := sessions.Authenticate(httptest.NewRecorder(), r)
		fmt.Println(s != nil, err)
	}
	// Output:
	// true <nil>
	// false session invalid or expired
	// false no session
}

// People come with a cookie, scripts with a token. While the one session store
// is down, those whom the other knows still come in.
func ExampleFirstOf() {
	cookies := middleware.CookieSessions("sid",
		func(context.Context, string) (*middleware.Session, error) {
			return nil, errors.New("session store: connection refused")
		})
	tokens := middleware.BearerSessions(func(context.Context, string) (*middleware.Session, error) {
		return &middleware.Session{ID: "s1", UserID: "a-script"}, nil
	})
	sessions := middleware.FirstOf(cookies, tokens)

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "sid=x")
	_, err := sessions.Authenticate(httptest.NewRecorder(), r)
	fmt.Println(err)

	r.Header.Set("Authorization", "Bearer mF_9.B5f-4.1JqM")
	s, err := sessions.Authenticate(httptest.NewRecorder(), r)
	fmt.Println(s.UserID, err)
	// Output:
	// session store: connection refused
	// a-script <nil>
}

// An application that signs people in by itself says so in the context; the
// gate takes its word.
func ExampleContextSessions() {
	gate, err := middleware.NewGate(middleware.ContextSessions, nil)
	check(err)
	page := gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := middleware.SessionFrom(r.Context())
		fmt.Fprint(w, "hello, ", s.UserID)
	}))
	signIn := func(next http.Handler) http.Handler { // stands for the application's own middleware
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, ok := r.BasicAuth()
			if ok && user == "ann" && password == "correct horse" {
				s := &middleware.Session{ID: "s1", UserID: user}
				r = r.WithContext(middleware.WithSession(r.Context(), s))
			}
			next.ServeHTTP(w, r)
		})
	}

	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	signIn(page).ServeHTTP(w, r)
	fmt.Println(w.Code)

	r.SetBasicAuth("ann", "correct horse")
	w = httptest.NewRecorder()
	signIn(page).ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output:
	// 401
	// 200 hello, ann
}

// A handler behind a gate is tested without one: put a session into the context.
func ExampleWithSession() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := middleware.SessionFrom(r.Context())
		if !ok {
			http.Error(w, "nobody", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, s.UserID)
	})

	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	session := &middleware.Session{ID: "s1", UserID: "ann"}
	handler.ServeHTTP(w, r.WithContext(middleware.WithSession(r.Context(), session)))
	fmt.Println(w.Code, w.Body)
	// Output: 200 ann
}

// Behind a proxy that ends TLS every peer is the proxy. The addresses of one's
// own proxies are trusted to say who was there before them, and nobody else is.
func ExampleForwardedFor() {
	clientIP := middleware.ForwardedFor(netip.MustParsePrefix("10.0.0.0/8"))

	r := httptest.NewRequest("GET", "/", nil)
	// The client made up the first.
	r.Header.Set("X-Forwarded-For", "8.8.8.8, 203.0.113.9, 10.0.0.2")
	r.RemoteAddr = "10.0.0.1:50000"
	fmt.Println(clientIP(r))

	r.RemoteAddr = "198.51.100.7:50000" // somebody who comes around the proxies
	fmt.Println(clientIP(r))
	// Output:
	// 203.0.113.9
	// 198.51.100.7
}

// The sign-in handler sends people back to where they wanted to go, and nobody
// to where somebody else wants them to go.
func ExampleNext() {
	signIn := func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		// … check the password, set the cookie …
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	}
	for _, next := range []string{
		"/reports?year=2026", "https://evil.example/", "//evil.example/", `/\evil.example/`,
	} {
		r := httptest.NewRequest("POST", "/login", strings.NewReader("next="+url.QueryEscape(next)))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		signIn(w, r)
		fmt.Println(w.Header().Get("Location"))
	}
	// Output:
	// /reports?year=2026
	// /
	// /
	// /
}

// An OnReject adds to the answer, or gives another one. What went wrong
// underneath is for the operator.
func ExampleRejection() {
	lookup := func(context.Context, string) (*middleware.Session, error) {
		return nil, errors.New("session store: connection refused")
	}
	answer := func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
		if rej.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "30")
			http.Error(w, "We are looking into it.", rej.Status)
			fmt.Println("page the operator:", rej.Err)
			return
		}
		rej.ServeHTTP(w, r)
	}
	gate, err := middleware.NewGate(middleware.CookieSessions("sid", lookup),
		&middleware.GateOptions{OnReject: answer})
	check(err)
	srv := httptest.NewServer(gate.Wrap(http.NotFoundHandler()))
	defer srv.Close()

	for _, cookie := range []string{"", "sid=x"} {
		r, err := http.NewRequest("GET", srv.URL, nil)
		check(err)
		r.Header.Set("Cookie", cookie)
		res, err := srv.Client().Do(r)
		check(err)
		fmt.Println(res.StatusCode, strings.TrimSpace(text(res)))
	}
	// Output:
	// 401 {"error":"unauthenticated","detail":"Unauthorized","reason":"no_session"}
	// page the operator: session store: connection refused
	// 503 We are looking into it.
}
