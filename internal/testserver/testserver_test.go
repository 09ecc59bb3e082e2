package testserver_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver"
	"github.com/ticketgate/ticketgate/tickets"
)

func TestSignIn(t *testing.T) {
	_, base := start(t, nil)
	b := newBrowser(t, base)

	status, h, _ := b.get("/?a=b", "Accept", "text/html")
	assert.Equal(t, http.StatusFound, status)
	assert.Equal(t, "/login?next=%2F%3Fa%3Db", h.Get("Location"))

	status, _, body := b.get(h.Get("Location"))
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, `name="next" value="/?a=b"`)

	status, h, _ = b.post("/login", url.Values{"user": {" Ada Lovelace "}, "next": {"/?a=b"}})
	assert.Equal(t, http.StatusSeeOther, status)
	assert.Equal(t, "/?a=b", h.Get("Location"))
	set := h.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"} {
		assert.Contains(t, set, want)
	}

	status, _, body = b.get("/", "Accept", "text/html")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, "<!doctype html>")

	var me struct {
		UserID    string `json:"user_id"`
		Provider  string `json:"provider"`
		ExpiresAt int64  `json:"expires_at"`
	}
	b.getJSON("/api/auth/me", &me)
	assert.Equal(t, "Ada Lovelace", me.UserID)
	assert.Equal(t, "demo", me.Provider)
	assert.WithinDuration(t, time.Now().Add(time.Hour), time.Unix(me.ExpiresAt, 0), time.Minute)

	status, _, body = newBrowser(t, base).get("/api/auth/me")
	assert.Equal(t, http.StatusUnauthorized, status)
	assert.JSONEq(t, `{"error":"unauthenticated","detail":"Unauthorized",`+
		`"reason":"no_session","login_url":"/login"}`, body)

	status, _, _ = b.get("/nothing-here")
	assert.Equal(t, http.StatusNotFound, status)
}

func TestSignInRefuses(t *testing.T) {
	_, base := start(t, nil)
	for _, c := range []struct {
		name    string
		form    url.Values
		headers []string
		status  int
	}{
		{"no name", url.Values{}, nil, http.StatusUnprocessableEntity},
		{"blank", url.Values{"user": {" \t"}}, nil, http.StatusUnprocessableEntity},
		{"too long", url.Values{"user": {strings.Repeat("é", 65)}}, nil,
			http.StatusUnprocessableEntity},
		{"as long as may be", url.Values{"user": {strings.Repeat("é", 64)}}, nil,
			http.StatusSeeOther},
		{"a line break", url.Values{"user": {"a\nb"}}, nil, http.StatusUnprocessableEntity},
		{"turned around (CVE-2021-42574)", url.Values{"user": {"a\u202eb"}}, nil,
			http.StatusUnprocessableEntity},
		{"joined emoji", url.Values{"user": {"👩‍🚀"}}, nil, http.StatusSeeOther},
		{"not UTF-8", url.Values{"user": {"\xff"}}, nil, http.StatusUnprocessableEntity},
		{"a large form", url.Values{"user": {"a"}, "x": {strings.Repeat("x", 5000)}}, nil,
			http.StatusRequestEntityTooLarge},
		{"another site's form", url.Values{"user": {"a"}}, []string{"Sec-Fetch-Site", "cross-site"},
			http.StatusForbidden},
		{"another site's form, old browser", url.Values{"user": {"a"}},
			[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{"next leads away", url.Values{"user": {"a"}, "next": {"//evil.example"}}, nil,
			http.StatusSeeOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, h, body := newBrowser(t, base).post("/login", c.form, c.headers...)
			assert.Equal(t, c.status, status, body)
			if status == http.StatusSeeOther {
				assert.Equal(t, "/", h.Get("Location"))
			} else {
				assert.Empty(t, h.Get("Set-Cookie"))
			}
		})
	}
	t.Run("what was typed comes back escaped", func(t *testing.T) {
		_, _, body := newBrowser(t, base).post("/login",
			url.Values{"user": {`"><script>` + strings.Repeat("x", 64)}})
		assert.NotContains(t, body, "<script>x")
		assert.Contains(t, body, "&lt;script&gt;")
	})
}

func TestEcho(t *testing.T) {
	_, base := start(t, nil)
	b := signedIn(t, base, "ada")
	for _, path := range []string{"/ws", "/ws/admin"} {
		for what, ticket := range map[string]string{"its own": b.mint(path), "any": b.mint("")} {
			c, _, err := b.dial(path, ticket, "")
			require.NoError(t, err, "%s with %s ticket", path, what)
			c.SetReadLimit(1 << 20)
			assert.Equal(t, "hello", b.echo(c, "hello"))
			large := strings.Repeat("x", 300_000)
			assert.Equal(t, large, b.echo(c, large))
			require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
		}
	}
}

// What the demo's page shows as refused, but for what takes time: what the page is told, what a
// script is, and what the audit is.
func TestRefusals(t *testing.T) {
	_, base := start(t, nil)
	b := signedIn(t, base, "ada")
	next := b.listen("")
	for _, c := range []struct {
		name   string
		ticket func() string
		origin string // "": the page's own
		code   int
		error  string
		status int
		event  string
		reason string
	}{
		{"used", func() string {
			ticket := b.mint("/ws")
			c, _, err := b.dial("/ws", ticket, base)
			require.NoError(t, err)
			require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
			return ticket
		}, "", 4401, "ticket_rejected", 401, "ws_ticket_rejected", "used"},
		{"endpoint", func() string { return b.mint("/ws/admin") }, "",
			4403, "forbidden", 403, "ws_ticket_rejected", "endpoint"},
		{"origin", func() string { return b.mint("/ws") }, "http://localhost:1",
			4403, "forbidden", 403, "ws_upgrade_refused", "origin"},
		{"sandbox", func() string { return b.mint("/ws") }, "null",
			4403, "forbidden", 403, "ws_upgrade_refused", "origin"},
		{"unknown", func() string { return strings.Repeat("A", 43) }, "",
			4401, "ticket_rejected", 401, "ws_ticket_rejected", "unknown"},
		{"none", func() string { return "" }, "",
			4401, "ticket_rejected", 401, "ws_ticket_rejected", "no_ticket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			origin := c.origin
			if origin == "" {
				origin = base
			}
			conn, _, err := b.dial("/ws", c.ticket(), origin)
			require.NoError(t, err, "a page is told by closing")
			code, reason := closing(t, conn)
			assert.Equal(t, c.code, code)
			assert.Equal(t, c.error, reason)
			line := next(func(l audited) bool { return l.Event == c.event })
			assert.Equal(t, c.reason, line.Reason)
			assert.Equal(t, "/ws", line.Path)
			if c.event == "ws_upgrade_refused" {
				assert.Equal(t, c.origin, line.Origin)
				return // without an Origin there is nothing to refuse
			}

			_, res, err := b.dial("/ws", c.ticket(), "")
			require.Error(t, err, "a script is told in HTTP")
			assert.Equal(t, c.status, res.StatusCode)
			body, _ := io.ReadAll(res.Body)
			assert.Contains(t, string(body), `"error":"`+c.error+`"`)
			assert.Equal(t, c.reason,
				next(func(l audited) bool { return l.Event == c.event }).Reason)
		})
	}
	t.Run("a ticket that another origin showed is not spent", func(t *testing.T) {
		ticket := b.mint("/ws")
		conn, _, err := b.dial("/ws", ticket, "http://localhost:1")
		require.NoError(t, err)
		code, _ := closing(t, conn)
		require.Equal(t, 4403, code)
		conn, _, err = b.dial("/ws", ticket, base)
		require.NoError(t, err)
		assert.Equal(t, "hello", b.echo(conn, "hello"))
	})
}

func TestRefusesTheExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(pipes)
		app, err := testserver.New(nil)
		require.NoError(t, err)
		server := &http.Server{Handler: app.Handler()}
		go server.Serve(conns)
		defer func() {
			require.NoError(t, app.Close())
			require.NoError(t, server.Close())
		}()
		b := newBrowser(t, "http://app.example")
		b.http.Transport.(*http.Transport).DialContext = conns.dial
		defer b.http.CloseIdleConnections()
		status, _, _ := b.post("/login", url.Values{"user": {"ada"}})
		require.Equal(t, http.StatusSeeOther, status)

		ticket, late := b.mint("/ws"), b.mint("/ws")
		time.Sleep(tickets.DefaultTTL)
		c, _, err := b.dial("/ws", ticket, b.base)
		require.NoError(t, err)
		assert.Equal(t, "in time", b.echo(c, "in time"))
		c.CloseNow()

		time.Sleep(time.Nanosecond)
		c, _, err = b.dial("/ws", late, b.base)
		require.NoError(t, err)
		code, reason := closing(t, c)
		assert.Equal(t, 4401, code)
		assert.Equal(t, "ticket_rejected", reason)
		c.CloseNow()

		c, _, err = b.dial("/ws", b.mint("/ws"), b.base)
		require.NoError(t, err)
		require.Equal(t, "hello", b.echo(c, "hello"))
		time.Sleep(time.Hour - 2*tickets.DefaultTTL)
		code, reason = closing(t, c)
		assert.Equal(t, 4401, code, "an hour later, with the session")
		assert.Equal(t, "session_expired", reason)
		c.CloseNow()
		status, _, _ = b.get("/api/auth/me")
		assert.Equal(t, http.StatusUnauthorized, status)
	})
}

func TestEvents(t *testing.T) {
	_, base := start(t, nil)
	b := signedIn(t, base, "ada")

	status, _, _ := b.get("/events")
	assert.NotEqual(t, http.StatusOK, status, "a cookie is not enough")

	next := b.listen("")
	first := next(event("login_success"))
	assert.Contains(t, first.raw, `"user_id":"ada"`)
	ticket := b.mint("/ws")
	minted := next(func(l audited) bool { return strings.Contains(l.raw, `"endpoint":"/ws"`) })
	assert.Equal(t, "ws_ticket_minted", minted.Event)
	assert.Regexp(t, `^\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00",`+
		`"event":"ws_ticket_minted","provider":"demo","user_id":"ada",`, minted.raw)
	assert.NotContains(t, minted.raw, ticket)

	t.Run("who comes back has missed nothing, and gets nothing twice", func(t *testing.T) {
		b.mint("/ws/admin")
		again := b.listen(minted.ID)
		line := again(func(audited) bool { return true })
		assert.Contains(t, line.raw, `"endpoint":"/ws/admin"`)
	})
	t.Run("an id of an earlier process stands for none", func(t *testing.T) {
		again := b.listen("old-1")
		assert.Equal(t, "login_success", again(func(audited) bool { return true }).Event)
	})
	t.Run("a spent ticket opens no second stream", func(t *testing.T) {
		ticket := b.mint("/events")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			base+"/events?ticket="+ticket, nil)
		require.NoError(t, err)
		res, err := b.http.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode)
		status, _, _ := b.get("/events?ticket=" + ticket)
		assert.Equal(t, http.StatusUnauthorized, status)
	})
}
