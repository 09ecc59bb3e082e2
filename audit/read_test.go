package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

func replaceByFile(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
}

func removeFile(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, os.Remove(path))
}

const good = `{"ts":"2026-05-27T09:12:27.000123+00:00","event":"logout","user_id":"u1","n":1.50}`

func TestRead(t *testing.T) {
	tests := []struct {
		name    string
		in      string
		want    int
		skipped int // before the last record
	}{
		{"nothing", "", 0, 0},
		{"one", good + "\n", 1, 0},
		{"a fragment", good + "\n" + good[:40] + "\n" + good + "\n", 2, 1},
		{"the end of one", good[40:] + "\n" + good + "\n", 1, 1},
		{"a last line without its newline", good + "\n" + good, 1, 0},
		{"a last line without its end", good + "\n" + good[:40], 1, 0},
		{"two on one line", good + good + "\n" + good + "\n", 1, 1},
		{"zeros, as a crash leaves them", strings.Repeat("\x00", 5000) + "\n" + good + "\n", 1, 1},
		{"empty lines", "\n\n" + good + "\n", 1, 0},
		{"other JSON", "1\nnull\n[]\n{}\n{\"ts\":1,\"event\":2}\n{\"ts\":\"x\",\"event\":\"e\"}\n" + good + "\n", 1, 6},
		{"a line without end", strings.Repeat("x", 10<<20) + "\n" + good + "\n", 1, 1},
		{"a record of 1 MB, which is none of ours", strings.Replace(good, "u1", strings.Repeat("x", 1<<20), 1) + "\n" + good + "\n", 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.HalfReader(strings.NewReader(tt.in))} {
				n, skipped := 0, 0
				for rec, err := range audit.Read(r) {
					require.NoError(t, err)
					assert.Equal(t, audit.Logout, rec.Event)
					assert.Equal(t, time.Date(2026, 5, 27, 9, 12, 27, 123_000, time.UTC), rec.Time.UTC())
					assert.Equal(t, map[string]any{"user_id": "u1", "n": json.Number("1.50")}, rec.Fields)
					assert.Equal(t, good, string(rec.Line))
					n, skipped = n+1, rec.Skipped
				}
				assert.Equal(t, tt.want, n)
				assert.Equal(t, tt.skipped, skipped)
			}
		})
	}
	t.Run("an error ends it", func(t *testing.T) {
		broken := errors.New("broken")
		var errs []error
		for _, err := range audit.Read(io.MultiReader(strings.NewReader(good+"\n"), iotest.ErrReader(broken))) {
			errs = append(errs, err)
		}
		assert.Equal(t, []error{nil, broken}, errs)
	})
	t.Run("it can be left", func(t *testing.T) {
		for range audit.Read(strings.NewReader(good + "\n" + good + "\n")) {
			break
		}
	})
}

// FuzzRead: whatever is in a file, what is read are records.
func FuzzRead(f *testing.F) {
	f.Add([]byte(good + "\n" + good[:20] + "\n"))
	f.Add([]byte("{\"ts\":\"2026-05-27T09:12:27Z\",\"event\":\"e\"}\n\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for rec, err := range audit.Read(bytes.NewReader(b)) {
			if err != nil || !json.Valid(rec.Line) || rec.Time.IsZero() && !bytes.Contains(rec.Line, []byte("0001")) {
				t.Fatalf("%v: %q", err, rec.Line)
			}
			n++
		}
		if n > bytes.Count(b, []byte("\n")) {
			t.Fatalf("%d records in %d lines", n, bytes.Count(b, []byte("\n")))
		}
	})
}

func TestFollow(t *testing.T) {
	l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10})
	l.Record(ctx, audit.Logout, slog.Int("i", -1)) // before the call
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followed := audit.Follow(ctx, path)
	const n = 100
	for i := range n / 2 { // across rotations
		l.Record(ctx, audit.Logout, slog.Int("i", i), slog.String("pad", strings.Repeat("x", 500)))
	}
	seen := 0
	for rec, err := range followed {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(seen), rec.Fields["i"].(json.Number).String())
		switch seen++; seen {
		case n / 2: // and across a move
			require.NoError(t, os.Rename(path, path+".moved"))
			l.Record(ctx, audit.Logout, slog.Int("i", seen))
			require.NoError(t, l.Reopen())
			for i := seen + 1; i < n; i++ {
				l.Record(ctx, audit.Logout, slog.Int("i", i))
			}
		case n:
			cancel()
		}
	}
	assert.Equal(t, n, seen)
}

func TestFollowWaitsForTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "auth.log")
	ctx, cancel := context.WithCancel(ctx)
	records := audit.Follow(ctx, path)
	go func() {
		l, err := audit.OpenFile(path, nil)
		if assert.NoError(t, err) {
			l.Record(ctx, audit.LoginStart)
			l.Record(ctx, audit.LoginSuccess)
			l.Close()
		}
	}()
	var got []audit.Event
	for rec, err := range records {
		require.NoError(t, err)
		if got = append(got, rec.Event); len(got) == 2 {
			cancel()
		}
	}
	assert.Equal(t, []audit.Event{audit.LoginStart, audit.LoginSuccess}, got)
	cancel()
}

func TestFollowSeesAFileCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	require.NoError(t, os.WriteFile(path, []byte(good+"\n"+good+"\n"), 0o600))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	records := audit.Follow(ctx, path)
	require.NoError(t, os.WriteFile(path, []byte(good+"\n"), 0o600))
	for rec, err := range records {
		require.NoError(t, err)
		assert.Equal(t, good, string(rec.Line))
		cancel()
	}
}
