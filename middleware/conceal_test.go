package middleware_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// minted looks like a ticket.
const minted = "abcdefgh-" + secretMark + "-0123456789-ABCDEFGHIJKLMNOP"

// concealRow is a query and what is left of it: of a plain request, and of an
// upgrade, where every parameter called ticket goes.
type concealRow struct{ name, source, query, plain, upgrade string }

// Values of plain and upgrade in concealRow.
const nothingLeft, asItWas, othersLeft = "", "=", "b=%7e+%20&a&&=&=x&a=%C3%A9"

var concealRows = []concealRow{
	{"none", "", "a=1&b=2", asItWas, asItWas},
	{"empty", "", "", asItWas, asItWas},
	{"alone", "", "ticket=" + minted, nothingLeft, nothingLeft},
	{"first", "", "ticket=" + minted + "&a=1&b=2", "a=1&b=2", "a=1&b=2"},
	{"last", "", "a=1&b=2&ticket=" + minted, "a=1&b=2", "a=1&b=2"},
	{"between", "", "a=1&ticket=" + minted + "&b=2", "a=1&b=2", "a=1&b=2"},
	{"two", "CWE-235", "ticket=" + minted + "&a=1&ticket=" + minted, "a=1", "a=1"},
	{"name escaped", "RFC 3986 2.1", "%74ic%6Bet=" + minted + "&a=1", "a=1", "a=1"},
	{"value escaped", "RFC 3986 2.1", "ticket=%61" + minted[1:], nothingLeft, nothingLeft},
	{"all escaped", "RFC 3986 2.1", "%74%69%63%6b%65%74=%61" + minted[1:],
		nothingLeft, nothingLeft},
	{"others as they were", "RFC 3986 6.2.2", "b=%7e+%20&a&&=&=x&ticket=" + minted + "&a=%C3%A9",
		othersLeft, othersLeft},
	{"empty pairs before", "RFC 3986 3.4", "&&a=1&ticket=" + minted, "&&a=1", "&&a=1"},
	{"empty pairs behind", "RFC 3986 3.4", "ticket=" + minted + "&&a=1&", "&a=1&", "&a=1&"},
	{"another's", "CAS 3.0 2.5", "ticket=ST-1&a=1", asItWas, "a=1"},
	{"one too short", "", "ticket=" + minted[1:], asItWas, nothingLeft},
	{"one too long", "", "ticket=" + minted + "x", asItWas, nothingLeft},
	{"another alphabet", "RFC 4648 4", "ticket=" + strings.Repeat("+", 43), asItWas, nothingLeft},
	{"no value", "", "ticket", asItWas, nothingLeft},
	{"other names", "RFC 3986 6.2.2.1",
		"TICKET=a&xticket=b&ticketx=c&ticket.x=d&ticket[]=e&%2574icket=f", asItWas, asItWas},
	{"name in capitals", "HOSTILE W1, W27", "TICKET=" + minted + "&a=1", "a=1", "a=1"},
	{"an array", "HOSTILE W1, W27", "ticket[]=" + minted + "&a=1", "a=1", "a=1"},
	{"an array, escaped", "HOSTILE W1, W27", "a=1&ticket%5B0%5D=" + minted, "a=1", "a=1"},
	{"??", "HOSTILE W1, W27", "?ticket=" + minted, nothingLeft, nothingLeft},
	{"?? before others", "HOSTILE W1, W27", "?ticket=" + minted + "&a=1", "a=1", "a=1"},
	{"behind a second ?", "HOSTILE W1, W27", "a=1?ticket=" + minted, "a=1", "a=1"},
	{"behind a second ?, before others", "HOSTILE W1, W27", "a=1?Ticket=" + minted + "&b=2",
		"a=1&b=2", "a=1&b=2"},
	{"behind a #", "like a second ?", "a=1#ticket=" + minted, "a=1", "a=1"},
	{"name goes on behind a #", "like a second ?", "a=1&x#ticket#y=" + minted, "a=1&x", "a=1&x"},
	{"a longer name", "HOSTILE W27", "ws_ticket=" + minted + "&ticketId=" + minted + "&a=1", "a=1",
		"a=1"},
	{"escaped twice", "CWE-174", "%2574icket=" + minted + "&a=1", "a=1", "a=1"},
	{"spaces around it", "copied by hand", "ticket=+" + minted + "%0A&a=1", "a=1", "a=1"},
	{"in the URL in a value", "a way back", "next=%2Fws%3Fticket%3D" + minted + "&a=1",
		"a=1", "a=1"},
	{"in the URL in a value, not escaped", "a way back", "next=/ws?ticket=" + minted + "&a=1",
		"next=/ws&a=1", "next=/ws&a=1"},
	{"name alone, and another's value", "", "ticket&a=" + minted, asItWas, "a=" + minted},
	{"in the URL in a value, which is cut", "a way back",
		"next=%2Fws%3Fticket%3D" + minted + "%2", nothingLeft, nothingLeft},
	{"in the URL in a value, bad escape", "a way back",
		"next=%2Fws%3Fticket%253D" + minted + "%26p%3D100%25&a=1", "a=1", "a=1"},
	{"percent sign and a long value", "another's",
		"next=%2Fx%3Fkey%3D" + minted + "%26p%3D100%25", asItWas, asItWas},
	{"in the name of a page", "", "page=/tickets/" + minted, asItWas, asItWas},
	{"in a value", "", "next=/ws%3Fticket%3Da&q=ticket", asItWas, asItWas},
	{"semicolon", "golang/go#25192", "a=1;ticket=" + minted, nothingLeft, nothingLeft},
	{"semicolon behind", "golang/go#25192", "ticket=" + minted + "&a;b", nothingLeft, nothingLeft},
	{"bad escape", "RFC 3986 2.1", "%zz&ticket=" + minted, nothingLeft, nothingLeft},
	{"bad escape, name escaped", "RFC 3986 2.1", "a=%&%74icket=" + minted,
		nothingLeft, nothingLeft},
	{"cut escape at the end", "RFC 3986 2.1", "ticket=" + minted + "&a=%7",
		nothingLeft, nothingLeft},
	{"bad escape and none", "RFC 3986 2.1", "a=%zz", asItWas, nothingLeft},
	{"too many parameters", "GODEBUG urlmaxqueryparams",
		"ticket=" + minted + strings.Repeat("&a", 10_000), nothingLeft, nothingLeft},
}

