package nginx

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// person is somebody who is signed in through the proxy.
type person struct {
	t      *testing.T
	client *http.Client
	public string
}

func signIn(t *testing.T, p *proxy) *person {
	t.Helper()
	c := client(t)
	var err error
	c.Jar, err = cookiejar.New(nil)
	require.NoError(t, err)
	them := &person{t, c, p.public}
	res, _ := them.do("POST", "/app/login", url.Values{"user": {"ada"}}.Encode(),
		"Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	return them
}

func (p *person) do(method, path, body string, headers ...string) (*http.Response, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.public+path,
		strings.NewReader(body))
	require.NoError(p.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := p.client.Do(req)
	require.NoError(p.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(p.t, err)
	return res, string(b)
}

var value = regexp.MustCompile(`[\w-]{43}`)

func (p *person) mint(origin string) (status int, ticket string) {
	p.t.Helper()
	res, body := p.do("POST", "/app/api/auth/ws-ticket", "", "Origin", origin)
	return res.StatusCode, value.FindString(body)
}

// open opens a socket as a page of origin does, and says what came of it.
func (p *person) open(query, origin string) string {
	p.t.Helper()
	c, res, err := websocket.Dial(p.t.Context(), p.public+"/app/ws"+query, &websocket.DialOptions{
		HTTPClient: p.client,
		HTTPHeader: http.Header{"Origin": {origin}, "X-Forwarded-For": {"6.6.6.6"}},
	})
	if err != nil {
		return res.Status
	}
	defer c.CloseNow()
	require.NoError(p.t, c.Write(p.t.Context(), websocket.MessageText, []byte("hello")))
	_, message, err := c.Read(p.t.Context())
	if err == nil {
		return string(message)
	}
	return websocket.CloseStatus(err).String()
}

// Where a sign-in leads, whatever the page names as next.
func TestWayBack(t *testing.T) {
	_, p := start(t, nil)
	stranger := &person{t, client(t), p.public}
	res, _ := stranger.do("GET", "/app/dash?x=1", "", "Accept", "text/html")
	assert.Equal(t, http.StatusFound, res.StatusCode)
	assert.Equal(t, "/app/login?next=%2Fdash%3Fx%3D1", res.Header.Get("Location"))
	for next, want := range map[string]string{
		"/dash?x=1":          "/app/dash?x=1",
		"/app/dash?x=1":      "/app/dash?x=1", // a page says location.pathname
		"":                   "/app/",
		"//evil.example":     "/app/",
		"https://evil/":      "/app/",
		"/\\evil.example":    "/app/",
		"/%2Fevil.example":   "/app/%2Fevil.example",
		"/application/x":     "/app/application/x",
		"/app//evil.example": "/app/evil.example", // http.Redirect cleans it
	} {
		form := url.Values{"user": {"ada"}, "next": {next}}
		res, _ := stranger.do("POST", "/app/login", form.Encode(),
			"Content-Type", "application/x-www-form-urlencoded")
		assert.Equal(t, want, res.Header.Get("Location"), "next=%s", next)
		assert.Regexp(t, `^session=\w+; Path=/app/; HttpOnly; Secure; SameSite=Lax$`,
			res.Header.Get("Set-Cookie"))
	}
}

// Origins are the public ones, the client's address is the client's, and a
// refusal is told as it is without a proxy.
func TestDoors(t *testing.T) {
	a, p := start(t, nil)
	ada := signIn(t, p)
	inside := a.server.URL // the origin that the application seems to have
	plain := strings.Replace(p.public, "https", "http", 1)
	for _, origin := range []string{inside, "https://evil.example", "null", plain} {
		status, _ := ada.mint(origin)
		assert.Equal(t, http.StatusForbidden, status, origin)
	}
	status, ticket := ada.mint(p.public)
	require.Equal(t, http.StatusOK, status)
	assert.Equal(t, "StatusCode(4403)", ada.open("?ticket="+ticket, inside))
	assert.Equal(t, "StatusCode(4403)", ada.open("?ticket="+ticket, "https://evil.example"))
	assert.Equal(t, "hello", ada.open("?ticket="+ticket, p.public))
	assert.Equal(t, "StatusCode(4401)", ada.open("?ticket="+ticket, p.public))
	assert.Equal(t, "StatusCode(4401)", ada.open("", p.public))

	// What is no upgrade gets no Connection: upgrade from the map, and is told so.
	res, body := ada.do("GET", "/app/ws", "")
	assert.Equal(t, http.StatusUpgradeRequired, res.StatusCode)
	assert.Contains(t, body, "upgrade_required")

	res, _ = ada.do("GET", "/app/whole/", "")
	assert.Equal(t, http.StatusOK, res.StatusCode)

	all := a.lines.with(`"ip":`)
	assert.NotEmpty(t, all)
	for _, line := range all {
		assert.Contains(t, line, `"ip":"127.0.0.9"`,
			"the client's, not nginx's, nor what the client says")
	}
	requireNoTicket(t, p.log(t))
}

// A guard around a whole router refuses what resembles an upgrade in one header
// only, which is what nginx makes of every request without the recipe's map.
func TestConnectionUpgrade(t *testing.T) {
	_, p := start(t, func(conf string) string {
		return strings.Replace(conf, "'' '';", "'' upgrade;", 1)
	})
	res, _ := signIn(t, p).do("GET", "/app/whole/", "")
	assert.Equal(t, http.StatusUpgradeRequired, res.StatusCode)
}

// The application is away: nginx writes an error about each request, the request
// line with the ticket in it included, but where the recipe tells it not to.
func TestNoTicketInLogs(t *testing.T) {
	log := func(change func(string) string) string {
		a, p := start(t, change)
		ada := signIn(t, p)
		_, ticket := ada.mint(p.public)
		assert.Equal(t, "hello", ada.open("?ticket="+ticket, p.public))
		_, ticket = ada.mint(p.public)
		a.server.CloseClientConnections()
		a.server.Close()
		assert.Equal(t, "502 Bad Gateway", ada.open("?ticket="+ticket, p.public))
		res, _ := ada.do("GET", "/app/events?ticket="+ticket, "",
			"Referer", p.public+"/app/ws?ticket="+ticket)
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
		return p.log(t)
	}
	safe := log(nil)
	requireNoTicket(t, safe)
	assert.Contains(t, safe, `"GET /app/ws" 101`)
	assert.Contains(t, safe, `"GET /app/ws" 502`)

	// Without either of its lines there would be some.
	combined := log(func(conf string) string {
		return strings.Replace(conf, "access.log ticketless", "access.log combined", 1)
	})
	assert.Regexp(t, ` "GET /app/ws\?ticket=[\w-]{43} HTTP/1.1" 101 `, combined)
	assert.Regexp(t, `\[error\].*ticket=[\w-]{43}`, log(func(conf string) string {
		return strings.ReplaceAll(conf, "error_log /dev/null emerg;", "")
	}))
}

func requireNoTicket(t *testing.T, log string) {
	t.Helper()
	require.Contains(t, log, "/app/")
	require.NotContains(t, log, "ticket=")
	require.NotRegexp(t, `[\w-]{43}`, log)
}
