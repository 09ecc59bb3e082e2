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

// What a credential is: the same questions to each of the ready-made
// Authenticators, over a raw connection, where nothing mends a header.
func TestCredentials(t *testing.T) {
	none, dead := middleware.ErrNoSession, middleware.ErrSessionExpired
	type row struct {
		name, source string
		lines        []string
		value        string // what lookup is asked for, if it is
		err          error
	}
	cookie := []row{
		{name: "one", lines: []string{"Cookie: sid=abc"}, value: "abc"},
		{name: "among others", lines: []string{"Cookie: a=b; sid=abc; c=d"}, value: "abc"},
		{name: "without spaces", lines: []string{"Cookie: a=b;sid=abc;c=d;"}, value: "abc"},
		{name: "in a second line", source: "RFC 9113 section 8.2.3", lines: []string{"Cookie: a=b", "Cookie: sid=abc"}, value: "abc"},
		{name: "twice the same", source: "RFC 6265 section 5.4", lines: []string{"Cookie: sid=abc; sid=abc", "Cookie: sid=abc"}, value: "abc"},
		{name: "quoted", source: "RFC 6265 section 4.1.1", lines: []string{`Cookie: sid="abc"`}, value: "abc"},
		{name: "with = in it", lines: []string{"Cookie: sid=YWJj=="}, value: "YWJj=="},
		{name: "with a space in it", lines: []string{"Cookie: sid=a b"}, value: "a b"},
		{name: "with a comma in it", lines: []string{"Cookie: sid=a,b"}, value: "a,b"},
		{name: "header in lower case", source: "RFC 9110 section 5.1", lines: []string{"cookie: sid=abc"}, value: "abc"},

		{name: "none", lines: nil, err: none},
		{name: "another", lines: []string{"Cookie: side=abc; xsid=abc"}, err: none},
		{name: "name in another case", source: "RFC 6265 section 5.4", lines: []string{"Cookie: SID=abc"}, err: none},
		{name: "cleared", lines: []string{"Cookie: sid="}, err: none},
		{name: "cleared, quoted", lines: []string{`Cookie: sid=""`}, err: none},
		{name: "without a value", lines: []string{"Cookie: sid"}, err: none},
		{name: "as a value", lines: []string{"Cookie: a=sid=abc"}, err: none},
		{name: "as an attribute", source: "RFC 2965", lines: []string{"Cookie: $Version=1; $sid=abc"}, err: none},
		{name: "3,000 others", source: "CVE-2025-58186", lines: []string{"Cookie: sid=abc" + strings.Repeat("; a", 3000)}, err: none},
		{name: "3,000 in all", source: "CVE-2025-58186", lines: []string{"Cookie: sid=abc" + strings.Repeat("; a", 2999)}, value: "abc"},

		{name: "two that differ", source: "RFC 6265 section 8.6", lines: []string{"Cookie: sid=abc; sid=abd"}, err: dead},
		{name: "two that differ, in two lines", source: "RFC 6265 section 8.6", lines: []string{"Cookie: sid=abc", "Cookie: a=b; sid=abd"}, err: dead},
		{name: "two, one of them empty", source: "RFC 6265 section 8.6", lines: []string{"Cookie: sid=abc; sid="}, err: dead},
		{name: "two, the first of them empty", source: "RFC 6265 section 8.6", lines: []string{"Cookie: sid=; sid=abc"}, err: dead},
		{name: "two, one of them malformed", source: "RFC 6265 section 8.6", lines: []string{`Cookie: sid=abc; sid=a\c`}, err: dead},
		{name: "a backslash", source: "CVE-2026-25748", lines: []string{`Cookie: sid=a\c`}, err: dead},
		{name: "a quote", source: "CVE-2026-25748", lines: []string{`Cookie: sid=a"c`}, err: dead},
		{name: "one quote", source: "CVE-2026-25748", lines: []string{`Cookie: sid="`}, err: dead},
		{name: "outside ASCII", source: "RFC 6265 section 4.1.1", lines: []string{"Cookie: sid=\xc3\xa9"}, err: dead},
		{name: "not UTF-8", source: "RFC 6265 section 4.1.1", lines: []string{"Cookie: sid=\xff"}, err: dead},
		{name: "a tab", source: "RFC 6265 section 4.1.1", lines: []string{"Cookie: sid=a\tb"}, err: dead},
	}
	bearer := []row{
		{name: "one", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer abc"}, value: "abc"},
		{name: "scheme in any case", source: "RFC 9110 section 11.1", lines: []string{"Authorization: bEARER abc"}, value: "abc"},
		{name: "several spaces", source: "RFC 9110 section 11.4", lines: []string{"Authorization: Bearer   abc"}, value: "abc"},
		{name: "the whole alphabet", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer aZ09-._~+/=="}, value: "aZ09-._~+/=="},

		{name: "none", err: none},
		{name: "another scheme", source: "RFC 9110 section 11.1", lines: []string{"Authorization: Basic YTpi"}, err: none},
		{name: "a scheme that begins alike", lines: []string{"Authorization: Bearers abc"}, err: none},
		{name: "a token alone", lines: []string{"Authorization: abc"}, err: none},
		{name: "empty", lines: []string{"Authorization: "}, err: none},
		{name: "in another header", lines: []string{"Proxy-Authorization: Bearer abc"}, err: none},

		{name: "without a token", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer"}, err: dead},
		{name: "only padding", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer =="}, err: dead},
		{name: "padding inside", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer a=b"}, err: dead},
		{name: "two tokens", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer abc abd"}, err: dead},
		{name: "a list", source: "RFC 9110 section 11.6.2", lines: []string{"Authorization: Bearer abc, Bearer abd"}, err: dead},
		{name: "quoted", source: "RFC 6750 section 2.1", lines: []string{`Authorization: Bearer "abc"`}, err: dead},
		{name: "outside ASCII", source: "RFC 6750 section 2.1", lines: []string{"Authorization: Bearer \xc3\xa9"}, err: dead},
		{name: "two headers", source: "RFC 9110 section 11.6.2", lines: []string{"Authorization: Bearer abc", "Authorization: Bearer abc"}, err: dead},
		{name: "two schemes", source: "RFC 9110 section 11.6.2", lines: []string{"Authorization: Basic YTpi", "Authorization: Bearer abc"}, err: dead},
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

// What lookup says, and what it means: a client that presented a credential was not
// without one.
func TestLookupAnswers(t *testing.T) {
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
			cookies(), middleware.BearerSessions(lookup), middleware.FirstOf(cookies(), middleware.BearerSessions(lookup)),
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
func TestLookupGetsRequestContext(t *testing.T) {
	type key struct{}
	a := middleware.CookieSessions("sid", func(ctx context.Context, _ string) (*middleware.Session, error) {
		return &middleware.Session{UserID: ctx.Value(key{}).(string)}, ctx.Err()
	})
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

func TestFirstOf(t *testing.T) {
	says := func(s *middleware.Session, err error) middleware.Authenticator {
		return middleware.AuthenticatorFunc(func(http.ResponseWriter, *http.Request) (*middleware.Session, error) { return s, err })
	}
	over := ann()
	over.ExpiresAt = time.Now().Add(-time.Second)
	errSlow := errors.New("took too long")
	var (
		session = says(ann(), nil)
		ended   = says(over, nil)
		none    = says(nil, middleware.ErrNoSession)
		neither = says(nil, nil)
		dead    = says(nil, errors.Join(errors.New("x"), middleware.ErrSessionExpired))
		down    = says(nil, errDown)
		slow    = says(nil, errSlow)
		never   = middleware.AuthenticatorFunc(func(http.ResponseWriter, *http.Request) (*middleware.Session, error) {
			t.Error("asked, though the one before recognised the request")
			return nil, nil
		})
	)
	for _, c := range []struct {
		name string
		as   []middleware.Authenticator
		errs []error // nil: a session
	}{
		{"the first", []middleware.Authenticator{session, never}, nil},
		{"the second", []middleware.Authenticator{none, session, never}, nil},
		{"behind a dead one", []middleware.Authenticator{dead, session}, nil},
		{"behind one that is over", []middleware.Authenticator{ended, session}, nil},
		{"behind one that is unreachable", []middleware.Authenticator{down, session}, nil},
		{"behind neither session nor error", []middleware.Authenticator{neither, session}, nil},
		{"nested", []middleware.Authenticator{middleware.FirstOf(none, down), middleware.FirstOf(dead, session)}, nil},
		{"none", []middleware.Authenticator{none, none}, []error{middleware.ErrNoSession}},
		{"neither session nor error", []middleware.Authenticator{neither}, []error{middleware.ErrNoSession}},
		{"none and dead", []middleware.Authenticator{none, dead, none}, []error{middleware.ErrSessionExpired}},
		{"over", []middleware.Authenticator{ended}, []error{middleware.ErrSessionExpired}},
		{"dead and unreachable", []middleware.Authenticator{dead, down}, []error{errDown}},
		{"unreachable and dead", []middleware.Authenticator{down, dead}, []error{errDown}},
		{"unreachable and none", []middleware.Authenticator{down, none}, []error{errDown}},
		{"two unreachable", []middleware.Authenticator{down, slow}, []error{errDown, errSlow}},
		{"nested, unreachable", []middleware.Authenticator{middleware.FirstOf(none, down), dead}, []error{errDown}},
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
			assert.NotErrorIs(t, err, middleware.ErrSessionExpired, "%s: that would be a logout", c.name)
			assert.NotErrorIs(t, err, middleware.ErrNoSession, "%s: that would be a logout", c.name)
		}
	}
}

func TestContextSessions(t *testing.T) {
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
	_, err = middleware.ContextSessions.Authenticate(nil, r.WithContext(middleware.WithSession(ctx, nil)))
	assert.ErrorIs(t, err, middleware.ErrNoSession)

	want := ann()
	inner := middleware.WithSession(middleware.WithSession(ctx, &middleware.Session{UserID: "outer"}), want)
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
