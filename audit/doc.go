// Package audit records who came in, who was turned away, and why.
//
// A Log takes an Event and slog attributes. It hands them to any slog.Handler (New), or writes them
// to a file of its own (OpenFile) as one JSON object a line:
//
//	{"ts":"2026-05-27T09:12:27.000123+00:00","event":"logout","provider":"oidc","user_id":"u1"}
//
// ts is RFC 3339 in UTC with microseconds; the fields follow in the order given. Recording never
// fails its caller.
//
// # Values
//
// A time.Time is written as ts is, a time.Duration as "1.5s", an error and a url.URL as its text, a
// []byte as text where it is UTF-8. All else is what encoding/json makes of it, but LogValuers
// count at every depth. What can't be encoded, or has a method that panics, is "!ERROR". Control
// characters, line ends and bidi controls are escaped. A record over 32 KiB has its values cut and
// "truncated":true at its end; no line is longer than 64 KiB.
//
// # Secrets
//
// A field is left out, at any depth, if its name is code, state, ticket, cookie, authorization,
// code_verifier, pwd or the like, or ends in token, secret, password or api_key. Case, width and
// punctuation don't count. A struct's field goes by its Go name and its JSON name.
//
// Inside a text, *** stands for what follows such a name in a query, a form, a header line or JSON,
// for the segment after it in a path, for what follows "ticket." in a list of subprotocols and
// "Bearer ", for a JWT, and for a URL's userinfo. Percent-encoding and JSON's escapes are undone
// once, and a text with a secret below them is written without them. In a text of up to 8 KiB that
// is JSON, the members go by their names.
//
// Not found are: credentials after a bare "Basic", secrets that are encoded twice, or as base64, or
// in full-width punctuation, a lower-case "token: x" in the middle of a sentence, and a bare string
// without a form around it, however random it looks: identity providers name people like that.
//
// # Figures
//
// In the long run of the tests (AUDIT_TIMES=10), processes are killed and disks run full: in 3,000
// kills, none of 850,294 acknowledged lines was lost, and none was there twice. A line takes no
// longer than slog.JSONHandler takes for it.
package audit
