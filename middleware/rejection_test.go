package middleware_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// rawAnswers sends request, and another one behind it, and returns all that the
// server sends until it closes the connection.
func rawAnswers(t *testing.T, h http.Handler, request string) string {
	t.Helper()
	conn := begin(t, serve(t, h), request+get("/next", "Connection: close"))
	raw, _ := io.ReadAll(conn) // a connection that is closed with unread bytes is reset
	return string(raw)
}

// connectionLines are the values of the Connection lines of the first answer.
func connectionLines(raw string) (values []string) {
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if value, ok := strings.CutPrefix(line, "Connection: "); ok {
			values = append(values, value)
		}
	}
	return values
}

// A proxy may forward what follows an upgrade without waiting for the 101: none
// of it is served behind a refusal (HOSTILE W32). net/http closes only where the
// first Connection line is exactly "close".
func TestGuard_RefusalClosesConnection(t *testing.T) {
	var reached []string
	for name, opts := range map[string]middleware.GuardOptions{
		"default": {},
		"OnReject": {OnReject: func(
			w http.ResponseWriter, r *http.Request, rej *middleware.Rejection,
		) {
			assert.Equal(t, "close", w.Header().Get("Connection"))
			http.Error(w, rej.Reason, rej.Status)
		}},
		"RejectByClosing": {OnReject: middleware.RejectByClosing},
		"AdmitRequests":   {AdmitRequests: true},
		"PassOthers":      {PassOthers: true},
	} {
		b := newBed(t, opts)
		h := b.guard.Wrap(accepts)
		both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/next" {
				reached = append(reached, name)
			}
			h.ServeHTTP(w, r)
		})
		for _, tc := range refusals {
			if tc.only == "tls" || tc.code == "" || len(tc.request) > 4096 {
				continue
			}
			if tc.name == "plain GET" && (name == "PassOthers" || name == "AdmitRequests") {
				continue // passed on, and admitted
			}
			raw := rawAnswers(t, both, b.fill(t).Replace(tc.request))
			require.NotEmpty(t, raw, "%s: %s", name, tc.name)
			assert.Empty(t, reached, "%s: %s (%s)", name, tc.name, tc.source)
			if strings.Contains(raw, " 101 ") { // RejectByClosing
				continue
			}
			want := []string{"close"}
			if strings.HasPrefix(raw, "HTTP/1.1 426 ") && name != "OnReject" {
				want = []string{"close", "Upgrade"}
			}
			assert.Equal(t, want, connectionLines(raw), "%s: %s", name, tc.name)
		}
	}
}

// An upgrade may be refused by the handler, after its ticket was consumed.
func TestGuard_RefusalOfTheHandlerClosesConnection(t *testing.T) {
	refuses := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	})
	target := must(url.Parse(serve(t, refuses).URL))
	for name, h := range map[string]http.Handler{
		"handler": refuses, "ReverseProxy": httputil.NewSingleHostReverseProxy(target),
	} {
		b := newBed(t, middleware.GuardOptions{})
		raw := rawAnswers(t, b.guard.Wrap(h), upgrade("GET", "/ws?ticket="+b.mint(t)))
		assert.Equal(t, 1, strings.Count(raw, "HTTP/1.1 "), "%s: %s", name, raw)
		assert.True(t, strings.HasPrefix(raw, "HTTP/1.1 403 "), "%s: %s", name, raw)
		assert.Equal(t, []string{"close"}, connectionLines(raw), name)
	}
}

