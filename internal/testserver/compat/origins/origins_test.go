// Package origins has a page of one origin use an API of another, in a real browser: as the recipe
// is, and without each of its lines.
package origins

import (
	"cmp"
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/compat/browser"
)

// Two origins are of one site if their hosts have the public suffix and the label before it in
// common. By the rule for unknown ones, "example" is a suffix: app.example and api.example are two
// sites.
var sites = []struct{ name, page, api string }{
	{"one site", "app.acme.example", "api.acme.example"},
	{"two sites", "app.example", "api.example"},
}

// outcome is what a page gets when it signs in, asks for a ticket for one endpoint (the browser
// sends a preflight because of the body), and opens a socket.
type outcome struct{ SignIn, Endpoint, Socket string }

// unreadable is the answer to a fetch whose response CORS keeps from the page.
const unreadable = "TypeError"

var works = outcome{"200", "200", "hello ada"}

var variants = []struct {
	name    string
	change  []string // what is in the recipe, and what is there instead
	script  string   // of the page; "": page.js
	without string   // what is not in it
	bearer  bool
	want    outcome
	oneSite outcome // where a site makes a difference
}{
	{name: "the recipe", want: works, oneSite: works},
	{name: "ticketgate.js", script: "module.js", want: works, oneSite: works},
	{name: "ticketgate.js, a bearer token", script: "module.js", bearer: true,
		want: outcome{"200", "200", "hello bearer"}},
	{name: "a bearer token", bearer: true, want: outcome{"200", "200", "hello bearer"}},
	{name: "a bearer token, no Credentialed", bearer: true,
		change: []string{"Credentialed:   true,", ""},
		want:   outcome{unreadable, "200", "hello bearer"}},
	{name: "a bearer token, no Authorization in RequestHeaders", bearer: true,
		change: []string{`, "Authorization"`, ""}, want: outcome{"200", unreadable, unreadable}},
	{name: "no CORS", change: []string{"return browsers.Wrap(mux),", "_ = browsers\nreturn mux,"},
		want: outcome{unreadable, unreadable, unreadable}},
	{name: "CORS inside the gate", change: []string{"return browsers.Wrap(mux),", "return mux,",
		"gate.Wrap(mint)", "gate.Wrap(browsers.Wrap(mint))", "csrf.Handler(", "browsers.Wrap("},
		want: outcome{"200", unreadable, "hello ada"}},
	{name: "no Credentialed", change: []string{"Credentialed:   true,", ""},
		want: outcome{unreadable, unreadable, unreadable}},
	{name: "no Content-Type in RequestHeaders", change: []string{`"Content-Type", `, ""},
		want: outcome{"200", unreadable, "hello ada"}},
	{name: "no Origins for the mint", change: []string{"Origins: origins, // for the ticket", ""},
		want: outcome{"200", "403", "no ticket: 403"}},
	{name: "no Origins for the guard", change: []string{"Origins:  origins, // for the socket", ""},
		want: outcome{"200", "200", "4403 forbidden"}},
	{name: "no OriginPatterns for the library", change: []string{"OriginPatterns: origins", ""},
		want: outcome{"200", "200", "1006"}},
	{name: "no AddTrustedOrigin", change: []string{"csrf.AddTrustedOrigin(page)", "error(nil)"},
		want: outcome{"403", "401", "no ticket: 401"}},
	{name: "SameSite is Lax", change: []string{"http.SameSiteNoneMode", "http.SameSiteLaxMode"},
		want: outcome{"200", "401", "no ticket: 401"}, oneSite: works},
	// This browser blocks third-party cookies.
	{name: "not Partitioned", change: []string{"Partitioned: true,", ""},
		want: outcome{"200", "401", "no ticket: 401"}, oneSite: works},
	{name: "no credentials in the page", without: "credentials: 'include'",
		want: outcome{"200", "200", "no ticket: 401"}},
}

const visit = `(async () => {
	const { open } = await import("/page/%s?without=%s")
	const api = %q, token = %q
	const auth = token && { Authorization: "Bearer " + token }
	const status = (path, options) => fetch(api + path, { method: "POST", ...options })
		.then((r) => String(r.status), (e) => e.name)
	const SignIn = await status("/login?user=ada", { credentials: "include" })
	const Endpoint = await status("/api/auth/ws-ticket", {
		credentials: token ? "omit" : "include",
		headers: { "Content-Type": "application/json", ...auth },
		body: JSON.stringify({ endpoint: "/ws" }),
	})
	const Socket = await open(api, "/ws", token).then((socket) => new Promise((resolve) => {
		socket.onmessage = ({ data }) => resolve(data)
		socket.onclose = ({ code, reason }) => resolve((code + " " + reason).trim())
	}), (e) => e.name === "Error" ? e.message : e.name)
	return { SignIn, Endpoint, Socket }
})()`

func TestAcrossOrigins(t *testing.T) {
	port := servePage(t)
	var changes [][]string
	for _, v := range variants {
		changes = append(changes, v.change)
	}
	var origins []string
	for _, site := range sites {
		origins = append(origins, "https://"+site.page+":"+port)
	}
	apis := start(t, build(t, changes), 1+len(variants), origins)[1:]
	for i, v := range variants {
		for n, site := range sites {
			want := v.want
			if site.name == "one site" {
				want = v.oneSite
			}
			if want == (outcome{}) {
				continue
			}
			t.Run(v.name+"/"+site.name, func(t *testing.T) {
				page := browser.NewProfile(t).Open(origins[n] + "/")
				for _, refused := range []string{
					"CORS policy", "net::ERR_FAILED", "(Unauthorized)", "(Forbidden)",
					"WebSocket connection to",
				} {
					page.Expect(refused)
				}
				token := ""
				if v.bearer {
					token = apis[i][n].token
				}
				var got outcome
				script := cmp.Or(v.script, "page.js")
				page.Eval(fmt.Sprintf(visit, script, url.QueryEscape(v.without),
					"https://"+site.api+":"+apis[i][n].port, token), &got)
				require.Equal(t, want, got)
			})
		}
	}
}
