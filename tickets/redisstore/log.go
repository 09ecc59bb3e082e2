package redisstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/tickets"
)

// The log is a stream. An entry has the fields
//
//	nonce    16 hexadecimal digits: no two entries of any two logs are the same
//	session  the SHA-256 of a session's id, or
//	user     tickets.HashUser of a user, or neither: a store was opened
//	reason   as it was given
//	at       RFC 3339, to the nanosecond
//
// A cursor is the mark of the server that was read, and the id and the nonce of the last entry that
// was read. It is valid while the server has that mark and that entry; else entries may be lost.

const (
	// How long a connection waits for a new entry: a node must notice within 1 s that the store is
	// back, and Close of an issuer waits for this.
	blockFor   = 200 * time.Millisecond
	pageSize   = 500
	nonceBytes = 8
)

// KeepsRevocations returns Options.KeepRevocations, for the issuer to check.
func (s *Store) KeepsRevocations() time.Duration { return s.keepRevocations }

// Append adds r to the log: the hash of its session or user, the reason and the time.
func (s *Store) Append(ctx context.Context, r tickets.Revocation) error {
	r, err := r.Hashed()
	if err != nil {
		return fmt.Errorf("redis store: append: %w", err)
	}
	name, hash := "session", r.SessionHash
	if hash == ([sha256.Size]byte{}) {
		name, hash = "user", r.UserHash
	}
	_, err = s.append(ctx, []any{
		"reason", r.Reason, "at", r.At.UTC().Format(time.RFC3339Nano),
		name, hex.EncodeToString(hash[:]),
	})
	if err != nil {
		return fmt.Errorf("redis store: append: %w", err)
	}
	return nil
}

// append returns the id of the entry: the server's clock in milliseconds, "-", and a number.
func (s *Store) append(ctx context.Context, fields []any) (id string, err error) {
	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	args := []any{s.keepRevocations.Milliseconds(), "nonce", hex.EncodeToString(nonce[:])}
	args = append(args, fields...)
	reply, err := s.eval(ctx, appendScript, s.logKey(), args...)
	id, _ = reply.(string)
	return id, err
}

// Next returns what is in the log after the cursor, and waits for at most 0.2 s if there is
// nothing. Meanwhile it uses one of the client's connections.
func (s *Store) Next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	rs, next, err := s.next(ctx, after)
	if err != nil {
		return nil, "", fmt.Errorf("redis store: next: %w", err)
	}
	return rs, next, nil
}

func (s *Store) next(ctx context.Context, after string) ([]tickets.Revocation, string, error) {
	if after == "" {
		return s.begin(ctx)
	}
	c, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	if err := s.wait(ctx, c); err != nil {
		return nil, "", err
	}
	return s.read(ctx, c, c.id)
}

// begin reads the log from its beginning, and creates it if there is none.
func (s *Store) begin(ctx context.Context) ([]tickets.Revocation, string, error) {
	id, unwritable := s.append(ctx, nil)
	from := "-"
	if ms, _, ok := strings.Cut(id, "-"); ok {
		if now, err := strconv.ParseInt(ms, 10, 64); err == nil {
			// Older entries that a trim has left must not be in force again.
			from = strconv.FormatInt(max(0, now-s.keepRevocations.Milliseconds()), 10)
		}
	}
	rs, next, err := s.read(ctx, cursor{}, from)
	if err == nil && next == "" && unwritable != nil {
		return nil, "", unwritable
	}
	if err == nil && next == "" {
		err = errors.New("the log was removed as soon as it was created")
	}
	return rs, next, err
}

// wait returns when there is something after c, or after blockFor.
func (s *Store) wait(ctx context.Context, c cursor) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout+blockFor)
	defer cancel()
	cmd := newOnce(ctx,
		"xread", "count", 1, "block", blockFor.Milliseconds(), "streams", s.logKey(), c.id)
	cmd.SetFirstKeyPos(keyOfXRead)
	n, err := s.route(ctx, s.logKey())
	if err == nil {
		err = n.process(ctx, cmd)
	}
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

const keyOfXRead = 6 // among its words

