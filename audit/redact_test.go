package audit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

var secretNames = []string{
	"access_token", "refresh_token", "id_token", "code", "code_verifier", "state", "ticket",
	"cookie",
	"set-cookie", "authorization", "password", "pwd", "secret", // each by its whole name
	"Authorization", "X-API-KEY", "csrf-token", "sessionToken", "webhook_secret", "bot.token",
	"Set-Cookie", "api_key", "apikey", "TICKET", "Code-Verifier", "db_password",
	"Proxy-Authorization", "client.secret", "filter[ticket]", "filter[code]",
	"ｔｉｃｋｅｔ", "ＡＰＩ＿ＫＥＹ",
	"ti\u200bcket", "pa\u017f\u017fword", "to\u212aen", "ticket[]", "user[password]", "tokens",
	"passwd", strings.Repeat("long_", 60) + "token", "-ticket-", "tick\xffet",
}

var plainNames = []string{
	"ticket_id", "close_code", "close.code", "status_code", "reason", "provider", "user_id", "path",
	"endpoint", "socket_id", "origin", "session", "tokenizer", "secretary", "passwordless",
	"estate", "decoder", "ws-ticket-id", "token_type", "ip", "seconds", "encode", "statement", "x",
	"", "タイケット",
}

type nested struct {
	Plain    string `json:"plain"`
	Password string `json:"p"`    // by its Go name
	Tok      string `json:"pwd"`  // by its JSON name
	APIKey   string `json:"more"` // by its Go name
	Deeper   *nested
	Any      any
}

// Password is a secret by the name of its type.
type Password string

func TestRedact_ByName(t *testing.T) {
	for _, name := range secretNames { // remoteclaw#2905: names with a prefix leaked
		t.Run(name, func(t *testing.T) {
			line := record(t, "e",
				slog.String(name, "CANARY"),
				slog.Any(name, []string{"CANARY"}),
				slog.Group("g", slog.Group("h", slog.String(name, "CANARY"))),
				slog.Any("logvaluer", group{[]slog.Attr{slog.String(name, "CANARY")}}),
				slog.Any("map", map[string]any{
					name: "CANARY", "list": []any{map[string]any{name: 1234567}}}),
				slog.Any("header", http.Header{name: {"CANARY"}, "List": {"kept"}}),
				slog.Any("values", url.Values{name: {"CANARY"}, "list": {"kept"}}),
				slog.Any("slog", []any{slog.String(name, "CANARY"), map[string]slog.Value{
					name: slog.StringValue("CANARY")}}),
				slog.Any("json", jsonObject(name)),
				slog.String("after", "kept"),
			)
			assert.NotContains(t, line, "CANARY")
			assert.NotContains(t, line, "1234567")
			assert.Equal(t, 3, strings.Count(line, "kept"))
		})
	}
	for _, name := range plainNames {
		t.Run("kept "+name, func(t *testing.T) {
			assert.Contains(t, record(t, "e", slog.String(name, "VALUE")), "VALUE")
			inMap := map[string]any{name: "VALUE"}
			assert.Contains(t, record(t, "e", slog.Any("m", inMap)), "VALUE")
		})
	}
	t.Run("struct", func(t *testing.T) {
		n := nested{Plain: "a", Password: "CANARY", Tok: "CANARY", APIKey: "CANARY"}
		n.Deeper = &nested{Plain: "b", Password: "CANARY", Any: &nested{Tok: "CANARY"}}
		line := record(t, "e", slog.Any("v", n), slog.Any("p", &n),
			slog.Any("l", []any{Password("CANARY"), new(Password)}),
			slog.Any("c", &http.Cookie{Name: "sid", Value: "CANARY"}))
		assert.NotContains(t, line, "CANARY")
		assert.Contains(t, line,
			`"v":{"plain":"a","Deeper":{"plain":"b","Deeper":null,`+
				`"Any":{"plain":"","Deeper":null,"Any":null}},"Any":null}`)
		assert.Contains(t, line, `"l":["***","***"],"c":"***"`)
	})
}

func jsonObject(name string) json.RawMessage {
	b, _ := json.Marshal(map[string]any{strings.ToValidUTF8(name, ""): "CANARY"})
	return b
}

