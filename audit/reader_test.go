package audit_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

const good = `{"ts":"2026-05-27T09:12:27.000123+00:00","event":"logout","user_id":"u1","n":1.50}`

// logged is one line of a log.
type logged struct {
	Event  audit.Event
	Fields map[string]any // without ts and event; numbers are json.Number
	Line   string
}

// read returns the records in a log, and how many lines are none: a part of a
// line that a crash left, most often.
func read(t testing.TB, r io.Reader) (all []logged, skipped int) {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	for line := range bytes.Lines(b) {
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		if rec, ok := parse(line); ok && whole {
			all = append(all, rec)
		} else if whole && len(line) > 0 { // others may be being written
			skipped++
		}
	}
	return all, skipped
}

func parse(line []byte) (logged, bool) {
	rec := logged{Line: string(line)}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if d.Decode(&rec.Fields) != nil || d.InputOffset() != int64(len(line)) {
		return logged{}, false
	}
	ts, _ := rec.Fields["ts"].(string)
	event, ok := rec.Fields["event"].(string)
	if _, err := time.Parse(time.RFC3339Nano, ts); err != nil || !ok {
		return logged{}, false
	}
	delete(rec.Fields, "ts")
	delete(rec.Fields, "event")
	rec.Event = audit.Event(event)
	return rec, true
}

func replaceByFile(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
}

func removeFile(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, os.Remove(path))
}
