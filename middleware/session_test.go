package middleware_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// Which header lines are a credential, over a raw connection that changes no header.
func TestSessions_LookUpOneWellFormedCredential(t *testing.T) {
	type row struct {
		name, source string
		lines        []string
		value        string // what lookup is asked for, if it is
		err          error
	}
	asks := func(value string, err error) func(name, source string, lines ...string) row {
		return func(name, source string, lines ...string) row {
			return row{name, source, lines, value, err}
		}
	}
	found := func(value string) func(string, string, ...string) row { return asks(value, nil) }
	abc := found("abc")
	none, dead := asks("", middleware.ErrNoSession), asks("", middleware.ErrSessionExpired)
	cookie := []row{
		abc("one", "", "Cookie: sid=abc"),
		abc("among others", "", "Cookie: a=b; sid=abc; c=d"),
		abc("without spaces", "", "Cookie: a=b;sid=abc;c=d;"),
		abc("in a second line", "RFC 9113 8.2.3", "Cookie: a=b", "Cookie: sid=abc"),
		abc("twice the same", "RFC 6265 5.4", "Cookie: sid=abc; sid=abc", "Cookie: sid=abc"),
		abc("quoted", "RFC 6265 4.1.1", `Cookie: sid="abc"`),
		found("YWJj==")("with = in it", "", "Cookie: sid=YWJj=="),
		found("a b")("with a space in it", "", "Cookie: sid=a b"),
		found("a,b")("with a comma in it", "", "Cookie: sid=a,b"),
		abc("header in lower case", "RFC 9110 5.1", "cookie: sid=abc"),
		none("none", ""),
		none("another", "", "Cookie: side=abc; xsid=abc"),
		none("name in another case", "RFC 6265 5.4", "Cookie: SID=abc"),
		none("cleared", "", "Cookie: sid="),
		none("cleared, quoted", "", `Cookie: sid=""`),
		none("without a value", "", "Cookie: sid"),
		none("as a value", "", "Cookie: a=sid=abc"),
		none("as an attribute", "RFC 2965", "Cookie: $Version=1; $sid=abc"),
		none("3,000 others", "CVE-2025-58186", "Cookie: sid=abc"+strings.Repeat("; a", 3000)),
		abc("3,000 in all", "CVE-2025-58186", "Cookie: sid=abc"+strings.Repeat("; a", 2999)),
		dead("two that differ", "RFC 6265 8.6", "Cookie: sid=abc; sid=abd"),
		dead("two that differ, in two lines", "RFC 6265 8.6", "Cookie: sid=abc",
			"Cookie: a=b; sid=abd"),
		dead("two, one of them empty", "RFC 6265 8.6", "Cookie: sid=abc; sid="),
		dead("two, the first of them empty", "RFC 6265 8.6", "Cookie: sid=; sid=abc"),
		dead("two, one of them malformed", "RFC 6265 8.6", `Cookie: sid=abc; sid=a\c`),
		dead("a backslash", "CVE-2026-25748", `Cookie: sid=a\c`),
		dead("a quote", "CVE-2026-25748", `Cookie: sid=a"c`),
		dead("one quote", "CVE-2026-25748", `Cookie: sid="`),
		dead("outside ASCII", "RFC 6265 4.1.1", "Cookie: sid=\xc3\xa9"),
		dead("not UTF-8", "RFC 6265 4.1.1", "Cookie: sid=\xff"),
		dead("a tab", "RFC 6265 4.1.1", "Cookie: sid=a\tb"),
	}
	bearer := []row{
		abc("one", "RFC 6750 2.1", "Authorization: Bearer abc"),
		abc("scheme in any case", "RFC 9110 11.1", "Authorization: bEARER abc"),
		abc("several spaces", "RFC 9110 11.4", "Authorization: Bearer   abc"),
		found("aZ09-._~+/==")("the whole alphabet", "RFC 6750 2.1",
			"Authorization: Bearer aZ09-._~+/=="),
		none("none", ""),
		none("another scheme", "RFC 9110 11.1", "Authorization: Basic YTpi"),
		none("a scheme that begins alike", "", "Authorization: Bearers abc"),
		none("a token alone", "", "Authorization: abc"),
		none("empty", "", "Authorization: "),
		none("in another header", "", "Proxy-Authorization: Bearer abc"),
		dead("without a token", "RFC 6750 2.1", "Authorization: Bearer"),
		dead("only padding", "RFC 6750 2.1", "Authorization: Bearer =="),
		dead("padding inside", "RFC 6750 2.1", "Authorization: Bearer a=b"),
		dead("two tokens", "RFC 6750 2.1", "Authorization: Bearer abc abd"),
		dead("a list", "RFC 9110 11.6.2", "Authorization: Bearer abc, Bearer abd"),
		dead("quoted", "RFC 6750 2.1", `Authorization: Bearer "abc"`),
		dead("outside ASCII", "RFC 6750 2.1", "Authorization: Bearer \xc3\xa9"),
		dead("two headers", "RFC 9110 11.6.2", "Authorization: Bearer abc",
			"Authorization: Bearer abc"),
		dead("two schemes", "RFC 9110 11.6.2", "Authorization: Basic YTpi",
			"Authorization: Bearer abc"),
	}

	var asked []string
	ask := func(_ context.Context, value string) (*middleware.Session, error) {
		asked = append(asked, value)
		return ann(), nil
	}
	for kind, suite := range map[string]struct {
		a    middleware.Authenticator
		rows []row
	}{
		"cookie": {middleware.CookieSessions("sid", ask), cookie},
		"bearer": {middleware.BearerSessions(ask), bearer},
	} {
		var err error
		var s *middleware.Session
		srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err = suite.a.Authenticate(w, r)
		}))
		for _, c := range suite.rows {
			asked = nil
			send(t, srv, get("/", c.lines...))
			if c.err != nil {
				assert.ErrorIs(t, err, c.err, "%s: %s (%s)", kind, c.name, c.source)
				assert.Empty(t, asked, "%s: %s (%s)", kind, c.name, c.source)
				continue
			}
			assert.NoError(t, err, "%s: %s (%s)", kind, c.name, c.source)
			assert.Equal(t, ann(), s, "%s: %s (%s)", kind, c.name, c.source)
			assert.Equal(t, []string{c.value}, asked, "%s: %s (%s)", kind, c.name, c.source)
		}
	}
}

