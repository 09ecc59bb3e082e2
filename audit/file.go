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

// FileOptions says how a log file is kept and written to. Nil is all defaults.
type FileOptions struct {
	// MaxSize is the size in bytes at which the file becomes an old file, and a new one begins.
	// Default 64 MiB, at least 4 KiB; math.MaxInt64 for no limit.
	MaxSize int64
	// MaxAge is how long a file is written to, by the wall clock: the next event begins a new one.
	// Default 0: no limit. At least a second.
	MaxAge time.Duration
	// KeepFiles is how many old files stay; the oldest go first. Default 16; math.MaxInt for all.
	KeepFiles int
	// Compress compresses old files with gzip, in the background.
	Compress bool

	// Sync makes Record wait until its line is on the disk, as far as fsync(2) tells: the line
	// survives a loss of power. Calls that come at the same time share one fsync. A line whose
	// fsync failed counts as failed, though it may be there, and the file is put away.
	//
	// Without Sync, Record returns when the line is with the operating system. A killed process
	// loses no line whose Record returned; a machine that loses power may lose the last seconds.
	Sync bool

	// RepeatsPerMinute is how many refusals of one event, reason and ip (of IPv6, its /64) are
	// written in a minute, which begins with its first refusal of any kind. Further ones are
	// counted, and reported at the minute's end in a line that ends in "suppressed". Default 60;
	// math.MaxInt for no limit.
	RepeatsPerMinute int
	// RefusalsPerMinute is how many refusals of all kinds are written in a minute. Further ones are
	// reported in the same way, without an ip where there are more than 256 kinds. Default 600;
	// math.MaxInt for no limit.
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

// atLeast sets *v to byDefault if it is zero, and refuses less than minimum.
func atLeast[T int | int64 | time.Duration](name string, v *T, byDefault, minimum T) error {
	if *v != 0 && *v < minimum {
		return fmt.Errorf("FileOptions.%s is %v: want 0, for %v, or at least %v",
			name, *v, byDefault, minimum)
	}
	*v = cmp.Or(*v, byDefault)
	return nil
}

// OpenFile opens the log file at path, or makes it: for its owner only (0600), in a directory that,
// if it has to be made, is for its owner only too (0700). What is there already must be a regular
// file of this user's, with one name, and no symbolic link. A lock (".auth.log.lock" beside
// "auth.log") makes it an error to open a file that is open, in this process or another. An error
// names all options that are out of range.
//
// Old files have the file's name, a number that rises by one, and the time they were put away:
// auth.log.0000000042-20260527T091227Z, with .gz if compressed. There is always a file at path.
//
// Part of a line that a crash left is closed off with a newline before the next line; one that a
// full disk left is taken back. The log notices within a quarter of a second of writing that others
// moved, removed, replaced or truncated its file, and begins a new one at path. It continues by
// itself when a full disk has space again, and ten seconds after a disk failed; a disk that fails
// makes no old file go. The file reports each gap in a line with the event audit_gap, its reason
// (removed, moved, truncated, torn, failed) and the number of lines that may be missing.
//
// Record waits for the disk: while it hangs, so do requests. See New.
func OpenFile(path string, opts *FileOptions) (*Log, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("audit.OpenFile: %w", err)
	}
	l := &Log{opts: o}
	l.file, err = logfile.Open(path, logfile.Options{
		MaxSize: o.MaxSize, MaxAge: o.MaxAge, KeepFiles: o.KeepFiles,
		Compress: o.Compress, Sync: o.Sync,
		Gap: gapLine, Written: whenWritten, Warn: l.warn,
	})
	if err != nil {
		return nil, fmt.Errorf("audit.OpenFile: %q: %w", path, err)
	}
	return l, nil
}

// gapLine is the line that reports missing lines.
func gapLine(reason string, lines int) []byte {
	attrs := []slog.Attr{slog.String("reason", reason), slog.Int("lines", lines)}
	return newRecord(time.Now(), "audit_gap", attrs, false).buf
}

// whenWritten returns the ts of a line.
func whenWritten(line []byte) (time.Time, error) {
	_, ts, _ := bytes.Cut(line, []byte(`{"ts":"`))
	ts, _, _ = bytes.Cut(ts, []byte(`"`))
	return time.Parse(time.RFC3339Nano, string(ts))
}

// Reopen closes the log's file and opens the one that is at its path now, or makes it: for programs
// that move log files away. Without a file, it does nothing.
func (l *Log) Reopen() error {
	if l == nil || l.file == nil {
		return nil
	}
	if err := l.file.Reopen(); err != nil {
		return fmt.Errorf("audit: reopen log: %w", err)
	}
	return nil
}

// HomePath returns where the application called app keeps its log called file:
// HomePath("hermes", "auth.log") is $HERMES_HOME/logs/auth.log or, where that variable is not set,
// ~/.hermes/logs/auth.log. In the variable's name, what is no letter or digit of app is an
// underscore. HomePath makes nothing.
//
// app and file are single names: neither may be empty, begin with a dot, or have a separator or
// control character in it.
func HomePath(app, file string) (string, error) {
	if err := errors.Join(singleName("app", app), singleName("file", file)); err != nil {
		return "", err
	}
	others := regexp.MustCompile(`[^A-Z0-9]`)
	variable := others.ReplaceAllString(strings.ToUpper(app), "_") + "_HOME"
	home := os.Getenv(variable)
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("audit: %s is not set, and there is no home: %w", variable, err)
		}
		home = filepath.Join(user, "."+app)
	}
	return filepath.Join(home, "logs", file), nil
}

func singleName(what, name string) error {
	bad := func(r rune) bool { return r < 0x20 || r == 0x7f || strings.ContainsRune(`/\:`, r) }
	if name == "" || name[0] == '.' || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("audit: %s %q is not the name of one file: "+
			"want no separator and no dot in front", what, name)
	}
	return nil
}
