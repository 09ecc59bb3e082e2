package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// open opens the file at path, or creates it, and then closes the one that was open.
func (f *File) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	if err := f.ensureLock(); err != nil {
		return err
	}
	if err := f.removeLeftovers(); err != nil {
		return err
	}
	next, info, err := openPrivate(f.path, os.O_CREATE)
	if err != nil {
		return err
	}
	f.switchTo(next, info)
	f.scan()
	f.synced = f.lines
	f.started = f.startTime()
	return f.syncDir()
}

// switchTo makes f write to next. open then counts its lines; rotate passes an empty file.
func (f *File) switchTo(next *os.File, info os.FileInfo) {
	_ = f.closeFile() // an error of fsync is in the batch
	f.f, f.id, f.size = next, info, info.Size()
	f.lines, f.synced, f.torn, f.suspect = 0, 0, false, false
}

// rotate makes f an old file and begins a new one. It drops a file without lines: empty files of a
// failing disk must not push out old files.
func (f *File) rotate(now time.Time) error {
	_ = f.flush() // its error is in the batch
	failed := f.suspect
	next, info, err := f.putAway(now, f.lines > 0)
	if err != nil {
		return err
	}
	f.switchTo(next, info)
	f.started, f.retry = now.Round(0), time.Time{}
	if failed { // a failing disk causes no removal of old files
		f.retry = now.Add(retryEvery)
	} else {
		f.startTidying()
	}
	return f.syncDir()
}

// ensureLock takes the lock that keeps other Files from path, unless f has it. If the lock file was
// removed or replaced, it takes a new one.
func (f *File) ensureLock() error {
	path := f.hidden(".lock")
	there, _ := os.Lstat(path)
	mine, _ := f.lock.Stat() // nil if lock is nil
	if os.SameFile(there, mine) {
		return nil
	}
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	f.lock.Close()
	f.lock = lock
	return nil
}

// hidden returns the path of a hidden file that belongs to f.
func (f *File) hidden(suffix string) string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+suffix)
}

// removeLeftovers removes what a killed rotation or compression left: the new file, the second name
// of the file at path, or an old file that has a .gz.
func (f *File) removeLeftovers() error {
	err := removeIfThere(f.hidden(".new"))
	old, errOld := oldFiles(f.path)
	info, _ := os.Lstat(f.path)
	for _, o := range old {
		f.seq = max(f.seq, o.seq)
		// A .gz that others can write to may not be a copy of the plain file.
		gz, errGz := os.Lstat(o.path + ".gz")
		copied := errGz == nil && gz.Mode().IsRegular() &&
			gz.Mode().Perm()&0o022 == 0 && onlyOurs(gz) == nil
		if copied || os.SameFile(info, o.info) {
			err = errors.Join(err, removeIfThere(o.path))
		}
	}
	return errors.Join(err, errOld)
}

// openPrivate opens a file for appending, with mode 0600. It fails if that is not a regular file of
// this user with one name.
func openPrivate(path string, flags int) (*os.File, os.FileInfo, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, notRegular(path, info)
	}
	f, err := os.OpenFile(path, flags|os.O_RDWR|os.O_APPEND|openFlags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular(): // created after Lstat
		err = notRegular(path, info)
	case onlyOurs(info) != nil:
		err = onlyOurs(info)
	case info.Mode().Perm() != 0o600:
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func notRegular(path string, info os.FileInfo) error {
	return fmt.Errorf("%s is not a regular file: %v", path, info.Mode().Type())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// startTime returns the time of the file's first line or, if it has none, of the last write.
func (f *File) startTime() time.Time {
	if f.size == 0 {
		return time.Now()
	}
	line := make([]byte, maxLine)
	n, _ := f.f.ReadAt(line, 0)
	first, _, _ := bytes.Cut(line[:n], newline)
	if at, err := f.o.Written(first); err == nil {
		return at
	}
	return f.id.ModTime()
}