// A client that presented a credential never gets ErrNoSession, whatever lookup says.
func TestLookup_FailureIsNeverErrNoSession(t *testing.T) {
	for _, c := range []struct {
		cookie string
		err    error
	}{
		{goodCookie, nil},
		{unknownCookie, middleware.ErrSessionExpired},
		{noneCookie, middleware.ErrSessionExpired},
		{deadCookie, middleware.ErrSessionExpired},
		{downCookie, errDown},
		{slowCookie, context.DeadlineExceeded},
	} {
		for _, a := range []middleware.Authenticator{
			cookies(), middleware.BearerSessions(lookup),
			middleware.FirstOf(cookies(), middleware.BearerSessions(lookup)),
		} {
			r, err := http.NewRequest("GET", "/", nil)
			require.NoError(t, err)
			r.Header.Set("Cookie", "sid="+c.cookie)
			r.Header.Set("Authorization", "Bearer "+c.cookie)
			s, err := a.Authenticate(nil, r)
			if c.err == nil {
				assert.NoError(t, err)
				assert.Equal(t, ann(), s)
				continue
			}
			assert.Nil(t, s, c.cookie)
			assert.ErrorIs(t, err, c.err, c.cookie)
			assert.NotErrorIs(t, err, middleware.ErrNoSession, c.cookie)
		}
	}
}

