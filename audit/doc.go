// Package audit writes down who came in, who was turned away, and why.
//
// A Log takes an Event and slog attributes. It hands them to any slog.Handler
// (New), or writes them to a file of its own (OpenFile) as one JSON object a
// line:
//
//	{"ts":"2026-05-27T09:12:27.000123+00:00","event":"ws_ticket_minted","provider":"oidc","user_id":"u1"}
//
// ts is RFC 3339 in UTC with microseconds; the fields follow in the order
// given. Recording never fails its caller.
//
// # Values
//
// A time.Time is written as ts is, a time.Duration as time.ParseDuration reads
// it ("1.5s"), an error and a url.URL as its text, a []byte as text where it is
// UTF-8 and as base64 where it is not, a slog group as an object. Everything
// else is what encoding/json makes of it, but that LogValuers count at every
// depth. What can't be encoded, a cycle among it, or has a method that panics
// becomes "!ERROR". Invalid UTF-8 becomes U+FFFD. Control characters, line
// ends and the bidi controls (U+0000–1F, U+007F–9F, U+2028–2029,
// U+202A–202E, U+2066–2069, U+FEFF) stand as \uXXXX.
//
// A record over 32 KiB has its values cut, each to an equal share, and
// "truncated":true at its end. No line is longer than 64 KiB: of a record that
// is all names, the last ones go.
//
// # Secrets
//
// A field is left out, at any depth, if its name is code, state, ticket,
// cookie, set-cookie, authorization, code_verifier, pwd or the like, or ends in
// token, secret, password or api_key. Case, width and punctuation don't count,
// and a struct's field is judged by its Go name and its JSON name. Inside a
// value, *** stands for what follows such a name in a query, a form, a JSON
// text or a header line, for the segment that follows it in a path, for what
// follows "ticket." in a list of subprotocols and "Bearer ", for a JWT, and for
// a URL's userinfo; percent-encoding hides none of them. A bare string is left
// alone, however random it looks: identity providers name people like that.
//
// # Files
//
// OpenFile says what is promised of a file, and FileOptions of the three ways
// to write to it. The tests hold it to that, with processes that are killed,
// disks that are full, hang and fail. AUDIT_TIMES=10 makes their long run,
// which found here, on a virtual machine with 2 cores and ext4:
//
//   - 3,000 processes killed with SIGKILL while 8 goroutines wrote and files
//     of 64 KiB rotated: of 461,656 lines whose Record had returned, none was
//     lost and none was there twice; 39 fragments were healed, and none was
//     read as a record.
//   - 106,666 rotations under 8 goroutines, 320,000 lines: none lost, none twice.
//   - 2,000 times a full disk and space again, for each way to write. Straight:
//     40,900 recorded = 35,759 written + 5,141 failed. With a queue: 77,399 =
//     37,292 written + 18,740 failed + 21,367 dropped. Sync: 42,597 = 37,506
//     written + 5,091 failed. The file told of each that was not written.
//   - With the disk hung, Record with a queue took 0.2 µs at p99.
//
// slog.JSONHandler took 1.6 times as long for a line of six strings as Record,
// which took 1.4 times as long as write(2) of the ready line and allocated
// nothing. With Sync and 64 goroutines a line took 1/21 of the time of one
// fsync.
package audit
