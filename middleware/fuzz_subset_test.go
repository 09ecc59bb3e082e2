package middleware

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is read without url.ParseQuery reads as url.ParseQuery reads it.
func FuzzTicketsIn(f *testing.F) {
	for _, query := range []string{
		"", "ticket=a", "ticket", "ticket=", "=ticket", "a=1&ticket=b&c", "ticket=a&ticket=b", "%74icket=%61", "ticket=a;ticket=b",
		"ticket=a&%zz=1", "ticket=%", "tick+et=1", "ticket=a+b", "&&ticket=a&", "ticket==a=", "TICKET=a", "ticket[]=a", "??ticket=a",
		"%74%69%63%6b%65%74=1&ticket=%2", strings.Repeat("ticket=a&", 300),
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		var got []string
		parses := ticketsIn(query, func(value string) { got = append(got, value) })
		values, err := url.ParseQuery(query)
		require.Equal(t, err == nil, parses)
		require.Equal(t, values[ticketParam], got)
	})
}

// An origin that is not parsed is one that parsing accepts, and leaves as it is.
func FuzzPlainOrigin(f *testing.F) {
	for _, origin := range []string{
		"https://app.example", "http://a", "http://127.0.0.1:8080", "https://app.example:443", "https://app.example:80", "http://", "http://:1",
		"https://a:", "https://a:0", "https://a:01", "https://a:65536", "https://A", "ws://a", "https://a/", "https://a@b", "https://[::1]:1", "https://a:1:2", "https:///a",
	} {
		f.Add(origin)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		if !isPlainOrigin(origin) {
			return
		}
		parsed, err := parseAnyOrigin(origin)
		require.NoError(t, err)
		require.Equal(t, origin, parsed)
	})
}
