package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// outlets are the places where a secret could appear, by name, and their text.
type outlets struct {
	mu   sync.Mutex
	out  map[string]*strings.Builder
	told map[string]bool // one report is enough for each place
	logs map[string]*strings.Builder

	handlers sync.WaitGroup
}

func (o *outlets) add(name, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.out[name] == nil {
		o.out[name] = new(strings.Builder)
	}
	o.out[name].WriteString(text + "\n")
}

// outlet is one of them, to write to.
type outlet struct {
	*outlets
	name string
}

func (o outlet) Write(p []byte) (int, error) {
	o.add(o.name, string(p))
	return len(p), nil
}

// search fails for each outlet in which one of secrets came out, as it is or escaped once.
func (o *outlets) search(t *testing.T, sent string, secrets ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, b := range o.out {
		text := b.String()
		if plain, err := url.QueryUnescape(text); err == nil {
			text += plain
		}
		for _, secret := range secrets {
			path, _, _ := strings.Cut(strings.TrimLeft(strings.Fields(sent)[1], "/"), "/")
			if i := strings.Index(text, secret); i >= 0 && !o.told[name+path] {
				o.told[name+path] = true
				t.Errorf("%q\ncame out in %s: …%s…", sent, name,
					text[max(0, i-200):min(len(text), i+100)])
				break
			}
		}
	}
	for name := range o.logs { // a line may come when the next request is on its way
		if o.out[name] != nil {
			o.logs[name].WriteString(o.out[name].String())
		}
	}
	clear(o.out)
}

// searchLogs searches the logs of all requests, when the last handler has ended.
func (o *outlets) searchLogs(t *testing.T, secrets []string) {
	t.Helper()
	o.handlers.Wait()
	o.search(t, "GET /the-end", secrets...)
	o.mu.Lock()
	for name, b := range o.logs {
		require.NotEmpty(t, b.String(), name)
		o.out[name] = b
	}
	clear(o.logs)
	o.mu.Unlock()
	o.search(t, "GET /any", secrets...)
}

// secretApp has every handler of this package, in the order in which a request meets them,
// over HTTP/1.1 and HTTP/2. All their output goes to outlets.
func secretApp(t *testing.T, o *outlets) (h1, h2 *httptest.Server, issuer *tickets.Issuer) {
	show := func(name string, v any) { o.add(name, fmt.Sprintf("%v\n%+v\n%#v\n%s", v, v, v, v)) }
	// The request without the credentials that an application may read.
	view := func(r *http.Request) *http.Request {
		c := r.Clone(r.Context())
		for _, name := range []string{
			"Cookie", "Authorization", "X-Forwarded-For", "X-Ticket", "Origin", "Sec-Websocket-Key",
		} {
			c.Header.Del(name)
		}
		_ = c.ParseForm()
		return c
	}
	saw := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		show("the request handed on", view(r))
		show("its URL", r.URL)
		show("its header", view(r).Header)
		show("its context", r.Context())
		if strings.HasPrefix(r.URL.Path, "/panic") {
			panic(fmt.Sprintf("%+v", view(r)))
		}
		if r.Header.Get("Upgrade") != "" {
			accepts(w, r)
			return
		}
		_, _ = io.WriteString(w, "reached")
	})
	store := &watchedStore{Store: tickets.NewMemoryStore(nil)}
	issuer = must(tickets.NewIssuer(store, &tickets.IssuerOptions{MaxPerSession: 1 << 16}))
	broken := must(tickets.NewIssuer(&watchedStore{
		Store: store,
		onPut: func() error { return errors.New("SET session:" + ann().ID + ": OOM") },
		onTake: func(take takeFunc) (tickets.Grant, error) {
			_, _ = take()
			return tickets.Grant{}, errors.New("read tcp: connection reset by peer")
		}}, nil))
	auditLog := audit.New(slog.NewJSONHandler(outlet{o, "the audit"}, nil))
	rejects := func(answer onReject) onReject {
		return func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
			// The application's own error shows what it put there.
			if !errors.Is(rej.Err, errQuotes) {
				show("the rejection", rej)
				show("the rejection", *rej)
			}
			answer(w, r, rej)
		}
	}
	inHTTP := rejects(func(w http.ResponseWriter, r *http.Request, rej *middleware.Rejection) {
		rej.ServeHTTP(w, r)
	})
	byClosing := rejects(middleware.RejectByClosing)
	guard := func(i *tickets.Issuer, opts middleware.GuardOptions) http.Handler {
		if !opts.AdmitRequests && opts.Sockets == nil {
			opts.Audit = auditLog
		}
		return must(middleware.NewGuard(i, &opts)).Wrap(saw)
	}
	clientIP := middleware.ForwardedFor(netip.MustParsePrefix("127.0.0.0/8"))
	gate := func(lookup lookupFunc, opts middleware.GateOptions) *middleware.Gate {
		a := middleware.FirstOf(middleware.CookieSessions("sid", lookup),
			middleware.BearerSessions(lookup))
		opts.Audit, opts.OnReject = auditLog, inHTTP
		return must(middleware.NewGate(a, &opts))
	}
	signedIn := gate(lookup, middleware.GateOptions{LoginURL: "/login", ClientIP: clientIP})
	mint := func(i *tickets.Issuer, opts middleware.MintOptions) http.Handler {
		opts.Audit = auditLog
		return signedIn.Wrap(must(middleware.NewMint(i, &opts)))
	}
	restoring := must(middleware.NewSockets(issuer, &middleware.SocketsOptions{
		Audit: auditLog,
		Restore: func(ctx context.Context, s *middleware.Session) (*middleware.Session, error) {
			return quotes(ctx, s.ID)
		}}))

	mux := http.NewServeMux()
	mux.Handle("/", signedIn.Wrap(saw))
	mux.Handle("/quoting/", gate(quotes, middleware.GateOptions{}).Wrap(saw))
	mux.Handle("/mint/", mint(issuer, middleware.MintOptions{ClientIP: clientIP, OnReject: inHTTP}))
	mux.Handle("/mint/broken", mint(broken, middleware.MintOptions{}))
	mux.Handle("/ws/", guard(issuer, middleware.GuardOptions{ClientIP: clientIP, OnReject: inHTTP}))
	mux.Handle("/broken/", guard(broken, middleware.GuardOptions{}))
	mux.Handle("/panic/", guard(issuer, middleware.GuardOptions{}))
	toDefault := middleware.GuardOptions{AdmitRequests: true, OnReject: inHTTP} // slog.Default()
	mux.Handle("/stream/", guard(issuer, toDefault))
	mux.Handle("/closing/", guard(issuer, middleware.GuardOptions{OnReject: byClosing}))
	mux.Handle("/restoring/", guard(issuer, middleware.GuardOptions{Sockets: restoring}))
	mux.Handle("/admit/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := must(middleware.NewGuard(issuer, &middleware.GuardOptions{Audit: auditLog}))
		a, rej := g.Admit(r)
		if rej != nil {
			inHTTP(w, r, rej)
			return
		}
		defer a.Release()
		shown := *a
		shown.Request = view(a.Request)
		show("the admission", &shown)
		show("the admission", shown)
		saw(a.ResponseWriter(w), a.Request)
	}))

	all := middleware.ConcealTicket(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.handlers.Add(1)
		defer o.handlers.Done()
		o.add("the access log", fmt.Sprintf("%s %s %s %s %s %v",
			r.Method, r.RequestURI, r.URL, r.URL.RawQuery, r.Referer(), r.Context()))
		mux.ServeHTTP(w, r)
	}))
	h1, h2 = serve(t, all), serveTLS(t, all)
	for _, srv := range []*httptest.Server{h1, h2} {
		srv.Config.ErrorLog.SetOutput(outlet{o, "ErrorLog"})
	}
	return h1, h2, issuer
}