// lookup waits no longer than the request does.
func TestLookup_GetsTheRequestsContext(t *testing.T) {
	type key struct{}
	lookup := func(ctx context.Context, _ string) (*middleware.Session, error) {
		return &middleware.Session{UserID: ctx.Value(key{}).(string)}, ctx.Err()
	}
	a := middleware.CookieSessions("sid", lookup)
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "bob"))
	r, err := http.NewRequestWithContext(ctx, "GET", "/", nil)
	require.NoError(t, err)
	r.Header.Set("Cookie", "sid=x")
	s, err := a.Authenticate(nil, r)
	require.NoError(t, err)
	assert.Equal(t, "bob", s.UserID)
	cancel()
	_, err = a.Authenticate(nil, r)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestFirstOf_ReturnsTheFirstSession(t *testing.T) {
	type authenticate = middleware.AuthenticatorFunc
	answers := func(s *middleware.Session, err error) middleware.Authenticator {
		return authenticate(func(http.ResponseWriter, *http.Request) (*middleware.Session, error) {
			return s, err
		})
	}
	over := ann()
	over.ExpiresAt = time.Now().Add(-time.Second)
	errSlow := errors.New("took too long")
	var (
		session = answers(ann(), nil)
		ended   = answers(over, nil)
		none    = answers(nil, middleware.ErrNoSession)
		neither = answers(nil, nil)
		dead    = answers(nil, errors.Join(errors.New("x"), middleware.ErrSessionExpired))
		down    = answers(nil, errDown)
		slow    = answers(nil, errSlow)
		never   = authenticate(func(
			http.ResponseWriter, *http.Request,
		) (*middleware.Session, error) {
			t.Error("asked, though the one before recognised the request")
			return nil, nil
		})
	)
	type all = []middleware.Authenticator
	type row struct {
		name string
		as   all
		errs []error // nil: a session
	}
	found := func(name string, as ...middleware.Authenticator) row { return row{name, as, nil} }
	noSession := func(name string, as ...middleware.Authenticator) row {
		return row{name, as, []error{middleware.ErrNoSession}}
	}
	expired := func(name string, as ...middleware.Authenticator) row {
		return row{name, as, []error{middleware.ErrSessionExpired}}
	}
	unreachable := func(name string, as ...middleware.Authenticator) row {
		return row{name, as, []error{errDown}}
	}
	for _, c := range []row{
		found("the first", session, never),
		found("the second", none, session, never),
		found("behind a dead one", dead, session),
		found("behind one that is over", ended, session),
		found("behind one that is unreachable", down, session),
		found("behind neither session nor error", neither, session),
		found("nested", middleware.FirstOf(none, down), middleware.FirstOf(dead, session)),
		noSession("none", none, none),
		noSession("neither session nor error", neither),
		expired("none and dead", none, dead, none),
		expired("over", ended),
		unreachable("dead and unreachable", dead, down),
		unreachable("unreachable and dead", down, dead),
		unreachable("unreachable and none", down, none),
		{"two unreachable", all{down, slow}, []error{errDown, errSlow}},
		unreachable("nested, unreachable", middleware.FirstOf(none, down), dead),
	} {
		r, err := http.NewRequest("GET", "/", nil)
		require.NoError(t, err)
		s, err := middleware.FirstOf(c.as...).Authenticate(nil, r)
		if c.errs == nil {
			assert.NoError(t, err, c.name)
			assert.Equal(t, ann(), s, c.name)
			continue
		}
		assert.Nil(t, s, c.name)
		for _, want := range c.errs {
			assert.ErrorIs(t, err, want, c.name)
		}
		if c.errs[0] == errDown {
			assert.NotErrorIs(t, err, middleware.ErrSessionExpired,
				"%s: that would be a logout", c.name)
			assert.NotErrorIs(t, err, middleware.ErrNoSession, "%s: that would be a logout", c.name)
		}
	}
}

func TestContextSessions_FindsSessionOfContext(t *testing.T) {
	ctx := t.Context()
	s, ok := middleware.SessionFrom(ctx)
	assert.False(t, ok)
	assert.Nil(t, s)

	s, ok = middleware.SessionFrom(middleware.WithSession(ctx, nil))
	assert.False(t, ok, "a nil session is none")
	assert.Nil(t, s)

	r, err := http.NewRequest("GET", "/", nil)
	require.NoError(t, err)
	_, err = middleware.ContextSessions.Authenticate(nil, r)
	assert.ErrorIs(t, err, middleware.ErrNoSession)
	_, err = middleware.ContextSessions.Authenticate(nil,
		r.WithContext(middleware.WithSession(ctx, nil)))
	assert.ErrorIs(t, err, middleware.ErrNoSession)

	want := ann()
	outer := middleware.WithSession(ctx, &middleware.Session{UserID: "outer"})
	inner := middleware.WithSession(outer, want)
	s, err = middleware.ContextSessions.Authenticate(nil, r.WithContext(inner))
	assert.NoError(t, err)
	assert.Same(t, want, s)

	over := ann()
	over.ExpiresAt = time.Now()
	gate, rec := newGateOf(t, middleware.ContextSessions, middleware.GateOptions{})
	_, rej := gate.Authenticate(nil, r.WithContext(middleware.WithSession(ctx, over)))
	require.NotNil(t, rej, "a session that is over lets nobody in, wherever it comes from")
	assert.Equal(t, "session_expired", rej.Code)
	assert.Len(t, rec.Lines(t), 1)
}
