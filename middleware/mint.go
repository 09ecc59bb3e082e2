package middleware

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/tickets"
)

const maxMintBody = 1 << 10 // an endpoint takes a few bytes of it

// Mint is the handler that mints a ticket for the session in the context: put it behind a [Gate].
// It answers
//
//	POST → 200 {"ticket":"<43 characters of base64url>","ttl_seconds":30}
//
// and takes an optional body {"endpoint":"/ws/pty"} (Content-Type: application/json): the one path,
// as it stands in a URL, that the ticket is then valid for. It is safe for concurrent use.
type Mint struct {
	issuer  *tickets.Issuer
	origins *origins
	opts    MintOptions
}

// MintOptions configure a [Mint].
type MintOptions struct {
	// Authorize decides before every mint whether s may have a ticket for endpoint, a clean path or
	// "" for any. An error is 403. Default: every session may have one for any path.
	Authorize func(ctx context.Context, s *Session, endpoint string) error
	// Origins are all the origins whose pages may mint, such as "https://app.example", in the form
	// in which browsers send them. Default: the request's own. Behind a proxy that ends TLS, name
	// the public origin.
	Origins []string
	// Audit receives every ticket and every refusal. Default: slog.Default().
	Audit *audit.Log
	// ClientIP is for the audit; see [ForwardedFor]. Default: the host of RemoteAddr.
	ClientIP func(*http.Request) string
	// OnReject answers in place of [Rejection.ServeHTTP].
	OnReject func(http.ResponseWriter, *http.Request, *Rejection)
}

// NewMint returns a Mint of issuer's tickets. Its error joins all configuration errors.
func NewMint(issuer *tickets.Issuer, opts *MintOptions) (*Mint, error) {
	m := &Mint{issuer: issuer, opts: *cmp.Or(opts, &MintOptions{})}
	var errs []error
	if issuer == nil {
		errs = append(errs, errNoIssuer)
	} else if ttl := issuer.Lifetime(tickets.Grant{}); ttl < time.Second {
		errs = append(errs, fmt.Errorf("the issuer's TTL is %v: "+
			"it must be at least 1s, as ttl_seconds counts whole seconds", ttl))
	}
	var err error
	m.origins, err = newOrigins(m.opts.Origins, false)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("middleware.NewMint: %w", err)
	}
	return m, nil
}

var errNoIssuer = errors.New("the issuer is nil: pass what tickets.NewIssuer returned")

// ServeHTTP mints, or says why not.
func (m *Mint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, _ := SessionFrom(r.Context())
	ticket, g, rej := m.mint(w, r, s)
	if rej != nil {
		rej.record(m.opts.Audit, r, clientIP(m.opts.ClientIP, r), "", s)
		rej.answer(w, r, m.opts.OnReject)
		return
	}
	ticketID := ticket.Key().ID()
	attrs := []slog.Attr{
		slog.String("provider", s.Provider),
		slog.String("user_id", s.UserID),
		slog.String("ip", clientIP(m.opts.ClientIP, r)),
		slog.String("ticket_id", shortHex(ticketID[:])),
		slog.String("endpoint", g.Endpoint),
	}
	if s.ID != "" {
		attrs = append(attrs, slog.String("session", shortSessionID(s.ID)))
	}
	m.opts.Audit.Record(r.Context(), audit.TicketMinted, attrs...)
	seconds := max(1, int64(m.issuer.Lifetime(g)/time.Second))
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = fmt.Fprintf(w, `{"ticket":"%s","ttl_seconds":%d}`, string(ticket), seconds)
}

