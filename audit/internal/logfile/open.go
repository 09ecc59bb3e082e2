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

// open opens what is at path, or makes it. The file that was open stays so until then.
func (f *File) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	if err := f.own(); err != nil {
		return err
	}
	if err := f.clear(); err != nil {
		return err
	}
	next, info, err := openPrivate(f.path, os.O_CREATE)
	if err != nil {
		return err
	}
	f.use(next, info)
	f.scan()
	f.synced = f.lines
	f.born = f.began()
	return f.syncDir()
}

// use makes f write to next, which is taken to be empty.
func (f *File) use(next *os.File, info os.FileInfo) {
	_ = f.closeFile() // the batch has the error
	f.f, f.id, f.size = next, info, info.Size()
	f.lines, f.synced, f.torn, f.suspect = 0, 0, false, false
}

// rotate makes an old file of f and begins a new one. A file without lines is replaced: a disk that
// goes on failing must not use up the old files' places.
func (f *File) rotate(now time.Time) error {
	_ = f.flush() // the batch has the error
	failed := f.suspect
	next, info, err := f.putAway(now, f.lines > 0)
	if err != nil {
		return err
	}
	f.use(next, info)
	f.born, f.retry = now.Round(0), time.Time{}
	if failed { // no file is removed for one that a failing disk cut short
		f.retry = now.Add(retryEvery)
	} else {
		f.startTidying()
	}
	return f.syncDir()
}

// own takes the lock that makes f the only one at path. If it has it already, it checks that the
// lock is still where others look for it.
func (f *File) own() error {
	path := f.beside(".lock")
	there, _ := os.Lstat(path)
	mine, _ := f.lock.Stat() // of a nil lock, nil
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

// beside is the name of a hidden file that belongs to f.
func (f *File) beside(suffix string) string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+suffix)
}

// clear removes what a rotation or a compression left that was killed: a new file, a second name of
// the file, or its lines in plain and in a .gz.
func (f *File) clear() error {
	err := removeIfThere(f.beside(".new"))
	old, errOld := oldFiles(f.path)
	info, _ := os.Lstat(f.path)
	for _, o := range old {
		f.seq = max(f.seq, o.seq)
		// A .gz that others can write to is no copy of the plain file.
		gz, errGz := os.Lstat(o.path + ".gz")
		copied := errGz == nil && gz.Mode().IsRegular() &&
			gz.Mode().Perm()&0o022 == 0 && onlyOurs(gz) == nil
		if copied || os.SameFile(info, o.info) {
			err = errors.Join(err, removeIfThere(o.path))
		}
	}
	return errors.Join(err, errOld)
}

// openPrivate opens a file for appending, and makes it its owner's alone. It fails where it is no
// regular file of this user's with one name.
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
	case !info.Mode().IsRegular(): // it was put there after Lstat
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
	return fmt.Errorf("%s is no regular file: %v", path, info.Mode().Type())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// began returns when the file's first line was written or, if that can't be read, the last one.
func (f *File) began() time.Time {
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