// A gate closes the connection behind a refused request that resembles an upgrade.
func TestGate_RefusedUpgradeClosesConnection(t *testing.T) {
	for name, onReject := range map[string]onReject{
		"default": nil,
		"OnReject": func(w http.ResponseWriter, _ *http.Request, rej *middleware.Rejection) {
			http.Error(w, rej.Reason, rej.Status)
		},
	} {
		gate, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", OnReject: onReject})
		for request, closes := range map[string]bool{
			upgrade("GET", "/ws"):                             true,
			upgrade("GET", "/ws", sid(deadCookie)):            true,
			upgrade("GET", "/ws", sid(downCookie)):            true,
			get("/ws", "Upgrade: h2c"):                        true,
			get("/ws", "Sec-WebSocket-Key: x"):                true,
			get("/ws", "Connection: Upgrade"):                 true,
			rawRequest("CONNECT", "/ws"):                      true,
			get("/a"):                                         false,
			get("/a", "Accept: text/html"):                    false,
			get("/a", "Connection: keep-alive"):               false,
			rawRequest("POST", "/api/a", "Content-Length: 0"): false,
		} {
			raw := rawAnswers(t, gate.Wrap(whoami), request)
			assert.Equal(t, closes, strings.Count(raw, "HTTP/1.1 ") == 1,
				"%s: %s\n%s", name, request, raw)
			if closes {
				assert.Equal(t, []string{"close"}, connectionLines(raw), "%s: %s", name, request)
			}
		}
	}
}

// RequireProtocol refuses a ticket in the query, and leaves it valid (OWASP ASVS
// 5.0, 14.2.1).
func TestRequireProtocol_TicketInTheQueryIs400(t *testing.T) {
	inQuery := refused(400, "bad_request", "query_ticket")
	for name, onReject := range map[string]onReject{
		"default": nil, "RejectByClosing": middleware.RejectByClosing,
	} {
		b := newBed(t, middleware.GuardOptions{RequireProtocol: true, OnReject: onReject})
		h := b.guard.Wrap(accepts)
		for place, srv := range map[string]http.Handler{
			"alone": h, "behind ConcealTicket": middleware.ConcealTicket(h),
		} {
			for _, tc := range []refusal{
				inQuery("valid", "", opening()),
				inQuery("empty", "", upgrade("GET", "/ws?ticket=")),
				inQuery("another's", "", upgrade("GET", "/ws?ticket=ST-1")),
				inQuery("escaped name", "", upgrade("GET", "/ws?%74icket={T}")),
				inQuery("beside one in the protocol", "",
					opening("Sec-WebSocket-Protocol: chat, ticket.{U}")),
				inQuery("two", "", upgrade("GET", ws+"&ticket={U}")),
				inQuery("from another origin", "", opening(evilOrigin)),
				inQuery("of another version", "", opening("Sec-WebSocket-Version: 8")),
			} {
				b.rec.Take()
				f := b.fill(t)
				a := send(t, serve(t, srv), f.Replace(tc.request))
				assert.Equal(t, tc.status, a.Status, "%s, %s: %s", name, place, tc.name)
				assert.Equal(t, errorBody(tc.status, tc.code), a.Body)
				assert.Contains(t, b.rec.Text(), strings.TrimSuffix(auditLine(tc, nil), "}\n"),
					tc.name)
				for _, ticket := range []string{"{T}", "{U}"} {
					_, err := b.issuer.Consume(t.Context(), tickets.Ticket(f.Replace(ticket)))
					assert.NoError(t, err,
						"%s, %s: %s: the ticket is consumed", name, place, tc.name)
				}
			}
			valid := upgrade("GET", "/ws?a=ticket", "Sec-WebSocket-Protocol: chat, ticket.{T}")
			a := send(t, serve(t, srv), b.fill(t).Replace(valid))
			assert.Equal(t, 101, a.Status, "%s, %s", name, place)
			a = send(t, serve(t, srv), get("/ws?ticket=a"))
			assert.Equal(t, 426, a.Status, "%s, %s: no upgrade", name, place)
		}
	}
	_, err := middleware.NewGuard(newIssuer(t),
		&middleware.GuardOptions{RequireProtocol: true, AdmitRequests: true})
	require.ErrorContains(t, err,
		"middleware.NewGuard: RequireProtocol and AdmitRequests are both set")
}

// fromFields answers as ServeHTTP does, from the exported fields alone.
func fromFields(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Cookie")
	if rej.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(rej.RetryAfter.Seconds())))
	}
	if rej.Allow != "" {
		h.Set("Allow", rej.Allow)
	}
	if rej.PageLoad && rej.LoginURL != "" {
		h.Set("Location", rej.LoginURL)
		w.WriteHeader(http.StatusFound)
		return
	}
	if rej.Status == http.StatusUpgradeRequired {
		h.Set("Upgrade", "websocket")
		h.Add("Connection", "Upgrade")
		if rej.Reason == "version" {
			h.Set("Sec-WebSocket-Version", "13")
		}
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(rej.Status)
	body, _ := json.Marshal(struct {
		Error    string `json:"error"`
		Detail   string `json:"detail"`
		Reason   string `json:"reason,omitempty"`
		LoginURL string `json:"login_url,omitempty"`
	}{rej.Code, http.StatusText(rej.Status), rej.BodyReason, rej.LoginURL})
	_, _ = w.Write(body)
}