var jwt = "eyJhbGciOiJub25lIn0." +
	base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"CANARY"}`)) + ".c2lnbmF0dXJl"

// secretsInside has values that hold CANARY where it must not be seen.
var secretsInside = []string{
	`bearer ticket:x)y"%26Bearer CANARY`, "https://app.example/ws?ticket=CANARY",
	"/ws?a=b&ticket=CANARY&c=d", "ticket=CANARY", "TICKET=CANARY", "/ws?%74icket=CANARY",
	"/ws?ticket%3DCANARY", "/ws?%74%69cket%3dCANARY", "/login?next=%2Fws%3Fticket%3DCANARY%26a%3Db",
	"/ws?ticket=a%26CANARY", "/ws?ticket=a%20CANARY", "/ws?ticket=a#CANARY", "/ws?ticket=a;CANARY",
	"/ws?ticket=a;ticket=CANARY", `/ws?ticket=a"CANARY`, "/ws?ticket=a&ticket=CANARY",
	"/ws?ticket[]=CANARY", "/ws?user[password]=CANARY", "/ws?a+ticket=CANARY",
	"/ws?ｔicket=CANARY",
	"/ws?%EF%BD%94icket=CANARY", "/cb?code=CANARY&state=CANARY", "/cb#access_token=CANARY&x=y",
	"a=1&refresh_token=CANARY",
	"/ws;ticket=CANARY", "/ws/ticket=CANARY/x", "/ticket/CANARY", "/reset-password/CANARY/now",
	"/api/v1/%74oken/CANARY?x", "/api%2Ftoken%2FCANARY%2Fx", // yopass#3906
	"https://user:CANARY@example.com/", "https://CANARY@example.com",
	"postgres://u:p%40CANARY@h/db", "postgres://u:p/CANARY@h/db", "postgres://u:#CANARY@h",
	"redis://:CANARY@h:6379/0", "//u:CANARY@h", "next=https%3A%2F%2Fu%3ACANARY%40h%2F",
	"git+ssh://u:CANARY@[::1]:22/x", "Bearer CANARY", "bearer  CANARY",
	"authorization: bearer CANARY", "a=Bearer%20CANARY", "Bearer+CANARY", jwt, "x " + jwt + " y",
	"/verify/" + jwt, "a=" + jwt, url.QueryEscape(jwt), jwt[:len(jwt)-len(".c2lnbmF0dXJl")],
	"chat, ticket.CANARY", "ticket.CANARY, chat", "ticket.CANARY", "Ticket.CANARY",
	"chat%2C%20ticket.CANARY", "chat,ticket%2ECANARY",
	"GET /ws?ticket=CANARY HTTP/1.1\r\nCookie: a=CANARY; b=CANARY\r\nX-Api-Key: CANARY\r\n" +
		"Authorization: Digest CANARY CANARY\r\n\r\n",
	`{"a":1,"ticket":"CANARY"}`, `{"password" : "x CANARY"}`, `{"a":"{\"token\":\"CANARY\"}"}`,
	`{"secret":"a\"CANARY"}`, `{"code":CANARY}`, `{'token':'x CANARY'}`,
	`{\u0022ticket\u0022:\u0022CANARY\u0022}`, `/ws?a=b\u0026ticket\u003dCANARY`,
	"map[Authorization:[Digest CANARY] B:[c]]", "{User:x Password:CANARY}", "user.ticket=CANARY",
	"password = 'x CANARY'", `token="x CANARY"`, `Get "https://h/ws?ticket=CANARY": EOF`,
	`parse "https://u:CANARY/x@h": invalid port ":CANARY" after host`,
	`"https://a.example" "ticket=CANARY"`, `%22 /ws?ticket=a"CANARY`, `%22 token="x CANARY"`,
	`token="x%22CANARY"`,

	// HOSTILE A17.
	"Cookie:a=b; session=CANARY", "GET / HTTP/1.1\r\nCookie:a=b; session=CANARY\r\n\r\n",
	`x\r\nCookie: a=b; c=CANARY`, "Token: CANARY", "Token: x CANARY", "  Token: CANARY",
	"a: b\nSecret: CANARY CANARY\nc: d", `x\nToken: CANARY`, "password[0]=CANARY",
	"a=b&password[0]=CANARY", "user[tokens][0]=CANARY", "password%5B0%5D=CANARY",
	`{"token":{"deep":{"er":"CANARY"}},"b":1}`, `{"password":["CANARY","CANARY"]}`,
	`{"a":{"token":1e5,"tokens":["CANARY"]}}`, `[{"a":[{"secret":{"x":"CANARY"}}]}]`,
	` {"token" : {"x" : "CANARY"} } `, `{"a":"{\"token\":{\"x\":\"CANARY\"}}"}`,
	`{"a":"x","url":"/ws?ticket=CANARY"}`, `err {"token":{"x":1,"y":"CANARY"}}`,
	`{"token":{"x":1,"y":"CANARY"}`, `https:\/\/ann:CANARY@x`, `{"u":"https:\/\/ann:CANARY@x"}`,
	`"https:\/\/ann:CANARY@x\/y"`, "https:%2F%2Fann:CANARY@x",
	// A word that is itself the beginning of a secret ends no other secret.
	"bearer Bearer CANARY", "Bearer bearer CANARY", "Bearer+Bearer CANARY",
	"bearer authorization: CANARY CANARY", "bearer Cookie:a=b; session=CANARY",
	`bearer token="x CANARY"`, "bearer password = 'x CANARY'", "Bearer x/token/ ticket=CANARY",
	`ticket= token="x CANARY"`, "token= Bearer CANARY", "ticket= Cookie: a=b; c=CANARY",
	"secret=x;Cookie: a=b; c=CANARY", `bearer x\nToken: CANARY`, "ticket= x%0aToken: CANARY",
	`token= x\u000atoken: CANARY`, "/token/Cookie: a=b; c=CANARY", "ticket.Cookie: a=b; c=CANARY",
	"token:Cookie: CANARY CANARY", "Bearer x,ticket.CANARY",

	// The first of equal names stays.
	`{"token":"***","token":"CANARY"}`, `{"a":1,"a":{"token":"CANARY"}}`,
	"Authorization: Basic CANARY", "authorization: CANARY CANARY",
	`{"Authorization":"Basic CANARY"}`, "X-Token:CANARY CANARY",
}