func (row concealRow) left(isUpgrade bool) string {
	left := row.plain
	if isUpgrade {
		left = row.upgrade
	}
	if left == asItWas {
		return row.query
	}
	return left
}

// seen is what a handler, and its log, see of a request.
type seen struct {
	RawQuery, RequestURI, URL string
	Referer, Protocol         []string
	Form                      url.Values
}

var tells = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	s := seen{RawQuery: r.URL.RawQuery, RequestURI: r.RequestURI, URL: r.URL.String(),
		Referer: r.Header["Referer"], Protocol: r.Header["Sec-Websocket-Protocol"], Form: r.Form}
	_ = json.NewEncoder(w).Encode(s)
})

func TestConcealTicket_RemovesTicketFromURLAndReferer(t *testing.T) {
	both := overBoth(t, middleware.ConcealTicket(tells))
	withQuery := func(path, query string) string {
		if query == "" {
			return path
		}
		return path + "?" + query
	}
	for _, row := range concealRows {
		for name, lines := range map[string][]string{
			"plain":               nil,
			"handshake":           {"Connection: Upgrade", "Upgrade: websocket"},
			"half of a handshake": {"Sec-WebSocket-Key: x"}, // a guard may take it for one
		} {
			for _, over := range both {
				if over.name == "h2" && name == "handshake" {
					continue // RFC 9113 section 8.2.2: it has no such headers
				}
				t.Run(row.name+" ("+row.source+")/"+name+" over "+over.name, func(t *testing.T) {
					left := row.left(lines != nil)
					var got seen
					referer := "Referer: " + withQuery("https://app.example/page", row.query)
					a := over.send(t, "GET", withQuery("/ws", row.query),
						append([]string{referer}, lines...)...)
					require.NoError(t, json.Unmarshal([]byte(a.Body), &got), a)
					assert.Equal(t, left, got.RawQuery)
					assert.Equal(t, withQuery("/ws", left), got.RequestURI)
					assert.Equal(t, withQuery("/ws", left), got.URL)
					assert.Equal(t, []string{withQuery("https://app.example/page", left)},
						got.Referer)
				})
			}
		}
	}
}