// read returns everything after c, page by page, and the next cursor. The last entry of one page is
// the first of the next: it must still be there, unchanged.
func (s *Store) read(
	ctx context.Context, c cursor, from string,
) ([]tickets.Revocation, string, error) {
	var all []tickets.Revocation
	for {
		mark, entries, err := s.page(ctx, from)
		if err != nil {
			return nil, "", err
		}
		if c.id != "" {
			if mark != c.mark {
				return nil, "",
					fmt.Errorf("%w: the store has failed over or restarted", tickets.ErrGap)
			}
			if len(entries) == 0 || entries[0].id != c.id || entries[0].fields["nonce"] != c.nonce {
				return nil, "",
					fmt.Errorf("%w: the entry that was read last is gone", tickets.ErrGap)
			}
			entries = entries[1:]
		}
		if len(entries) == 0 {
			return all, c.String(), nil
		}
		for _, e := range entries {
			r, ok, err := e.revocation()
			if err != nil {
				return nil, "", fmt.Errorf("entry %s of the log: %w", e.id, err)
			}
			if ok {
				all = append(all, r)
			}
		}
		last := entries[len(entries)-1]
		c = cursor{mark, last.id, last.fields["nonce"]}
		from = c.id
	}
}

func (s *Store) page(ctx context.Context, from string) (mark string, entries []entry, err error) {
	reply, err := s.eval(ctx, readScript, s.logKey(), from, pageSize)
	if err != nil {
		return "", nil, err
	}
	if both, ok := reply.([]any); ok && len(both) == 2 {
		mark, _ = both[0].(string)
		rows, ok := both[1].([]any)
		for _, row := range rows {
			e, isEntry := parseEntry(row)
			ok = ok && isEntry
			entries = append(entries, e)
		}
		if ok && mark != "" {
			return mark, entries, nil
		}
	}
	return "", nil, errors.New("the log is not one of this package")
}

type entry struct {
	id     string
	fields map[string]string
}

func parseEntry(row any) (e entry, ok bool) {
	pair, ok := row.([]any)
	if !ok || len(pair) != 2 {
		return e, false
	}
	words, ok := pair[1].([]any)
	if !ok || len(words)%2 != 0 {
		return e, false
	}
	e.fields = make(map[string]string, len(words)/2)
	for i := 0; i < len(words); i += 2 {
		name, _ := words[i].(string)
		e.fields[name], _ = words[i+1].(string)
	}
	e.id, ok = pair[0].(string)
	return e, ok
}

// revocation returns the revocation of an entry, or !ok if it only says that a store was opened.
func (e entry) revocation() (r tickets.Revocation, ok bool, err error) {
	session, ofSession := e.fields["session"]
	user, ofUser := e.fields["user"]
	if e.fields["nonce"] != "" && len(e.fields) == 1 {
		return r, false, nil
	}
	if ofSession == ofUser {
		return r, false, errors.New("it is of neither a session nor a user")
	}
	r.Reason = e.fields["reason"]
	if r.At, err = time.Parse(time.RFC3339Nano, e.fields["at"]); err != nil {
		return r, false, err
	}
	into, text := r.SessionHash[:], session
	if ofUser {
		into, text = r.UserHash[:], user
	}
	hash, err := hex.DecodeString(text)
	if err != nil {
		return r, false, err
	}
	if copy(into, hash) != sha256.Size || len(hash) != sha256.Size {
		return r, false, fmt.Errorf("a hash of %d bytes, want %d", len(hash), sha256.Size)
	}
	return r, true, nil
}

// cursor is the place after an entry; the zero cursor is the log's beginning.
type cursor struct{ mark, id, nonce string }

// String returns what Next takes, and "" for the log's beginning.
func (c cursor) String() string {
	if c.id == "" {
		return ""
	}
	return c.mark + "/" + c.id + "/" + c.nonce
}

func parseCursor(s string) (cursor, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[1] == "" {
		return cursor{}, fmt.Errorf("cursor %.20q is not one of this log", s)
	}
	return cursor{parts[0], parts[1], parts[2]}, nil
}
