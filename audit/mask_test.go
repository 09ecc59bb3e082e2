package audit_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// asItIs says that nothing of a value is a secret.
const asItIs = "="

// maskedExactly are values at the edges of what the masker takes for a secret, and what is left of
// them: where a name begins and ends, where its value does, in a query (RFC 3986, 3.4), in JSON
// (RFC 8259), in a header (RFC 9110, 5.5), in a list of subprotocols (RFC 6455, 11.3.4), in a JWT
// (RFC 7519), in userinfo (RFC 3986, 3.2.1), in a path, and behind a scheme (RFC 6750, RFC 7617).
var maskedExactly = [][2]string{
	{" =x", asItIs}, {"=x", asItIs}, {`"=x`, asItIs}, {`\"=x`, asItIs}, {" :x", asItIs},
	{`":x`, asItIs}, {"'':x", asItIs}, {"ticket=", asItIs}, {"ticket= ", asItIs},
	{"ticket =x", "ticket =***"}, {`ticket" =x`, `ticket" =***`}, {"ticket:", asItIs},
	{"ticket: ", asItIs}, {`{"ticket":`, asItIs}, {`{"ticket":\`, `{"ticket":***`},
	{"ticket='", asItIs}, {`ticket="`, asItIs}, {"x0ticket=v", asItIs}, {"x9ticket=v", asItIs},
	{"xaticket=v", asItIs}, {"xzticket=v", asItIs}, {"xAticket=v", asItIs}, {"xZticket=v", asItIs},
	{"a|ticket=v w", "a|ticket=*** w"}, {"a{ticket=v w", "a{ticket=*** w"},
	{"a~ticket=v w", "a~ticket=*** w"}, {"a@ticket=v w", "a@ticket=*** w"},
	{"a`ticket=v w", "a`ticket=*** w"}, {"a/ticket=v w", "a/ticket=*** w"},
	{"a:ticket=v w", "a:ticket=*** w"}, {"a^ticket=v w", "a^ticket=*** w"},
	{"[ticket]=v", "[ticket]=***"}, {"a[ticket]=v", "a[ticket]=***"}, {"]ticket=v", "]ticket=***"},
	{`{"ticket":"a\"b","c":"d"}`, `{"ticket":"***","c":"d"}`},
	{`"{\"ticket\":\"a\\\"b\",\"c\":\"d\"}"`, `"{\"ticket\":\"***\",\"c\":\"d\"}"`},
	{`{\"ticket\":\"a\",\"c\":\"d\"}`, `{\"ticket\":\"***\",\"c\":\"d\"}`},
	{`ticket="a" b`, `ticket="***" b`}, {"ticket='a' b", "ticket='***' b"},
	{"ticket='a'b&c", "ticket='***'***&c"}, {`ticket=""a b`, `ticket=""*** b`},
	{`ticket="a",b="c"`, `ticket="***",b="c"`}, {`(ticket="a")`, `(ticket="***")`},
	{`ticket='a\'b' c`, "ticket='***' c"}, {`{"token":a,"b":1}`, `{"token":***,"b":1}`},
	{`{"token":a]`, `{"token":***]`}, {`{"token":a)b`, `{"token":***)b`},
	{"token:a&b=c", "token:***"}, {"token:a}b", "token:***"},
	{"X-Api-Key: a b\nHost: h", "X-Api-Key: ***\nHost: h"},
	{"X-Api-Key: a b\rHost: h", "X-Api-Key: ***\rHost: h"},
	{`"X-Api-Key: a b" c`, `"X-Api-Key: ***`}, {"authorization: a b\nc", "authorization: ***\nc"},
	{"my authorization: a b\nc", "my authorization: ***\nc"},
	{"xauthorization: a b c", "xauthorization: ***"}, {"Cookie: =b c\nd", "Cookie: ***\nd"},
	{"Cookie: a=b; c\nd", "Cookie: ***\nd"}, {"Cookie: none\na=b", "Cookie: ***\na=b"},
	{"cookie: x=y", "cookie: ***"}, {"xticket.v", asItIs}, {"ticket.v w", "ticket.*** w"},
	{"ticket.v,w", "ticket.***,w"}, {"ticket.v;w", "ticket.***;w"}, {"ticket.v&w", "ticket.***&w"},
	{`ticket.v"w`, `ticket.***"w`}, {"ticket.v'w", "ticket.***'w"}, {"-ticket.v", asItIs},
	{"_ticket.v", asItIs}, {"9ticket.v", asItIs}, {"zticket.v", asItIs}, {"Zticket.v", asItIs},
	{",ticket.v,x", ",ticket.***,x"}, {"{ticket.v}", "{ticket.***"}, {"eyJh.x.y", "***"},
	{"eyAiYQ.x.y", "***"}, {"ewoiYQ.x.y", "***"}, {"ew0iYQ.x.y", "***"}, {"ewkiYQ.x.y", "***"},
	{"e3giYQ.x.y", asItIs}, {"WyJhIg.x.y", asItIs}, {"eyJh.eyJiIg", "***"}, {"eyJh.eyIX", "***"},
	{"eyJh.xyz", asItIs}, {"eyJh.eyJ", asItIs}, {"aeyJh.b.c", "a***"}, {"eyJ.b.c", asItIs},
	{"eyJh.b.c", "***"}, {"eyJh.b.c.d.e f", "*** f"}, {"{eyJh.b.c|", "{***|"}, {"e.yJ.h", asItIs},
	{"x.eyJh.b.c", "x.***"}, {"//a@h", "//***@h"}, {"//@h", asItIs}, {"//a:b@h", "//***@h"},
	{"//a:80/@x", asItIs}, {"//a:8x/@x", "//***@x"}, {"//a:/@x", "//***@x"},
	{"//[::1]:80/x@y", asItIs}, {"//a/b@c", asItIs}, {"//a?b@c", asItIs}, {"//a#b@c", asItIs},
	{`//a\b@c`, asItIs}, {"//a:b c@d", asItIs}, {"//a:b/c@d@e f", "//***@d@e f"},
	{"/ticket/a/b", "/ticket/***/b"}, {"/ticket/a?b", "/ticket/***?b"},
	{"/ticket/a#b", "/ticket/***#b"}, {"/ticket/a&b", "/ticket/***&b"}, {"/code/a", asItIs},
	{"/x y/ticket/a", "/x y/ticket/***"}, {"/a ticket/v", asItIs}, {"ticket/v", asItIs},
	{"/ticket//v", "/ticket//***"}, {"/ticket//u:p@h", "/ticket//***"}, {"/ticket///", asItIs},
	{"/%74icket%2Fa%2Fb", "/ticket/***"}, {"Bearer a b", "Bearer *** b"},
	{"Bearer  a,b", "Bearer  ***,b"}, {"Bearer a;b", "Bearer ***;b"},
	{"Bearer a&b", "Bearer ***&b"}, {`Bearer a"b`, `Bearer ***"b`}, {"Bearer a'b", "Bearer ***'b"},
	{`Bearer "a" b`, `Bearer "***" b`}, {`Bearer \"a\" b`, `Bearer \"***" b`},
	{"xBearer a b", asItIs}, {"-Bearer a b", asItIs}, {",bearer a b", ",bearer *** b"},
	{"bearer\ta b", "bearer\t*** b"}, {"bearer \t+a b", "bearer \t+*** b"}, {"Bearer", asItIs},
	{"Bearer ", asItIs}, {"Basic dTpw x", asItIs},
	{"Authorization: Basic OnA=;x", "Authorization: ***"}, {"Basic dXA=", asItIs},
	{"xbasic dTpw", asItIs}, {`invalid port ":a" after`, `invalid port "***" after`},
	{`invalid port "a`, `invalid port "***`}, {`invalid  port "a"`, asItIs},
	{"a=1&ticket=v&code=w&b=2", "a=1&ticket=***&code=***&b=2"}, {"ticket=v&", "ticket=***&"},
	{"ticket=a%26b&c", "ticket=***&c"}, {"x%26ticket%3Dv%26b%3D1", "x+ticket=***"},
	{"ticket%253Da%2526b%26c", asItIs}, {"Bearer ticket=v", "Bearer ***"},
	{"//u:Bearer x@h", "//u:Bearer ***"}, {"ticket=//u:p@h", "ticket=***"},
	{"token=Bearer x y", "token=*** *** y"}, {"a.ticket=v", "a.ticket=***"},
	{".ticket=v", ".ticket=***"}, {"ticket.=v", "ticket.***"}, {"a.ticketx=v", asItIs},
}

func TestRedact_Exactly(t *testing.T) {
	for _, row := range maskedExactly {
		want := row[1]
		if want == asItIs {
			want = row[0]
		}
		assert.Equal(t, want, masked(t, row[0]), "%q", row[0])
		assert.Equal(t, want, maskedForHandler(t, row[0]), "%q, for a handler", row[0])
	}
	// Many a look for the end of something is no reason to hide.
	long := strings.Repeat("see https://h/x ", 60)
	assert.Equal(t, long, masked(t, long))
}

// masked is what a log makes of a value.
func masked(t *testing.T, value string) string {
	t.Helper()
	var got struct{ S string }
	require.NoError(t, json.Unmarshal([]byte(record(t, "e", slog.String("s", value))), &got))
	return got.S
}

// maskedForHandler is what a log makes of a value for a handler that is not its own.
func maskedForHandler(t *testing.T, value string) string {
	t.Helper()
	var b strings.Builder
	audit.New(slog.NewJSONHandler(&b, nil)).Record(ctx, audit.Event(value), slog.String("s", value))
	var got struct{ Event, Msg, S string }
	require.NoError(t, json.Unmarshal([]byte(b.String()), &got))
	assert.Equal(t, got.S, got.Event, "an event may be named after a request")
	assert.Equal(t, got.S, got.Msg)
	return got.S
}