// A Rejection that an application makes never panics. Without a Status it is no success.
func TestRejection_MadeByAnApplicationNeverPanics(t *testing.T) {
	type rejection = middleware.Rejection
	for _, c := range []struct {
		rej    rejection
		status int
		body   string
		retry  string
	}{
		{rejection{Status: 451, Code: "gone_fishing"}, 451, errorBody(451, "gone_fishing"), ""},
		{rejection{Status: 503, Code: "later", RetryAfter: 1}, 503, errorBody(503, "later"), "1"},
		{rejection{Status: 429, Code: "x", RetryAfter: 3 * time.Second / 2}, 429,
			errorBody(429, "x"), "2"},
		{rejection{Status: 400, Code: "</script>\"\r\n", Err: errors.New(secretMark)}, 400,
			`{"error":"\u003c/script\u003e\"\r\n","detail":"Bad Request"}`, ""},
		{rejection{Code: "x"}, 500, errorBody(500, "x"), ""},
	} {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("Status %d: panic: %v", c.rej.Status, p)
					w.WriteHeader(500)
				}
			}()
			rej := c.rej
			rej.ServeHTTP(w, r)
		})
		for _, over := range overBoth(t, h) {
			a := over.send(t, "GET", "/")
			assert.Equal(t, c.status, a.Status)
			assert.Equal(t, c.body, a.Body)
			assert.Equal(t, c.retry, a.Header.Get("Retry-After"))
			assert.Equal(t, "no-store", a.Header.Get("Cache-Control"))
		}
	}
}

// A custom OnReject can answer as completely as the default.
func TestRejection_FieldsAreTheWholeAnswer(t *testing.T) {
	pair := func(wrap func(onReject) http.Handler, request string) {
		t.Helper()
		want := send(t, serve(t, wrap(nil)), request)
		got := send(t, serve(t, wrap(fromFields)), request)
		want.Header.Del("Date")
		got.Header.Del("Date")
		assert.Equal(t, want, got, request)
	}
	gate := func(reject onReject) http.Handler {
		g, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", OnReject: reject})
		return g.Wrap(whoami)
	}
	for _, request := range []string{
		get("/a", html), get("/a"), get("/api/a", sid(deadCookie)),
		get("/a", html, sid(deadCookie)), get("/a", sid(downCookie)),
		rawRequest("CONNECT", "/a"), upgrade("GET", "/a"),
	} {
		pair(gate, request)
	}
	for _, s := range []*middleware.Session{nil, ann()} {
		mint := func(reject onReject) http.Handler {
			return newMintBed(t, middleware.MintOptions{OnReject: reject}, s).handler
		}
		for _, request := range []string{
			get(mintPath), post("", crossSite), post("{"), post("{}", "Content-Type: text/plain"),
			post(strings.Repeat(" ", 2048)), post(`{"endpoint":"ws"}`),
		} {
			pair(mint, request)
		}
	}
	b := newBed(t, middleware.GuardOptions{})
	guard := func(reject onReject) http.Handler {
		opts := middleware.GuardOptions{OnReject: reject, Sockets: b.guard.Sockets()}
		return must(middleware.NewGuard(b.issuer, &opts)).Wrap(accepts)
	}
	for _, tc := range refusals {
		if tc.only == "" && tc.code != "" && len(tc.request) < 4096 {
			pair(guard, b.fill(t).Replace(tc.request))
		}
	}
}

