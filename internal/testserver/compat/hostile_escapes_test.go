package compat

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/assert"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A needless escape in a path leads chi, echo, and gin with UseRawPath, which
// match RawPath, to another route than the one that is public, or that a ticket
// is for (HOSTILE G26, W30). ServeMux is here for comparison.
func TestNeedlessEscapesAndRouters(t *testing.T) {
	route := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Route", name)
		})
	}
	// Names of routes by their pattern; the routers write a variable as they do.
	routes := map[string]string{
		"/static/*": "static", "/{a}/admin": "admin", "/login": "login",
		"/{a}": "tenant", "/über": "über",
	}
	sockets := map[string]string{"/ws/chat": "chat", "/ws/{b}": "shell"}
	for name, build := range map[string]func(guard func(http.Handler) http.Handler) http.Handler{
		"ServeMux": func(guard func(http.Handler) http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/static/", route("static"))
			mux.Handle("/login", route("login"))
			mux.Handle("/{a}", route("tenant"))
			mux.Handle("/über", route("über"))
			for p, n := range sockets {
				mux.Handle(p, guard(route(n)))
			}
			return mux
		},
		"chi": func(guard func(http.Handler) http.Handler) http.Handler {
			r := chi.NewRouter()
			for p, n := range routes {
				r.Handle(p, route(n))
			}
			for p, n := range sockets {
				r.With(guard).Handle(p, route(n))
			}
			return r
		},
		"echo": func(guard func(http.Handler) http.Handler) http.Handler {
			e := echo.New()
			for p, n := range routes {
				e.Any(colons(p), echo.WrapHandler(route(n)))
			}
			for p, n := range sockets {
				e.Any(colons(p), echo.WrapHandler(route(n)), echo.WrapMiddleware(guard))
			}
			return e
		},
		"gin": func(guard func(http.Handler) http.Handler) http.Handler {
			r := gin.New()
			r.UseRawPath = true
			for p, n := range routes {
				if p == "/static/*" {
					p += "file"
				}
				r.Any(colons(p), gin.WrapH(route(n)))
			}
			for p, n := range sockets {
				r.Any(colons(p), ginWrap(guard), gin.WrapH(route(n)))
			}
			return r
		},
	} {
		d := newDoors(everybody, doorOptions{
			gate:  middleware.GateOptions{LoginURL: "/login", Public: []string{"/static/", "/ws/"}},
			guard: middleware.GuardOptions{RequireEndpoint: true, AdmitRequests: true},
		})
		server := httptest.NewServer(d.gate.Wrap(build(d.guard.Wrap)))
		reached := func(target string) string {
			status, header, _ := rawTo(t, server, request("GET", target))
			assert.Equal(t, status == http.StatusOK, header.Get("X-Route") != "", target)
			return header.Get("X-Route")
		}
		for target, want := range map[string]string{
			"/login": "login", "/static/a.png": "static", "/static/a%40b.png": "static",
			"/static/a(1).png": "static", "/static/%C3%BC.png": "static",
			"/static/%c3%bc.png": "static", "/acme": "", "/de/admin": "", "/st%61tic/admin": "",
			"/log%69n": "", "/%6cogin": "", "/%6Cogin": "",
			"/static%2fadmin": "", "/static/%252e%252e/x": "", "/st%2561tic/admin": "",
		} {
			assert.Equal(t, want, reached(target), "%s: %s", name, target)
		}
		for target, want := range map[string]string{
			"/ws/chat": "chat", "/ws/ch%61t": "", "/ws/%63hat": "", "/ws/shell": "",
			"/w%73/chat": "", "/ws/ch%2561t": "",
		} {
			ticket := must(d.issuer.Mint(t.Context(),
				tickets.Grant{SessionID: "1", UserID: "ann", Endpoint: "/ws/chat"}))
			assert.Equal(t, want, reached(target+"?ticket="+string(ticket)), "%s: %s", name, target)
		}
		server.Close()
	}
}

// colons writes {a} as echo and gin do.
func colons(pattern string) string {
	b := make([]byte, 0, len(pattern))
	for _, c := range []byte(pattern) {
		switch c {
		case '{':
			b = append(b, ':')
		case '}':
		default:
			b = append(b, c)
		}
	}
	return string(b)
}
