package middleware_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

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
func TestGuardRefusal_ClosesConnection(t *testing.T) {
	var reached []string
	for name, opts := range map[string]middleware.GuardOptions{
		"default": {},
		"OnReject": {OnReject: func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
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

// The same of a gate, where the request resembles an upgrade.
func TestGateRefusal_ClosesConnectionOfUpgrade(t *testing.T) {
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
			assert.Equal(t, closes, strings.Count(raw, "HTTP/1.1 ") == 1, "%s: %s\n%s", name, request, raw)
			if closes {
				assert.Equal(t, []string{"close"}, connectionLines(raw), "%s: %s", name, request)
			}
		}
	}
}

// RequireProtocol refuses a ticket in the query, and leaves it valid (OWASP ASVS
// 5.0, 14.2.1).
func TestRequireProtocol(t *testing.T) {
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
				inQuery("beside one in the protocol", "", opening("Sec-WebSocket-Protocol: chat, ticket.{U}")),
				inQuery("two", "", upgrade("GET", ws+"&ticket={U}")),
				inQuery("from another origin", "", opening(evilOrigin)),
				inQuery("of another version", "", opening("Sec-WebSocket-Version: 8")),
			} {
				b.rec.Take()
				f := b.fill(t)
				a := send(t, serve(t, srv), f.Replace(tc.request))
				assert.Equal(t, tc.status, a.Status, "%s, %s: %s", name, place, tc.name)
				assert.Equal(t, errorBody(tc.status, tc.code), a.Body)
				assert.Contains(t, b.rec.Text(), strings.TrimSuffix(auditLine(tc, nil), "}\n"), tc.name)
				for _, ticket := range []string{"{T}", "{U}"} {
					_, err := b.issuer.Consume(t.Context(), tickets.Ticket(f.Replace(ticket)))
					assert.NoError(t, err, "%s, %s: %s: the ticket is consumed", name, place, tc.name)
				}
			}
			valid := upgrade("GET", "/ws?a=ticket", "Sec-WebSocket-Protocol: chat, ticket.{T}")
			a := send(t, serve(t, srv), b.fill(t).Replace(valid))
			assert.Equal(t, 101, a.Status, "%s, %s", name, place)
			a = send(t, serve(t, srv), get("/ws?ticket=a"))
			assert.Equal(t, 426, a.Status, "%s, %s: no upgrade", name, place)
		}
	}
	_, err := middleware.NewGuard(newIssuer(t), &middleware.GuardOptions{RequireProtocol: true, AdmitRequests: true})
	require.ErrorContains(t, err, "middleware.NewGuard: RequireProtocol and AdmitRequests are both set")
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

// A custom OnReject can answer as completely as the default.
func TestRejection_FieldsAreTheWholeAnswer(t *testing.T) {
	pair := func(wrap func(onReject) http.Handler, request string) {
		t.Helper()
		want, got := send(t, serve(t, wrap(nil)), request), send(t, serve(t, wrap(fromFields)), request)
		want.Header.Del("Date")
		got.Header.Del("Date")
		assert.Equal(t, want, got, request)
	}
	gate := func(reject onReject) http.Handler {
		g, _ := newGate(t, middleware.GateOptions{LoginURL: "/login", OnReject: reject})
		return g.Wrap(whoami)
	}
	for _, request := range []string{
		get("/a", html), get("/a"), get("/api/a", sid(deadCookie)), get("/a", html, sid(deadCookie)),
		get("/a", sid(downCookie)), rawRequest("CONNECT", "/a"), upgrade("GET", "/a"),
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