// The parts of a request where a ticket is concealed, and those that stay as they are.
func TestConcealTicket_OtherParts(t *testing.T) {
	t.Run("what it does not concern it does not copy", func(t *testing.T) {
		r := httptest.NewRequest("GET", "/ws?a=1&ticket=ST-1", nil)
		r.Header.Set("Referer", "https://app.example/?a=1")
		middleware.ConcealTicket(http.HandlerFunc(func(_ http.ResponseWriter, got *http.Request) {
			assert.Same(t, r, got)
		})).ServeHTTP(nil, r)
	})
	t.Run("the original is not touched", func(t *testing.T) {
		r := httptest.NewRequest("GET", "/ws?ticket="+minted, nil)
		r.Header.Set("Referer", "https://app.example/?ticket="+minted)
		before := r.Clone(t.Context())
		middleware.ConcealTicket(http.HandlerFunc(func(_ http.ResponseWriter, got *http.Request) {
			got.Header.Set("X-Changed", "yes")
		})).ServeHTTP(nil, r)
		assert.Equal(t, before.Header, r.Header)
		assert.Equal(t, before.URL, r.URL)
		assert.Equal(t, before.RequestURI, r.RequestURI)
	})
	t.Run("what was parsed is parsed anew", func(t *testing.T) {
		parses := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.NoError(t, r.ParseForm())
				next.ServeHTTP(w, r)
			})
		}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "2", r.FormValue("b"))
			assert.Equal(t, "3", r.PostFormValue("c"))
			assert.Equal(t, "3", r.FormValue("c"))
			tells(w, r)
		})
		a := send(t, serve(t, parses(middleware.ConcealTicket(h))),
			postForm("/?ticket="+minted+"&b=2", "c=3"))
		requireNoSecret(t, "what the handler sees", a.Body)
		assert.Contains(t, a.Body, `"Form":{"b":["2"],"c":["3"]}`)
	})
	t.Run("two Referers, and such that do not parse", func(t *testing.T) {
		srv := serve(t, middleware.ConcealTicket(tells))
		a := send(t, srv, get("/", "Referer: ?ticket="+minted,
			"Referer: https://[x/?a=1&ticket="+minted, "Referer: ::"))
		assert.Contains(t, a.Body, `"Referer":["","https://[x/?a=1","::"]`)
	})
	t.Run("several URLs in one Referer", func(t *testing.T) {
		srv := serve(t, middleware.ConcealTicket(tells))
		a := send(t, srv, get("/", "Referer: https://a.example/?TICKET="+minted+
			", https://b.example/?a=1&ticket[]="+minted+"&b=2"))
		requireNoSecret(t, "what the handler sees", a.Body)
	})
	t.Run("absolute form", func(t *testing.T) {
		srv := serve(t, middleware.ConcealTicket(tells))
		a := send(t, srv, get("http://app.example/ws?a=1&ticket="+minted))
		assert.Contains(t, a.Body, `"RawQuery":"a=1",`+
			`"RequestURI":"http://app.example/ws?a=1","URL":"http://app.example/ws?a=1"`)
	})
	// A handler in front has rewritten the other.
	t.Run("in the URL alone, in the RequestURI alone", func(t *testing.T) {
		for _, c := range []struct{ query, uri, wantQuery, wantURI string }{
			{"a=1&ticket=" + minted, "/page?a=1", "a=1", "/page?a=1"},
			{"a=1", "/page?a=1&ticket=" + minted, "a=1", "/page?a=1"},
			{"a=1&ticket=" + minted, "/page?b=2&ticket=" + minted, "a=1", "/page?b=2"},
			{"a=1", "/page?ticket=" + minted + "?a=1", "a=1", "/page"},
		} {
			r := httptest.NewRequest("GET", "/", nil)
			r.URL.RawQuery, r.RequestURI = c.query, c.uri
			checks := func(_ http.ResponseWriter, got *http.Request) {
				assert.Equal(t, []string{c.wantQuery, c.wantURI},
					[]string{got.URL.RawQuery, got.RequestURI})
			}
			middleware.ConcealTicket(http.HandlerFunc(checks)).ServeHTTP(nil, r)
		}
	})
	t.Run("a Referer that comes later", func(t *testing.T) {
		b := newBed(t, middleware.GuardOptions{})
		h := middleware.ConcealTicket(b.guard.Wrap(accepts))
		h = header("Referer", "https://app.example/?ticket="+minted)(h)
		a := send(t, serve(t, middleware.ConcealTicket(h)), b.fill(t).Replace(opening()))
		assert.Equal(t, http.StatusSwitchingProtocols, a.Status,
			"the inner one forgot what the outer had taken: %v", a)
	})
	t.Run("the protocol is the guard's", func(t *testing.T) {
		srv := serve(t, middleware.ConcealTicket(tells))
		a := send(t, srv, upgrade("GET", "/", "Sec-WebSocket-Protocol: chat, ticket.x"))
		assert.Contains(t, a.Body, `"Protocol":["chat, ticket.x"]`)
	})
}

