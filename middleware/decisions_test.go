package middleware_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
)

// A 405 of the Gate names what a CONNECT may be instead: a Gate stands before more than GET.
func TestGate_AllowOfConnectHasAllMethods(t *testing.T) {
	gate, _ := newGate(t, middleware.GateOptions{})
	a := send(t, serve(t, gate.Wrap(whoami)), rawRequest("CONNECT", "/"))
	assert.Equal(t, 405, a.Status)
	assert.Equal(t, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", a.Header.Get("Allow"))
}

// An origin that does not parse is never the request's own, whatever its Host says.
func TestOrigins_HostOfTheSameFormAllowsNothing(t *testing.T) {
	issuer := newIssuer(t)
	log, _ := newAudit()
	opts := &middleware.GuardOptions{Audit: log, ClientIP: eachFromElsewhere()}
	guard, err := middleware.NewGuard(issuer, opts)
	require.NoError(t, err)
	srv := serve(t, guard.Wrap(whoami))
	for _, c := range []struct {
		name, host, origin string
		status             int // 401: allowed, and without a ticket
	}{
		{"the first port", "app.example:1", "http://app.example:1", 401},
		{"leading zero in the port", "app.example:0443", "http://app.example:0443", 403},
		{"port zero", "app.example:0", "http://app.example:0", 403},
		{"no Host, null", "", "null", 403},
		{"no Host, empty", "", "", 403},
		{"no Host, no host", "", "http://", 403},
	} {
		request := handshake("/ws", "Origin: "+c.origin)
		request = strings.Replace(request, "Host: app.example", "Host: "+c.host, 1)
		assert.Equal(t, c.status, send(t, srv, request).Status, c.name)
	}
	for origin, valid := range map[string]bool{
		"https://app.example:1":     true,
		"https://app.example:65535": true,
		"https://app.example:0":     false,
		"https://app.example:0443":  false,
	} {
		_, err := middleware.NewGuard(issuer, &middleware.GuardOptions{Origins: []string{origin}})
		assert.Equal(t, valid, err == nil, "%s: %v", origin, err)
	}
}

// A broken escape may stand in the very parameter that has the ticket.
func TestConcealTicket_BrokenEscapeBesideTheTicket(t *testing.T) {
	for _, over := range overBoth(t, middleware.ConcealTicket(tells)) {
		for _, query := range []string{"ticket=" + minted + "%zz", "%zticket=" + minted} {
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