// plainInside has values that are nobody's secret.
var plainInside = []string{
	"4Vb0mXyJ2kQ9sT7hZ1cR8nLw5dGf3aEuYpOiKxBvMqW", "0123456789abcdef", "203.0.113.9", "2001:db8::1",
	"fe80::1%eth0", "[::1]:8080", "/ws", "/api/auth/ws-ticket", "/ws/admin?room=1&name=x",
	"https://app.example:8443/a/b?c=d#e", "u@example.com", "mailto:u@example.com",
	"unknown ticket: abcdefgh", "no ticket", "the ticket.", "ticket. And more",
	"refresh token: connection refused", "bearer", "a basic error", "Basic authentication is off",
	"parse cookie: bad base64", "invalid state", "close code 1006", "close_code=1006",
	"ticket_id=c0ffee", "?tickets=2",
	"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) " +
		"Chrome/126.0.0.0 Safari/537.36",
	"eyes.are.blue", "a.b.c", "v1.2.3-rc.1", "100%", "50%25", "日本語", "a=b=c", "x:y:z",
	"http://[::1]:80/x@y", "dial tcp 127.0.0.1:6379: connect: connection refused",
}

func TestRedact_InsideValues(t *testing.T) {
	for _, v := range secretsInside { // Cotal#454, yopass#3906, narai-primitives#31
		t.Run(v, func(t *testing.T) {
			line := record(t, "e",
				slog.String("s", v),
				slog.Any("err", fmt.Errorf("it failed: %w", errors.New(v))),
				slog.Any("header", http.Header{"Referer": {v}}),
				slog.Any("list", []any{
					[]byte(v), &v, map[string]string{v: v}, json.RawMessage(mustJSON(v))}),
				slog.Any("text", text(v)),
				slog.String(v, v),
				slog.Bool("after", true),
			)
			for _, secret := range []string{"CANARY",
				base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"CANARY"}`)),
				base64.RawStdEncoding.EncodeToString([]byte("u:CANARY"))} {
				assert.NotContains(t, line, secret)
			}
			assert.Contains(t, line, "***")
			assert.Contains(t, line, `"after":true`)
		})
	}
	for _, v := range plainInside {
		t.Run("kept "+v, func(t *testing.T) {
			assert.Equal(t, `{"s":`+mustJSON(v)+`}`, fields(t, record(t, "e", slog.String("s", v))))
		})
	}
	t.Run("only the secret goes", func(t *testing.T) {
		for in, want := range map[string]string{
			"https://u:p@h/ws?a=b&ticket=x&c=d":      "https://***@h/ws?a=b&ticket=***&c=d",
			"/login?next=%2Fws%3Fticket%3Dx%26a%3Db": "/login?next=/ws?ticket=***",
			"chat, ticket.x, other":                  "chat, ticket.***, other",
			"got Bearer x from y":                    "got Bearer *** from y",
			`Get "https://h/ws?ticket=x": EOF`:       `Get "https://h/ws?ticket=***": EOF`,
			`{"a":1,"ticket":"x","b":2}`:             `{"a":1,"ticket":"***","b":2}`,
			"Cookie: a=b\r\nHost: h":                 "Cookie: ***\r\nHost: h",
			"/reset-password/x/now":                  "/reset-password/***/now",
			"{User:x Password:y Age:3}":              "{User:x Password:*** Age:3}",
			"before " + jwt + " after":               "before *** after",
			"ticket=x and then token=y, said http://h": "ticket=*** and then token=*** " +
				"said http://h",
		} {
			assert.Equal(t, `{"s":`+mustJSON(want)+`}`,
				fields(t, record(t, "e", slog.String("s", in))))
		}
	})
	t.Run("masking again changes nothing", func(t *testing.T) {
		for _, v := range secretsInside {
			var once struct{ S string }
			require.NoError(t, json.Unmarshal([]byte(record(t, "e", slog.String("s", v))), &once))
			assert.Equal(t, `{"s":`+mustJSON(once.S)+`}`,
				fields(t, record(t, "e", slog.String("s", once.S))))
		}
	})
	t.Run("however long what goes before it is", func(t *testing.T) {
		for _, v := range secretsInside {
			line := record(t, "e", slog.String("s", strings.Repeat("x", 1<<10)+" "+v),
				slog.String("t", strings.Repeat("y", 40<<10)+" "+v))
			assert.NotContains(t, line, "CANARY")
		}
	})
	t.Run("nor is a secret seen whose end is out of sight", func(t *testing.T) {
		long := strings.Repeat("CANARY", 20<<10)
		for _, v := range []string{"https://u:" + long + "@h/", "https://" + long + "@h/",
			"postgres://u:/" + long + "@h/", "eyJhbGciOiJub25lIn0." + long, "Bearer " + long,
			"ticket=" + long} {
			assert.NotContains(t, record(t, "e", slog.String("s", v)), "CANARY", v[:20])
		}
	})
}

// What goes before a secret may be the beginning of another.
func TestRedact_AfterEachOther(t *testing.T) {
	var line bytes.Buffer
	l := audit.New(slog.NewJSONHandler(&line, nil))
	openQuotes := strings.NewReplacer(`"`, "", "'", "", "[", "") // they change where a value ends
	for _, first := range secretsInside {
		before, _, _ := strings.Cut(openQuotes.Replace(first), "CANARY")
		for _, v := range secretsInside {
			line.Reset()
			l.Record(ctx, "e", slog.String("s", before+" "+v))
			assert.NotContains(t, line.String(), "CANARY", "%s", v)
			assert.Contains(t, line.String(), "***", "%s", v)
		}
	}
}

// A long JSON text is not decoded: where a list or an object ends is not looked for.
func TestRedact_LongJSONText(t *testing.T) {
	pad := strings.Repeat("x", 20<<10)
	for _, secret := range []string{
		`["x",{"y":["z"],"v":"CANARY"}]`, `{"x":{},"y":"CANARY"}`, `"CANARY"`, `["CANARY"]`,
		`{"a":{"b":"CANARY"}}`,
	} {
		line := record(t, "e", slog.String("s", `{"pad":"`+pad+`","a":{"token":`+secret+`}}`))
		assert.NotContains(t, line, "CANARY")
		assert.Contains(t, line, pad)
		assert.Contains(t, line, "***")
	}
}

// Linear: minutes, were it quadratic.
func TestRedact_LongHostileTextIsCut(t *testing.T) {
	for _, part := range []string{"ticket=", "ticket.", "//a:b", "eyJ0.", "Bearer ", `"ticket":"`,
		"/token", "Cookie: ", "%25", "password:", `\"`, "x=[", "eyJ0eyJ0"} {
		line := record(t, "e", slog.String("s", strings.Repeat(part, 1<<20/len(part))))
		assert.Contains(t, line, `"truncated":true`)
	}
}

// mustJSON is v as the log writes it, which is without HTML's escapes.
func mustJSON(v string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		panic("no JSON")
	}
	controls := strings.NewReplacer(`\\`, `\\`, `\n`, `\u000a`, `\r`, `\u000d`)
	return controls.Replace(strings.TrimSuffix(b.String(), "\n"))
}

// FuzzRecord hides a canary behind every door, between whatever the fuzzer
// puts around it: what comes out is one JSON line without it.
func FuzzRecord(f *testing.F) {
	for i, name := range secretNames {
		before, after := plainInside[i%len(plainInside)], plainInside[(i*7)%len(plainInside)]
		f.Add("before "+before, after, name, i)
	}
	for i := range secretsInside {
		f.Add("x"+plainInside[i%len(plainInside)], `"&%25\`, "k", i)
	}
	const canary = "kAnArY7"
	l, path := open(f, &audit.FileOptions{MaxSize: math.MaxInt64})
	written, err := os.Open(path)
	require.NoError(f, err)
	defer written.Close()
	f.Fuzz(func(t *testing.T, before, after, key string, pick int) {
		if strings.Contains(before+after+key, canary) {
			t.Skip()
		}
		name := secretNames[abs(pick)%len(secretNames)]
		// What follows a secret is taken for more of it, and what goes
		// before one must leave it one: a name begins after a delimiter.
		door := strings.ReplaceAll(secretsInside[abs(pick)%len(secretsInside)], "CANARY", canary)
		door = strings.ReplaceAll(door,
			base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"CANARY"}`)), "eyJ"+canary)
		door = strings.ReplaceAll(door, base64.StdEncoding.EncodeToString([]byte("u:CANARY")),
			base64.StdEncoding.EncodeToString([]byte("u:"+canary)))
		clean := strings.Map(func(r rune) rune {
			// An open quote or bracket changes where a value ends.
			if strings.ContainsRune(`"'[`, r) {
				return -1
			}
			return r
		}, before)
		value := clean + " " + door
		attrs := []slog.Attr{
			slog.String(key, value), slog.Any("err", errors.New(value)),
			slog.Any("b", []byte(value+" "+after)),
			slog.Any(key+"2", map[string]any{
				name: canary, key: map[string]any{name: []string{canary}}, before: after}),
			slog.Group(key, slog.String(name, canary), slog.String(after, before)),
			slog.Any("h", http.Header{"Referer": {value}, name: {canary}}),
			slog.Any("q", url.Values{"q": {value}, name: {canary}}),
			slog.String(value, after), slog.String(before, after),
			slog.String("u", "https://u:"+canary+"@h/"+after),
			slog.String("t", "/ws?ticket="+canary+after),
			slog.String("p", "chat, ticket."+canary+" "+after),
		}
		l.Record(ctx, "e", attrs...)
		b, err := io.ReadAll(written) // what came since
		require.NoError(t, err)
		got := string(b)
		line, ok := strings.CutSuffix(got, "\n")
		if !ok || strings.Contains(line, "\n") || !json.Valid([]byte(line)) {
			t.Fatalf("not one JSON line: %q", got)
		}
		if strings.Contains(line, canary) {
			t.Fatalf("leaked: %q", line)
		}
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}
