package audit

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// FileOptions says how a log file is kept and written to. Nil stands for all
// defaults.
//
// A line can be written in one of three ways:
//
// Straight, the default: Record returns when the line has been handed to the
// operating system, in one write(2). A process that is killed loses no line
// whose Record has returned; a machine that loses power may lose the last
// seconds. Record waits for the disk: while it hangs, so do requests.
//
// Queue: Record hands the line to a goroutine and never waits for the disk.
// Where more than that many lines are waiting, a line is dropped; how many
// were is told in a line of its own, as soon as there is one that is not, and
// in Stats. A process that is killed loses what was waiting.
//
// Sync: Record returns when the line is on the disk, as far as fsync(2) tells,
// and survives a loss of power. Calls that come at the same time share one
// fsync. A line whose fsync failed counts as failed, though it may be there:
// the file is put away and a new one begun, since a second fsync of the same
// file would not tell the truth. Record waits for the disk.
type FileOptions struct {
	// MaxSize is the size in bytes that the file is not to grow beyond: it
	// becomes an old file and a new one is begun. Default 64 MiB, at least
	// 4 KiB; math.MaxInt64 for never.
	MaxSize int64
	// MaxAge is how long a file is written to, by the clock on the wall. The
	// next event after that begins a new one. Default 0: however long. At
	// least a second.
	MaxAge time.Duration
	// KeepFiles is how many old files are kept; the oldest go first. Default
	// 16; math.MaxInt for all of them.
	KeepFiles int
	// KeepBytes is how many bytes the old files may have together; the newest
	// of them always stays. Default 0: no such limit.
	KeepBytes int64
	// Compress has old files compressed with gzip, in the background.
	Compress bool

	// Queue is how many lines may wait to be written. Default 0: none, they
	// are written straight.
	Queue int
	// CloseWait is how long Close waits for the lines in the queue. Default 5 s.
	CloseWait time.Duration
	// Sync has each line on the disk before Record returns. Not with Queue.
	Sync bool

	// RepeatsPerMinute is how many refusals of one event, reason and ip (of
	// IPv6, its /64) are written in a minute, and may come at once. Those
	// beyond are counted, and told once a minute in a line that ends in
	// "suppressed". Nothing but refusals is ever suppressed. Default 60;
	// math.MaxInt for no limit.
	RepeatsPerMinute int
	// RefusalsPerMinute is how many refusals are written in a minute in all,
	// whatever they are. Those beyond are told with their kind, or where there
	// are too many kinds to tell apart (256), in one line for the rest of
	// them, audit_suppressed. Default 600; math.MaxInt for no limit.
	RefusalsPerMinute int
}

func (o *FileOptions) withDefaults() (FileOptions, error) {
	var v FileOptions
	if o != nil {
		v = *o
	}
	err := errors.Join(
		least("MaxSize", &v.MaxSize, 64<<20, 4<<10),
		least("MaxAge", &v.MaxAge, 0, time.Second),
		least("KeepFiles", &v.KeepFiles, 16, 1),
		least("KeepBytes", &v.KeepBytes, 0, 1),
		least("Queue", &v.Queue, 0, 1),
		least("CloseWait", &v.CloseWait, 5*time.Second, 1),
		least("RepeatsPerMinute", &v.RepeatsPerMinute, 60, 1),
		least("RefusalsPerMinute", &v.RefusalsPerMinute, 600, 1),
	)
	if v.Queue != 0 && v.Sync {
		err = errors.Join(err, errors.New("audit: FileOptions.Queue and Sync exclude each other: want one of them"))
	}
	return v, err
}

// least puts byDefault where *v is zero, and refuses what is below minimum.
func least[T int | int64 | time.Duration](name string, v *T, byDefault, minimum T) error {
	if *v == 0 {
		*v = byDefault
		return nil
	}
	if *v < minimum {
		return fmt.Errorf("audit: FileOptions.%s is %v: want 0, for %v, or at least %v", name, *v, byDefault, minimum)
	}
	return nil
}

// OpenFile opens the log file at path, or makes it: for its owner only (0600),
// in a directory which, if it has to be made, is for its owner only too (0700).
// What is there already must be a regular file of this user's, with one name,
// and no symbolic link. A lock (".auth.log.lock" beside "auth.log") sees to it
// that a file has one owner: opening it a second time, from this process or
// another, is an error. So are options that can't be followed, all at once.
//
// Old files are named after the file, with a number that rises by one and the
// time they were put away: auth.log.0000000042-20260527T091227Z, and .gz where
// they are compressed. The names sort as the events happened, and are never
// used twice.
//
// A part of a line that a crash left is closed off with a newline before
// anything else is written; one that a full disk left is taken back. Should
// the file be moved, removed, replaced or cut short by others, the log notices
// within a quarter of a second of writing to it, and begins anew at path. It
// goes on by itself when a full disk has space again. Of every such gap the
// file tells, in a line with the event audit_gap, its reason (removed, moved,
// truncated, torn, dropped, failed) and the number of lines that may be
// missing.
func OpenFile(path string, opts *FileOptions) (*Log, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("audit: open log %q: %w", path, err)
	}
	l := &Log{}
	l.file, err = openFile(path, o, l.warn)
	if err != nil {
		return nil, fmt.Errorf("audit: open log %q: %w", path, err)
	}
	l.floods = newFloods(o, l.summary)
	switch {
	case o.Queue > 0:
		l.queue = newQueue(l, o.Queue)
	case o.Sync:
		l.group = &group{file: l.file}
	}
	return l, nil
}

// Reopen closes the log's file and opens the one that is at its path now, or
// makes it. Programs that move log files away ask for that, with a signal
// most often. A log that has no file has nothing to reopen.
func (l *Log) Reopen() error {
	if l == nil || l.file == nil {
		return nil
	}
	if err := l.file.reopenNow(); err != nil {
		return fmt.Errorf("audit: reopen log %q: %w", l.file.path, err)
	}
	return nil
}