var errQuotes = errors.New("dial tcp: connection refused")

// quotes is a session store that is away. Its errors quote the key, as those of net/http do.
func quotes(_ context.Context, value string) (*middleware.Session, error) {
	u := "https://sessions.internal/v1/sessions/" + value + "?token=" + value
	return nil, &url.Error{Op: "Get", URL: u, Err: errQuotes}
}

func TestSecrets_AppearNowhere(t *testing.T) {
	o := &outlets{out: make(map[string]*strings.Builder), told: make(map[string]bool),
		logs: map[string]*strings.Builder{"the audit": {}, "slog.Default": {}, "ErrorLog": {}}}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(outlet{o, "slog.Default"}, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	h1, h2, issuer := secretApp(t, o)

	// {T} is a ticket of the client's. Every other secret is marked.
	type door struct {
		name, suffix string // of the path
		lines        []string
		body         string
		inURL        bool // a part of the URL that is kept as it is: only the logs are searched
	}
	at := func(name, suffix string, lines ...string) door {
		return door{name: name, suffix: suffix, lines: lines}
	}
	kept := func(name, suffix string) door { return door{name: name, suffix: suffix, inURL: true} }
	body := func(name, body string) door {
		return door{name: name, lines: []string{sid(goodCookie), jsonType}, body: body}
	}
	const inQuery = "?ticket={T}"
	doors := []door{
		at("query", inQuery),
		at("query, escaped", "?a=1&%74icket={T}"),
		kept("query, no ticket of ours", "?ticket="+minted+"x"), // an application's own, and kept
		at("query, unknown ticket", "?ticket="+minted),
		at("query, two", "?ticket={T}&ticket="+minted),
		at("query, semicolon", "?ticket={T};ticket="+minted),
		at("query, bad escape", "?%zz&ticket={T}"),
		at("query, too long", "?ticket={T}&"+strings.Repeat("a", 2<<10)),
		kept("query, name escaped twice", "?%2574icket={T}"), // another parameter, and kept
		kept("query, = escaped", "?ticket%3D{T}"),
		kept("path", "x%3Fticket={T}"),
		kept("path, parameter", "x;ticket="+minted),
		at("protocol", "", protocol+"chat, ticket.{T}"),
		at("protocol alone", "", protocol+"ticket.{T}"),
		at("protocol, twice", "", protocol+"ticket.{T}, chat", protocol+"ticket."+minted),
		at("protocol, malformed", "", protocol+"chat, ticket."+minted+"x"),
		at("query and protocol", inQuery, protocol+"chat, ticket."+minted),
		at("Referer", inQuery, "Referer: https://app.example/?ticket="+minted),
		at("Origin", inQuery, "Origin: https://user:"+secretMark+"@app.example"),
		at("Origin with a query", inQuery, "Origin: https://app.example/?ticket="+minted),
		at("X-Forwarded-For", inQuery, "X-Forwarded-For: "+minted),
		at("headers", inQuery, "X-Ticket: "+minted, "Sec-WebSocket-Key: "+secretMark),
		at("bearer", "", "Authorization: Bearer "+goodCookie),
		at("bearer, unknown", "", "Authorization: Bearer "+unknownCookie),
		at("bearer, malformed", "", "Authorization: Bearer \""+secretMark),
		at("basic", "", "Authorization: Basic "+secretMark),
		body("body", `{"endpoint":"/ws?ticket=`+minted+`"}`),
		body("body, a path", `{"endpoint":"/ws/ticket=`+minted+`"}`),
		body("body, another field", `{"ticket":"`+minted+`"}`),
	}
	for _, cookie := range []string{
		goodCookie, endedCookie, unknownCookie, noneCookie, deadCookie, downCookie, slowCookie,
		`"` + secretMark, goodCookie + "; sid=" + unknownCookie,
	} {
		doors = append(doors, at("cookie "+cookie, inQuery, sid(cookie)))
	}
	paths := []string{
		"/", "/quoting/", "/mint/", "/mint/broken", "/ws/", "/broken/", "/panic/", "/stream/",
		"/closing/", "/restoring/", "/admit/",
	}
	s := ann()
	secrets := []string{secretMark}
	for _, door := range doors {
		for _, path := range paths {
			ticket := string(must(issuer.Mint(t.Context(), grantOf(s))))
			secrets = append(secrets, ticket[:9])
			fill := func(text string) string { return strings.ReplaceAll(text, "{T}", ticket) }
			sent := func(request, got string) {
				o.add("the answer", got)
				if door.inURL {
					o.mu.Lock()
					for name := range o.out { // what reads or answers with the URL as it is
						if name != "the audit" && name != "slog.Default" {
							delete(o.out, name)
						}
					}
					o.mu.Unlock()
				}
				o.search(t, request, secretMark, ticket[:9])
			}
			lines := append([]string{fmt.Sprintf("Content-Length: %d", len(door.body))},
				door.lines...)
			for _, request := range []string{
				rawRequest("GET", path+door.suffix,
					append(door.lines, "Connection: close", "Accept: application/json")...),
				rawRequest("POST", path+door.suffix, append(lines, "Connection: close")...) +
					door.body,
				upgrade("GET", path+door.suffix,
					append(door.lines, "Connection: Upgrade, close")...),
			} {
				request = fill(request)
				conn := begin(t, h1, request)
				raw, _ := io.ReadAll(conn)
				require.NoError(t, conn.Close())
				sent(request, string(raw))
			}
			for _, method := range []string{"GET", "POST"} {
				target := fill(path + door.suffix)
				got := answerOverH2(t, h2, method, target, fill(door.body), door.lines, fill)
				sent(method+" "+target+" over h2", got)
			}
		}
	}
	h1.Close()
	h2.Close()
	o.searchLogs(t, secrets)
}

// answerOverH2 is the whole answer, or "" if the stream was reset, as by a panic.
func answerOverH2(t *testing.T, srv *httptest.Server, method, target, body string, lines []string,
	fill func(string) string) string {
	r := must(http.NewRequestWithContext(t.Context(), method, srv.URL, strings.NewReader(body)))
	r.URL.Opaque, r.Host = "//app.example"+target, "app.example"
	for _, line := range lines {
		field, value, _ := strings.Cut(fill(line), ": ")
		r.Header.Add(field, value)
	}
	res, err := srv.Client().Transport.RoundTrip(r)
	if err != nil {
		return "" // what it says is the client's own
	}
	defer res.Body.Close()
	got, _ := io.ReadAll(res.Body) // it may break off
	return answer{res.Proto, res.StatusCode, res.Header, string(got)}.String()
}

// A session id may be the cookie's value: a printed session does not show it.
func TestSession_PrintsNoID(t *testing.T) {
	s := ann()
	requireNoSecret(t, "a printed *Session", s)
	requireNoSecret(t, "a printed Session", *s)
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("who", "session", s)
	requireNoSecret(t, "a logged Session", b.String())
	requireNoSecret(t, "a printed context", middleware.WithSession(t.Context(), s))
}
