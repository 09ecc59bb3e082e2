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

// open opens what is at path, or makes it. The file that was open stays so
// until then.
func (f *File) open() error {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
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
	if f.f != nil {
		f.f.Close()
	}
	f.use(next, info)
	if f.lines, err = countLines(next); err != nil {
		f.lines = 1 // it may have some: they are kept
	}
	f.born = f.began()
	f.heal()
	if f.o.Sync {
		return syncDir(dir)
	}
	return nil
}

// use makes f write to next.
func (f *File) use(next *os.File, info os.FileInfo) {
	f.f, f.id, f.size = next, info, info.Size()
	f.lines, f.fresh, f.suspect = 0, 0, false
}

// own takes the lock that makes f the only one at path. If it has it already,
// it checks that the lock is still where others look for it.
func (f *File) own() error {
	path := f.beside(".lock")
	if f.lock != nil {
		info, err := os.Lstat(path)
		mine, errMine := f.lock.Stat()
		if err == nil && errMine == nil && os.SameFile(info, mine) {
			return nil
		}
	}
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	if f.lock != nil {
		f.lock.Close()
	}
	f.lock = lock
	return nil
}

// beside is the name of a hidden file that belongs to f.
func (f *File) beside(suffix string) string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+suffix)
}

// clear removes what a rotation or a compression left that was killed: a new
// file, a second name of the file, or its lines in plain and in a .gz.
func (f *File) clear() error {
	err := removeIfThere(f.beside(".new"))
	old, errOld := oldFiles(f.path)
	info, errInfo := os.Lstat(f.path)
	for _, o := range old {
		f.seq = max(f.seq, o.seq)
		second, errSecond := os.Lstat(o.path)
		same := errInfo == nil && errSecond == nil && os.SameFile(info, second)
		if o.plain && o.gz || same && info.Mode().IsRegular() {
			err = errors.Join(err, removeIfThere(o.path))
		}
	}
	return errors.Join(err, errOld)
}

// openPrivate opens a file for appending, and makes it its owner's alone. It
// fails where it is no regular file of this user's with one name.
func openPrivate(path string, flags int) (f *os.File, info os.FileInfo, err error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file: %v", path, info.Mode().Type())
	}
	f, err = os.OpenFile(path, flags|os.O_RDWR|os.O_APPEND|openFlags, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err = f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %v", path, info.Mode().Type())
	}
	if err == nil {
		err = onlyOurs(info)
	}
	if err == nil && info.Mode().Perm() != 0o600 {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// began returns when the file's first line was written or, if that cannot be
// read, when the last one was.
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

// heal notices part of a line at the end of the file, for append to close off.
func (f *File) heal() {
	f.torn = false
	last := make([]byte, 1)
	if f.size == 0 {
		return
	}
	if _, err := f.f.ReadAt(last, f.size-1); err != nil || last[0] != '\n' {
		f.gaps.add("torn", 1)
		f.torn = true
	}
}
