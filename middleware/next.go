package middleware

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxNext bounds the way back: longer ones are dropped, not cut.
const maxNext = 2 << 10

// Next returns where to go after sign-in: the form's next, or else the query's, if it is a path on
// this server. It is "/" if next is missing, there twice, longer than 2 KiB, the sign-in page, or
// could take a browser elsewhere. Redirect to nothing else: attackers look for open redirects.
//
// It calls [http.Request.ParseForm]; bound the body first with [http.MaxBytesReader].
func Next(r *http.Request) string {
	err := r.ParseForm()
	values, ok := r.PostForm["next"]
	if !ok {
		values = r.Form["next"]
	}
	if err != nil || len(values) != 1 || !isLocal(values[0]) {
		return "/"
	}
	if u, err := url.Parse(values[0]); err != nil || u.Path == sentPath(r) {
		return "/"
	}
	return values[0]
}

// isLocal reports whether a browser that follows s stays on this server. The rules are WHATWG's URL
// parser's, which strips tabs, newlines and spaces at the end, takes \ for / and resolves dot
// segments, also escaped ones: what depends on any of that is not local.
func isLocal(s string) bool {
	if len(s) > maxNext || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") ||
		strings.HasSuffix(s, " ") || !utf8.ValidString(s) ||
		strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }) {
		return false
	}
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	segments := strings.Split(u.Path, "/")
	return !slices.Contains(segments, ".") && !slices.Contains(segments, "..")
}
