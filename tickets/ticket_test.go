package tickets_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
)

// verbs are all that fmt knows, and one that it does not.
var verbs = []string{
	"%v",
	"%+v",
	"%#v",
	"%s",
	"%q",
	"%x",
	"%X",
	"% x",
	"%d",
	"%c",
	"%U",
	"%o",
	"%t",
	"%T",
	"%200v",
	"%.3s",
	"%z",
}

// printedWithoutJSON is everything that can be made of a value by printing it.
func printedWithoutJSON(v any) string {
	var b bytes.Buffer
	for _, verb := range verbs {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	fmt.Fprintln(
		&b,
		v,
		&v,
		[]any{v},
		map[string]any{"k": v},
		struct{ V any }{v},
		errors.New(fmt.Sprint(v)),
	)
	slog.New(slog.NewTextHandler(&b, nil)).
		Info("m", "k", v, "in", struct{ V any }{v}, "list", []any{v})
	return b.String()
}

// printed is that, and what encodes it.
func printed(v any) string {
	b := bytes.NewBufferString(printedWithoutJSON(v))
	slog.New(slog.NewJSONHandler(b, nil)).
		Info("m", "k", v, "in", struct{ V any }{v}, "list", []any{v})
	if encoded, err := json.Marshal(map[string]any{"k": v, "list": []any{v}}); err == nil {
		b.Write(encoded)
	}
	return b.String()
}

// holdsPart fails where out has eight characters in a row of a ticket, plain, in hexadecimal or as
// the numbers of its bytes.
func holdsPart(t *testing.T, out string, ticket tickets.Ticket) {
	t.Helper()
	raw := string(ticket)
	for i := 0; i+8 <= len(raw); i++ {
		part := raw[i : i+8]
		numbers := strings.Trim(fmt.Sprint([]byte(part)), "[]")
		for _, spelled := range []string{
			part, hex.EncodeToString([]byte(part)),
			strings.ToUpper(hex.EncodeToString([]byte(part))), numbers,
		} {
			if strings.Contains(out, spelled) {
				t.Fatalf("a part of the ticket, %q, is in the output:\n%s", spelled, out)
			}
		}
	}
	if secret, err := base64.RawURLEncoding.DecodeString(raw); err == nil {
		require.NotContains(t, out, hex.EncodeToString(secret))
	}
}

func mustIssuer(t testing.TB, store tickets.Store, opts *tickets.IssuerOptions) *tickets.Issuer {
	t.Helper()
	if store == nil {
		store = tickets.NewMemoryStore(nil)
	}
	i, err := tickets.NewIssuer(store, opts)
	require.NoError(t, err)
	return i
}

func mustMint(t testing.TB, i *tickets.Issuer, g tickets.Grant) tickets.Ticket {
	t.Helper()
	ticket, err := i.Mint(t.Context(), g)
	require.NoError(t, err)
	return ticket
}

func TestTicket_IsRandomBase64URL(t *testing.T) {
	i := mustIssuer(t, nil, nil)
	seen := map[tickets.Ticket]bool{}
	for range 1000 {
		ticket := mustMint(t, i, tickets.Grant{UserID: "u1"})
		require.Len(t, string(ticket), 43)
		secret, err := base64.RawURLEncoding.Strict().DecodeString(string(ticket))
		require.NoError(t, err)
		require.Len(t, secret, 32)
		require.False(t, seen[ticket], "minted twice")
		seen[ticket] = true
	}
}

func TestTicket_NeverPrints(t *testing.T) {
	ticket := mustMint(t, mustIssuer(t, nil, nil), tickets.Grant{})
	for name, v := range map[string]any{
		"ticket":    ticket,
		"pointer":   &ticket,
		"field":     struct{ T tickets.Ticket }{ticket},
		"embedded":  struct{ tickets.Ticket }{ticket},
		"map value": map[int]tickets.Ticket{1: ticket},
		"slice":     []tickets.Ticket{ticket},
		"key":       ticket.Key(),
		"hidden key": struct {
			k    tickets.Key
			keys []tickets.Key
			m    map[string]tickets.Key
		}{ticket.Key(), []tickets.Key{ticket.Key()}, map[string]tickets.Key{"": ticket.Key()}},
	} {
		t.Run(name, func(t *testing.T) { holdsPart(t, printed(v), ticket) })
	}
	assert.Equal(t, "[ticket]", fmt.Sprint(ticket))
	assert.Equal(t, "[ticket] [ticket]", fmt.Sprintf("%#v %[1]x", ticket))
	assert.Len(t, string(ticket), 43, "string(t) reveals")
	encoded, err := xml.Marshal(ticket)
	require.NoError(t, err)
	assert.Equal(t, "<Ticket>[ticket]</Ticket>", string(encoded))
	holdsPart(t, fmt.Sprintf("%p", ticket.Key()), ticket) // fmt asks no method for this verb

	var b bytes.Buffer
	assert.Error(t, gob.NewEncoder(&b).Encode(ticket.Key()), "nothing of a key is exported")
}

// A session id may be the very cookie.
func TestGrant_SessionIDPrintsHashed(t *testing.T) {
	const id = "canary-canary-canary"
	g := tickets.Grant{SessionID: id, UserID: "ada"}
	r := tickets.Revocation{SessionID: id, Reason: "logout"}
	for _, v := range []any{
		g, &g, r, &r, []tickets.Grant{g}, map[string]tickets.Revocation{"": r},
	} {
		out := printedWithoutJSON(v)
		assert.NotContains(t, out, "canary")
		assert.NotContains(t, out, hex.EncodeToString([]byte("canary")))
		assert.NotContains(t, out, fmt.Sprint([]byte("canary"))[1:])
		assert.Contains(t, out, "a70aa6125567")
	}
	assert.Contains(t, fmt.Sprintf("%+v", g), "UserID:ada")
	assert.Contains(t, fmt.Sprintf("%+v", r), "Reason:logout")
	assert.Contains(t, fmt.Sprintf("%+v", tickets.Grant{}), "SessionID: ")
	user := tickets.Revocation{Provider: "oidc", UserID: "ada", Reason: "disabled"}
	assert.Contains(t, fmt.Sprintf("%+v", user),
		"{Session: Provider:oidc UserID:ada User:1aa8a59501ad Reason:disabled ")
	encoded, err := json.Marshal(g)
	require.NoError(t, err)
	assert.Contains(t, string(encoded), id, "a store may want to keep it so")
}

// A failing assertion prints its arguments by reflection, pointers followed.
func TestKey_FailedAssertionPrintsNoTicket(t *testing.T) {
	ticket := mustMint(t, mustIssuer(t, nil, nil), tickets.Grant{})
	var out recorder
	assert.Equal(&out, ticket.Key(), tickets.Ticket("another").Key())
	require.NotEmpty(t, out.String())
	holdsPart(t, out.String(), ticket)
}

type recorder struct{ bytes.Buffer }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(r, format, args...) }

func TestKey_PrintsAsItsID(t *testing.T) {
	for _, ticket := range []tickets.Ticket{
		"", "x", tickets.Ticket(strings.Repeat("A", 43)),
		tickets.Ticket(strings.Repeat("long", 100)),
	} {
		key := ticket.Key()
		id := sha256.Sum256([]byte(ticket))
		want := hex.EncodeToString(id[:])
		assert.Equal(t, id, key.ID())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			assert.Equal(t, want, fmt.Sprintf(verb, key), verb)
		}
		assert.Equal(t, want, key.String())
		assert.Equal(t, want, key.LogValue().String())
		encoded, err := json.Marshal(key)
		require.NoError(t, err)
		assert.Equal(t, `"`+want+`"`, string(encoded))
	}
}