// mint returns a ticket, and the grant that it stands for.
func (m *Mint) mint(
	w http.ResponseWriter, r *http.Request, s *Session,
) (t tickets.Ticket, g tickets.Grant, _ *Rejection) {
	switch {
	case r.Method != http.MethodPost:
		return "", g, reject(refusedMintMethod, nil)
	case !m.sameSite(r):
		return "", g, reject(refusedMintOrigin, nil)
	case s == nil:
		return "", g, reject(refusedMintNoSession, nil)
	}
	endpoint, rej := readEndpoint(w, r)
	if rej != nil {
		return "", g, rej
	}
	if m.opts.Authorize != nil {
		if err := m.opts.Authorize(r.Context(), s, endpoint); err != nil {
			return "", g, reject(refusedMintEndpoint, withoutCredential(err, s.ID))
		}
	}
	g = tickets.Grant{
		SessionID: s.ID, Provider: s.Provider, UserID: s.UserID, Endpoint: endpoint, Data: s.Data,
		StartedAt: s.StartedAt, SessionExpiresAt: s.ExpiresAt,
	}
	if m.issuer.Lifetime(g) < time.Second { // 0 in ttl_seconds: no page could use it
		return "", g, reject(refusedMintExpired, tickets.ErrExpired)
	}
	t, err := m.issuer.Mint(r.Context(), g)
	if err != nil {
		return "", g, rejectMint(withoutCredential(err, s.ID))
	}
	return t, g, nil
}

// rejectMint returns the Rejection for an error of Issuer.Mint.
func rejectMint(err error) *Rejection {
	switch {
	case errors.Is(err, tickets.ErrRevoked):
		return reject(refusedMintRevoked, err)
	case errors.Is(err, tickets.ErrExpired):
		return reject(refusedMintExpired, err)
	case errors.Is(err, tickets.ErrTooMany):
		rej := reject(refusedMintTooMany, err)
		if tooMany, ok := errors.AsType[*tickets.TooManyError](err); ok && tooMany.RetryAfter > 0 {
			rej.RetryAfter = tooMany.RetryAfter
		}
		return rej
	}
	return reject(refusedMintStore, err)
}

// sameSite checks Origin and Sec-Fetch-Site. Origins names the other sites whose pages may mint.
func (m *Mint) sameSite(r *http.Request) bool {
	if !m.origins.allow(r) {
		return false
	}
	site := r.Header["Sec-Fetch-Site"]
	if len(site) != 1 {
		return len(site) == 0
	}
	return site[0] == "" || site[0] == "same-origin" || site[0] == "none" ||
		len(m.origins.listed) > 0 && len(r.Header["Origin"]) > 0
}

// readEndpoint reads the body of a request to mint.
func readEndpoint(w http.ResponseWriter, r *http.Request) (string, *Rejection) {
	switch {
	case r.ContentLength == 0, r.Body == nil:
		return "", nil
	case r.ContentLength > maxMintBody:
		return "", reject(refusedMintTooLarge, nil)
	}
	// The server resets the deadline. A ResponseWriter without deadlines has no slow connection.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMintBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return "", reject(refusedMintTooLarge, err)
	case err != nil:
		return "", reject(refusedMintBody, err)
	case len(body) == 0:
		return "", nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" || len(r.Header["Content-Type"]) > 1 {
		return "", reject(refusedMintType, err)
	}
	endpoint, err := parseMintBody(body)
	if err != nil {
		return "", reject(refusedMintBody, err)
	}
	return endpoint, nil
}

// parseMintBody returns the endpoint that a body names, as a clean, decoded path, or "". It reads
// tokens because json.Unmarshal ignores null, and a member that is misspelt or comes twice: the
// ticket would be valid for more than the page asked for.
func parseMintBody(body []byte) (string, error) {
	var tokens []json.Token
	d := json.NewDecoder(bytes.NewReader(body))
	t, err := d.Token()
	for ; err == nil; t, err = d.Token() {
		tokens = append(tokens, t)
	}
	if err != io.EOF {
		return "", err
	}
	const open, end = json.Delim('{'), json.Delim('}')
	if slices.Equal(tokens, []json.Token{open, end}) {
		return "", nil
	}
	if len(tokens) != 4 || tokens[0] != open || tokens[3] != end {
		return "", errors.New("want an object with one member")
	}
	endpoint, isString := tokens[2].(string)
	if tokens[1] != "endpoint" || !isString {
		return "", errors.New("want a string called endpoint")
	}
	if endpoint == "" {
		return "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || !isLocal(endpoint) || strings.ContainsAny(endpoint, "?#") || !isClean(u) {
		return "", errors.New("endpoint: want a clean path")
	}
	return u.Path, nil
}