// A guard decides the same behind one ConcealTicket, behind two and behind none.
func TestConcealTicket_GuardDecidesTheSame(t *testing.T) {
	good := refused(101, "", "")
	all := slices.Concat(refusals, []refusal{
		good("good", "", upgrade("GET", ws+"&a=1")),
		good("good, in a protocol", "",
			upgrade("GET", "/ws?a=1", "Sec-WebSocket-Protocol: chat, ticket.{T}")),
	})
	b := newBed(t, middleware.GuardOptions{})
	h := middleware.ConcealTicket(b.guard.Wrap(accepts))
	for name, h := range map[string]http.Handler{"once": h, "twice": middleware.ConcealTicket(h)} {
		srv := serve(t, h)
		for _, tc := range all {
			if tc.only == "tls" {
				continue
			}
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				b.rec.Take()
				takes, f := b.store.takes.Load(), b.fill(t)
				a := send(t, srv, f.Replace(tc.request))
				require.Equal(t, tc.status, a.Status, a)
				if tc.code != "" {
					require.Contains(t, b.rec.Text(), `"reason":"`+tc.reason+`"`)
					require.Equal(t, takes, b.store.takes.Load())
					_, err := b.issuer.Consume(t.Context(), tickets.Ticket(f.Replace("{T}")))
					require.NoError(t, err)
				}
			})
		}
	}
}

