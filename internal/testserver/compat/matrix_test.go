package compat

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/felixge/httpsnoop"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	gorilla "github.com/gorilla/websocket"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// A router is one of the recipes, with the log that people use with it, and bare
// routes of the same kind, for the doors to stand around the whole of it.
type router struct {
	name  string
	doors func(d doors, log *logFile, socket http.Handler) http.Handler
	bare  func(d doors, log *logFile, socket http.Handler) http.Handler
}

var routers = []router{
	{
		"ServeMux",
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			return muxRouter(d.gate, d.mint, d.guard, snooping(log), socket)
		},
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/api/auth/ws-ticket", d.mint)
			mux.HandleFunc("/hello/{name}", func(w http.ResponseWriter, r *http.Request) {
				greet(w, r, r.PathValue("name"))
			})
			mux.Handle("/ws/{room}", socket)
			return snooping(log)(mux)
		},
	},
	{
		"chi",
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			return chiRouter(d.gate, d.mint, d.guard, chiLog(log), socket)
		},
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(chiLog(log))
			r.Handle("/api/auth/ws-ticket", d.mint)
			r.Get("/hello/{name}", func(w http.ResponseWriter, r *http.Request) {
				greet(w, r, chi.URLParam(r, "name"))
			})
			r.Handle("/ws/{room}", socket)
			return r
		},
	},
	{
		"gin",
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			return ginRouter(d.gate, d.mint, d.guard, gin.LoggerWithWriter(log), socket)
		},
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			r := gin.New()
			r.Use(gin.LoggerWithWriter(log))
			r.Any("/api/auth/ws-ticket", gin.WrapH(d.mint))
			r.GET("/hello/:name", func(c *gin.Context) {
				greet(c.Writer, c.Request, c.Param("name"))
			})
			r.GET("/ws/:room", gin.WrapH(socket))
			return r
		},
	},
	{
		"echo",
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			return echoRouter(d.gate, d.mint, d.guard, echoLog(log), socket)
		},
		func(d doors, log *logFile, socket http.Handler) http.Handler {
			e := echo.New()
			e.Use(echoLog(log))
			e.Any("/api/auth/ws-ticket", echo.WrapHandler(d.mint))
			e.GET("/hello/:name", func(c echo.Context) error {
				greet(c.Response(), c.Request(), c.Param("name"))
				return nil
			})
			e.GET("/ws/:room", echo.WrapHandler(socket))
			return e
		},
	},
}

func greet(w http.ResponseWriter, r *http.Request, name string) {
	session, _ := middleware.SessionFrom(r.Context())
	fmt.Fprint(w, session.UserID, " greets ", name)
}

// snooping is an access log made with httpsnoop.
func snooping(out *logFile) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m := httpsnoop.CaptureMetrics(next, w, r)
			fmt.Fprintln(out, r.Method, r.RequestURI, m.Code, m.Written)
		})
	}
}

// chiLog is chi's middleware.Logger, but for where it writes.
func chiLog(out *logFile) func(http.Handler) http.Handler {
	return chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{
		Logger: log.New(out, "", 0), NoColor: true})
}

func echoLog(out *logFile) echo.MiddlewareFunc {
	return echomiddleware.RequestLoggerWithConfig(echomiddleware.RequestLoggerConfig{
		LogMethod: true, LogURI: true, LogStatus: true,
		LogValuesFunc: func(_ echo.Context, v echomiddleware.RequestLoggerValues) error {
			fmt.Fprintln(out, v.Method, v.URI, v.Status)
			return nil
		},
	})
}

// TestMatrix sends strangers and people through every router to every library:
// with the doors where the recipes have them and around the whole, refusing in
// HTTP and by closing, over plain HTTP/1.1 and over TLS (where everything but
// the socket is HTTP/2).
func TestMatrix(t *testing.T) {
	backend := httptest.NewServer(libraries[0].echo)
	defer backend.Close()
	proxied := library{"ReverseProxy", proxySocket(must(url.Parse(backend.URL))), nil}
	sockets := append([]library{proxied}, libraries...)

	for _, router := range routers {
		for _, whole := range []bool{false, true} {
			for _, lib := range sockets {
				for _, tls := range []bool{false, true} {
					for _, closing := range []bool{false, true} {
						name := fmt.Sprintf("%s/whole=%t/%s/tls=%t/closing=%t",
							router.name, whole, lib.name, tls, closing)
						t.Run(name, func(t *testing.T) {
							cell{router, whole, lib, tls, closing}.run(t)
						})
					}
				}
			}
		}
	}
}