// A page reads the reason of a refusal in the close frame, here with a real library.
func TestRejectByClosing_LibraryReadsTheReason(t *testing.T) {
	used := func(b *bed, t *testing.T) string {
		ticket := b.mint(t)
		_, err := b.issuer.Consume(t.Context(), tickets.Ticket(ticket))
		require.NoError(t, err)
		return ticket
	}
	type ticketOf = func(*bed, *testing.T) string
	fresh := func(b *bed, t *testing.T) string { return b.mint(t) }
	text := func(text string) ticketOf { return func(*bed, *testing.T) string { return text } }
	elsewhere := func(b *bed, t *testing.T) string {
		return b.mint(t, func(g *tickets.Grant) { g.Endpoint = "/ws/pty" })
	}
	restore := func(err error) middleware.SocketsOptions {
		return middleware.SocketsOptions{Restore: says(err)}
	}
	none, full := middleware.SocketsOptions{}, middleware.SocketsOptions{Max: 1}
	rejected := websocket.CloseError{Code: 4401, Reason: "ticket_rejected"}
	forbidden := websocket.CloseError{Code: 4403, Reason: "forbidden"}
	tooMany := websocket.CloseError{Code: 4429, Reason: "too_many"}
	unavailable := websocket.CloseError{Code: 1013, Reason: "unavailable"}
	for _, tc := range []struct {
		name    string
		ticket  ticketOf
		sockets middleware.SocketsOptions
		origin  string
		take    error
		want    websocket.CloseError
	}{
		{"used", used, none, "", nil, rejected},
		{"none", text(""), none, "", nil, rejected},
		{"malformed", text("a"), none, "", nil, rejected},
		{"session gone", fresh, restore(middleware.ErrNoSession), "", nil, rejected},
		{"another origin", fresh, none, "https://evil.example", nil, forbidden},
		{"another endpoint", elsewhere, none, "", nil, forbidden},
		{"no room", fresh, full, "", nil, tooMany},
		{"store fails", fresh, none, "", errDown, unavailable},
		{"backend fails", fresh, restore(errDown), "", nil, unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{OnReject: middleware.RejectByClosing},
				tc.sockets)
			if tc.sockets.Max > 0 {
				takePlace(t, b)
			}
			if tc.take != nil {
				b.store.onTake = func(takeFunc) (tickets.Grant, error) {
					return tickets.Grant{}, tc.take
				}
			}
			h := middleware.ConcealTicket(b.guard.Wrap(mustNotRun(t)))
			for name, srv := range map[string]*httptest.Server{
				"plain": serve(t, h), "tls": serveTLS(t, h),
			} {
				for _, offer := range []struct {
					offered []string // {T}: a ticket; none: it is in the query
					chosen  string
				}{
					{nil, ""},
					{[]string{"v2.chat", "v1.chat"}, "v2.chat"},
					{[]string{"ticket.{T}", "v2.chat", "v1.chat"}, "v2.chat"},
					{[]string{"v1.chat", "ticket.{T}"}, "v1.chat"},
				} {
					ticket, target := tc.ticket(b, t), "/ws"
					opts := &websocket.DialOptions{HTTPClient: h1Client(srv),
						HTTPHeader: http.Header{}}
					if tc.origin != "" {
						opts.HTTPHeader.Set("Origin", tc.origin)
					}
					inProtocol := false
					for _, p := range offer.offered {
						inProtocol = inProtocol || strings.Contains(p, "{T}")
						opts.Subprotocols = append(opts.Subprotocols,
							strings.ReplaceAll(p, "{T}", ticket))
					}
					if !inProtocol {
						target += "?ticket=" + ticket
					}
					c, _, err := websocket.Dial(t.Context(), srv.URL+target, opts)
					require.NoError(t, err, "%s %v", name, offer.offered)
					assert.Equal(t, offer.chosen, c.Subprotocol())
					_, _, err = c.Read(t.Context())
					var closed websocket.CloseError
					require.True(t, errors.As(err, &closed), "%s: %v", name, err)
					assert.Equal(t, tc.want, closed)
				}
			}
			assert.Len(t, b.rec.Lines(t), 8, "one line for each refusal")
		})
	}
}

// takePlace takes a place in b's Sockets.
func takePlace(t *testing.T, b *bed) {
	t.Helper()
	a, rej := b.guard.Admit(readRequest(upgrade("GET", "/ws?ticket="+b.mint(t))))
	require.Nil(t, rej)
	t.Cleanup(a.Release)
}