// A handler behind the guard sees the session and no ticket.
func TestGuard_HandlerSeesNoTicket(t *testing.T) {
	started := time.Date(2026, 5, 27, 9, 12, 27, 123, time.UTC)
	for _, tc := range []struct {
		name, target, referer, protocol      string
		wantQuery, wantReferer, wantProtocol string
	}{
		{"query", "/ws?a=1&&ticket={T}&b=%7e", "/page", "", "a=1&&b=%7e", "/page", ""},
		{"query and Referer", "/ws?%74icket={T}", "/page?x=1&ticket={T}", "chat,\tv2", "",
			"/page?x=1", "chat,\tv2"},
		{"protocol", "/ws?a=1", "/page", "chat , ticket.{T},v2", "a=1", "/page", "chat, v2"},
		{"protocol and Referer", "/ws?a=1", "/page?ticket={T}", "ticket.{T},v2",
			"a=1", "/page", "v2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, middleware.GuardOptions{})
			ticket := b.mint(t, func(g *tickets.Grant) {
				g.Data, g.StartedAt = "room 7", started
				g.SessionExpiresAt = started.AddDate(50, 0, 0)
			})
			var got seen
			inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.NoError(t, r.ParseForm())
				rec := httptest.NewRecorder()
				tells(rec, r)
				assert.NotContains(t, rec.Body.String(), ticket)
				assert.NoError(t, json.Unmarshal(rec.Body.Bytes(), &got))
				want := ann()
				want.Data, want.StartedAt = "room 7", started
				want.ExpiresAt = started.AddDate(50, 0, 0)
				s, ok := middleware.SessionFrom(r.Context())
				if assert.True(t, ok) {
					assert.True(t, s.StartedAt.Equal(want.StartedAt) &&
						s.ExpiresAt.Equal(want.ExpiresAt))
					assert.Equal(t, grantOf(want), grantOf(s))
					assert.Equal(t, want.Data, s.Data)
				}
				accepts(w, r)
			})
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.NoError(t, r.ParseForm()) // as loggers and sessions do
				before := r.Clone(r.Context())
				b.guard.Wrap(inner).ServeHTTP(w, r)
				assert.Equal(t, before.Header, r.Header, "others hold on to the original")
				assert.Equal(t, before.URL, r.URL)
			}))
			lines := []string{"Referer: https://app.example" + tc.referer}
			if tc.protocol != "" {
				lines = append(lines, protocol+tc.protocol)
			}
			f := strings.NewReplacer("{T}", ticket)
			a := send(t, srv, f.Replace(upgrade("GET", tc.target, lines...)))
			require.Equal(t, http.StatusSwitchingProtocols, a.Status, a)
			assert.Equal(t, tc.wantQuery, got.RawQuery)
			assert.Equal(t, strings.TrimSuffix("/ws?"+tc.wantQuery, "?"), got.RequestURI)
			assert.Equal(t, []string{"https://app.example" + tc.wantReferer}, got.Referer)
			assert.Equal(t, tc.wantProtocol, strings.Join(got.Protocol, "|"))
			assert.NotContains(t, got.Form, "ticket")
		})
	}
}

// A broken escape may stand in the very parameter that has the ticket.
func TestConcealTicket_BrokenEscapeBesideTheTicket(t *testing.T) {
	for _, over := range overBoth(t, middleware.ConcealTicket(tells)) {
		for _, query := range []string{
			"ticket=" + minted + "%zz", "%zticket=" + minted, "ticket=%zz" + minted,
		} {
			a := over.send(t, "GET", "/page?"+query+"&a=1", "Referer: /page?"+query)
			requireNoSecret(t, over.name+" "+query, a.Body)
			assert.Contains(t, a.Body, `"RawQuery":""`, "%s %s", over.name, query)
		}
	}
}

// A handler may read the Form that was parsed in front of the Guard, if the ticket is not in it.
func TestGuard_KeepsAFormWithoutTheTicket(t *testing.T) {
	b := newBed(t, middleware.GuardOptions{})
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.NoError(t, r.ParseForm())
		b.guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, url.Values{"a": {"1"}}, r.Form)
			accepts(w, r)
		})).ServeHTTP(w, r)
	}))
	request := handshake("/ws?a=1", "Sec-WebSocket-Protocol: chat, ticket."+b.mint(t))
	assert.Equal(t, http.StatusSwitchingProtocols, send(t, srv, request).Status)
}