type cell struct {
	router             router
	whole              bool
	lib                library
	tls, rejectClosing bool
}

func (c cell) run(t *testing.T) {
	var handled atomic.Int32
	saw := make(chan string, 2)
	socket := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handled.Add(1)
		session, _ := middleware.SessionFrom(r.Context())
		saw <- session.UserID + " at " + r.URL.String() + " " + r.RequestURI + fmt.Sprint(r.Header)
		c.lib.echo.ServeHTTP(w, r)
	})
	log, events := &logFile{}, &lines{}
	o := doorOptions{audit: events}
	if c.rejectClosing {
		o.guard.OnReject = middleware.RejectByClosing
	}
	var handler http.Handler
	var d doors
	if c.whole {
		o.guard.PassOthers = true
		d = newDoors(middleware.FirstOf(middleware.ContextSessions, everybody), o)
		handler = wholeRouter(d.guard, d.gate, c.router.bare(d, log, socket))
	} else {
		d = newDoors(everybody, o)
		handler = c.router.doors(d, log, socket)
	}
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = c.tls
	if c.tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	defer server.Close()
	refused, foreign := "refused: 401", "refused: 403"
	if c.rejectClosing {
		refused, foreign = "closed: 4401 ticket_rejected", "closed: 4403 forbidden"
	}

	page := newVisitor(server)
	require.Equal(t, 401, page.get("/hello/bob").status)
	require.Empty(t, page.ticket())
	require.Equal(t, refused, page.hear("/ws/7"))
	require.Equal(t, refused, page.hear("/ws/7?ticket="+strings.Repeat("A", 43)))
	elsewhere := &visitor{base: page.base, origin: "https://elsewhere.example", http: page.http}
	require.Equal(t, foreign, elsewhere.hear("/ws/7?ticket="+strings.Repeat("A", 43)))

	page.setCookie("session", "ann")
	require.Equal(t, "ann greets bob", page.get("/hello/bob").text)
	ticket := page.ticket()
	require.Len(t, ticket, 43)
	require.Zero(t, handled.Load(), "a socket's handler ran for nobody")

	conn, _, err := page.dial("/ws/7?lang=en&ticket=" + ticket)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.WriteMessage(gorilla.TextMessage, []byte("echo me")))
	_, message, err := conn.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "echo me", string(message))
	seen := <-saw
	require.Contains(t, seen, "ann at /ws/7?lang=en /ws/7?lang=en")
	require.NotContains(t, seen, ticket)
	require.Equal(t, refused, page.hear("/ws/7?ticket="+ticket), "a replay")

	unused := page.ticket()
	require.Equal(t, 200, page.get("/hello/bob?ticket="+unused).status, "where no ticket belongs")
	idle, _, err := page.dial("/ws/8?ticket=" + page.ticket())
	require.NoError(t, err)
	defer idle.Close()
	eventually(t, "the second hijack", func() bool { return d.guard.Sockets().Len() == 2 })
	require.NoError(t, d.issuer.Revoke(context.Background(),
		tickets.Revocation{SessionID: "session-of-ann"}))
	requireClosed(t, conn, 4401, "session_revoked")
	requireClosed(t, idle, 4401, "session_revoked")
	require.NoError(t, d.guard.Sockets().Shutdown(t.Context()))
	require.EqualValues(t, 2, handled.Load())
	// The write that opens a socket records it once it is done, whatever ends it.
	eventually(t, "both lines", func() bool { return len(events.of("ws_opened")) == 2 })
	require.Len(t, events.of("ws_closed"), 2)

	eventually(t, "the socket's line in the access log",
		func() bool { return strings.Contains(log.String(), "/ws/7") })
	require.NotContains(t, log.String(), ticket)
	require.NotContains(t, log.String(), unused)
}