// The bytes on the wire, and the refusals that stay in HTTP.
func TestRejectByClosing_BytesOnTheWire(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{
		OnReject: middleware.RejectByClosing, AdmitRequests: true})
	h := b.guard.Wrap(accepts)
	srv := serve(t, h)
	frame := func(code uint16, reason string) string {
		return string(binary.BigEndian.AppendUint16([]byte{0x88, byte(2 + len(reason))}, code)) +
			reason
	}
	// The value is of goodKey.
	const accepted = switching + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	rejected := "\r\n" + frame(4401, "ticket_rejected")
	const chosen = accepted + "Sec-WebSocket-Protocol: "
	masked := "\x82\xfe\x10\x00\x00\x00\x00\x00" + strings.Repeat("x", 4096)
	all := func(t *testing.T, srv *httptest.Server, request string) string {
		conn := begin(t, srv, request)
		raw, err := io.ReadAll(conn)
		require.NoError(t, err, "the connection was reset: the close frame may be lost")
		return string(raw)
	}
	for _, tc := range []struct{ name, source, request, want string }{
		{"no ticket", "RFC 6455 7.4", upgrade("GET", "/ws"), accepted + rejected},
		{"another origin", "RFC 6455 10.2", opening(evilOrigin),
			accepted + "\r\n" + frame(4403, "forbidden")},
		{"protocols that are no tokens", "RFC 9110 5.6.2", offering(`a"b, ticket.x, c d, ok, late`),
			chosen + "ok\r\n" + rejected},
		{"protocol in the second line", "RFC 6455 11.3.4", offering("ticket.x", "chat"),
			chosen + "chat\r\n" + rejected},
		{"key in white space", "RFC 9110 5.5",
			upgrade("GET", "/ws", "Sec-WebSocket-Key: \tdGhlIHNhbXBsZSBub25jZQ== \t"),
			accepted + rejected},
		{"frames sent at once", "a reset would overtake the close frame",
			upgrade("GET", "/ws") + strings.Repeat(masked, 1024), accepted + rejected},
	} {
		for name, srv := range map[string]*httptest.Server{"plain": srv, "tls": serveTLS(t, h)} {
			t.Run(tc.name+" ("+tc.source+")/"+name, func(t *testing.T) {
				assert.Equal(t, tc.want, all(t, srv, b.fill(t).Replace(tc.request)))
			})
		}
	}
	for _, tc := range refusals {
		if tc.code == "" || tc.status == 401 || tc.status == 403 || tc.only != "" {
			continue
		}
		t.Run("in HTTP/"+tc.name, func(t *testing.T) {
			if tc.name == "plain GET" {
				t.Skip("a request that AdmitRequests admits")
			}
			requireRefusal(t, tc, send(t, srv, b.fill(t).Replace(tc.request)))
		})
	}
	t.Run("in HTTP/stream", func(t *testing.T) {
		a := send(t, srv, get("/ws?ticket="+strings.Repeat("A", 43)))
		requireRefusal(t, refusal{status: 401, code: "ticket_rejected"}, a)
	})
	t.Run("in HTTP/over HTTP-2", func(t *testing.T) {
		a := sendH2(t, serveTLS(t, h), "GET", "/ws?ticket="+strings.Repeat("A", 43))
		requireRefusal(t, refusal{status: 401, code: "ticket_rejected"}, a)
	})
	t.Run("in HTTP/nothing to hijack", func(t *testing.T) {
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}))
		a := send(t, srv, upgrade("GET", "/ws"))
		requireRefusal(t, refusal{status: 501, code: "not_implemented"}, a)
	})
}

// A page that reads nothing and never closes holds a refused connection for a bounded time.
func TestRejectByClosing_SilentPageIsBounded(t *testing.T) {
	t.Parallel() // it takes that time
	b := newBed(t, middleware.GuardOptions{OnReject: middleware.RejectByClosing})
	left := make(chan struct{})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(left)
		b.guard.Wrap(accepts).ServeHTTP(w, r)
	}))
	begin(t, srv, upgrade("GET", "/ws"))
	<-left // the test would hang
}
