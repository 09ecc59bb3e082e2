package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ticketgate/ticketgate/audit/internal/logfile"
)

// FileOptions configures a log file. Nil means all defaults.
type FileOptions struct {
	// MaxSize limits the size of a file in bytes: a line that would exceed it begins a new file.
	// Default 64 MiB, at least 4 KiB; math.MaxInt64 for no limit.
	MaxSize int64
	// MaxAge is the longest time that one file is written to, by the wall clock. The next event
	// after that begins a new file. Default 0: no limit. At least a second.
	MaxAge time.Duration
	// KeepFiles is the number of old files to keep, the newest. Default 16; math.MaxInt for all.
	KeepFiles int
	// Compress compresses old files with gzip, in the background.
	Compress bool

	// Sync makes Record wait until fsync(2) returns: the line survives a loss of power. Concurrent
	// calls share one fsync. If fsync fails, its lines count as failed, although they may be in the
	// file, and the log replaces the file.
	//
	// Without Sync, Record returns when the operating system has the line. A killed process loses
	// no line whose Record returned; a machine that loses power may lose the last seconds.
	Sync bool

	// RepeatsPerMinute limits refusals of one kind: with the same event, reason and ip (for IPv6,
	// its /64). A minute begins with the first refusal of any kind. At its end, a line for each
	// kind has the number not written, "suppressed". Default 60; math.MaxInt for no limit.
	RepeatsPerMinute int
	// RefusalsPerMinute limits refusals of all kinds. Further ones are reported in the same way,
	// but without ip if there are more than 256 kinds. Default 600; math.MaxInt for no limit.
	RefusalsPerMinute int
}

func (o *FileOptions) withDefaults() (FileOptions, error) {
	v := *cmp.Or(o, &FileOptions{})
	return v, errors.Join(
		atLeast("MaxSize", &v.MaxSize, 64<<20, 4<<10),
		atLeast("MaxAge", &v.MaxAge, 0, time.Second),
		atLeast("KeepFiles", &v.KeepFiles, 16, 1),
		atLeast("RepeatsPerMinute", &v.RepeatsPerMinute, 60, 1),
		atLeast("RefusalsPerMinute", &v.RefusalsPerMinute, 600, 1),
	)
}

// atLeast sets *v to byDefault if it is zero. It returns an error if *v is less than minimum.
func atLeast[T int | int64 | time.Duration](name string, v *T, byDefault, minimum T) error {
	if *v != 0 && *v < minimum {
		return fmt.Errorf("FileOptions.%s is %v: want 0 (default %v) or at least %v",
			name, *v, byDefault, minimum)
	}
	*v = cmp.Or(*v, byDefault)
	return nil
}

// OpenFile opens the log file at path, or creates it (mode 0600), with its directory (0700). An
// existing file must be a regular file, not a symbolic link, belong to this user, and have no hard
// links. Opening a file that is open, in this process or another, is an error: a lock file
// (".auth.log.lock" beside "auth.log") prevents it. The error names all options out of range.
//
// The name of an old file is the file's name, a number that increases by one, and the time of the
// rotation: auth.log.0000000042-20260527T091227Z, with .gz if compressed. There is always a file at
// path, unless the file system has no hard links.
//
// If a crash left part of a line, a newline ends it. If a full disk cut a line short, the log
// removes the part. Within a quarter of a second of writing, it notices that others moved, removed,
// replaced or truncated the file, and opens path again. It continues when a full disk has space
// again, and ten seconds after a disk failed; a failing disk causes no removal of old files. Each
// gap becomes a line with the event audit_gap, a reason (removed, moved, truncated, torn, failed)
// and the number of lines that may be missing.
//
// Record waits for the disk: if the disk hangs, requests hang. See New.
func OpenFile(path string, opts *FileOptions) (*Log, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("audit.OpenFile: %w", err)
	}
	l := &Log{opts: o}
	l.file, err = logfile.Open(path, logfile.Options{
		MaxSize: o.MaxSize, MaxAge: o.MaxAge, KeepFiles: o.KeepFiles,
		Compress: o.Compress, Sync: o.Sync,
		Gap: gapLine, Written: lineTime, Warn: l.warn,
	})
	if err != nil {
		return nil, fmt.Errorf("audit.OpenFile: %q: %w", path, err)
	}
	return l, nil
}

// gapLine returns the line that reports missing lines.
func gapLine(reason string, lines int) []byte {
	attrs := []slog.Attr{slog.String("reason", reason), slog.Int("lines", lines)}
	return newRecord(time.Now(), "audit_gap", attrs, false).buf
}

// lineTime returns the ts of a line.
func lineTime(line []byte) (time.Time, error) {
	_, ts, _ := bytes.Cut(line, []byte(`{"ts":"`))
	ts, _, _ = bytes.Cut(ts, []byte(`"`))
	return time.Parse(time.RFC3339Nano, string(ts))
}

// Reopen closes the file, and opens or creates the one that is at its path now. Call it after
// another program moved the file. For a log without a file, it does nothing.
func (l *Log) Reopen() error {
	if l == nil || l.file == nil {
		return nil
	}
	if err := l.file.Reopen(); err != nil {
		return fmt.Errorf("audit: reopen log: %w", err)
	}
	return nil
}

// HomePath returns the path of a log file for the application called app:
// HomePath("hermes", "auth.log") is $HERMES_HOME/logs/auth.log or, if that variable is not set,
// ~/.hermes/logs/auth.log. The name of the variable has an underscore for each character of app
// that is not an ASCII letter or digit. HomePath creates nothing.
//
// app and file must not be empty, begin with a dot, or contain a separator or control character.
func HomePath(app, file string) (string, error) {
	if err := errors.Join(singleName("app", app), singleName("file", file)); err != nil {
		return "", err
	}
	notAlnum := regexp.MustCompile(`[^A-Z0-9]`)
	variable := notAlnum.ReplaceAllString(strings.ToUpper(app), "_") + "_HOME"
	home := os.Getenv(variable)
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("audit: %s is not set, and no home directory: %w", variable, err)
		}
		home = filepath.Join(user, "."+app)
	}
	return filepath.Join(home, "logs", file), nil
}

func singleName(what, name string) error {
	bad := func(r rune) bool { return r < 0x20 || r == 0x7f || strings.ContainsRune(`/\:`, r) }
	if name == "" || name[0] == '.' || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("audit: %s %q is not the name of one file: "+
			"want no separator, control character, or dot at the start", what, name)
	}
	return nil
}
