package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// open makes f what is at path, or is made there. What was open stays so
// until the new one is.
func (f *file) open() error {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := f.own(); err != nil {
		return err
	}
	if err := os.Remove(f.spare()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // what a rotation left that was killed
	}
	old, err := oldFiles(f.path)
	if err != nil {
		return err
	}
	if len(old) > 0 {
		f.seq = max(f.seq, old[len(old)-1].seq)
	}
	for _, o := range old { // what a compression left that was killed: its lines are there twice
		if o.plain && o.gz {
			if err := os.Remove(o.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	next, info, err := f.regular(old)
	if err != nil {
		return err
	}
	if f.f != nil {
		f.f.Close()
	}
	f.f, f.fd, f.id, f.size = next, next.Fd(), info, info.Size()
	f.lines, f.suspect = countLines(next), false
	f.born = began(next, info)
	f.heal()
	if f.o.Sync {
		return syncDir(dir)
	}
	return nil
}

// own takes the lock that makes this log the file's only owner. If it has it
// already, it looks whether the lock is still where others look for it.
func (f *file) own() error {
	path := filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".lock")
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
	if _, err := private(lock); err != nil {
		lock.Close()
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if f.lock != nil {
		f.lock.Close()
	}
	f.lock = lock
	return nil
}

// spare is the name that a new file has until it takes the old one's place.
func (f *file) spare() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".new")
}

// regular opens what is at path, if that is a file to write a log to.
func (f *file) regular(old []oldFile) (*os.File, os.FileInfo, error) {
	if info, err := os.Lstat(f.path); err == nil {
		if !info.Mode().IsRegular() {
			return nil, nil, fmt.Errorf("it is no regular file: %v", info.Mode().Type())
		}
		// A rotation that was killed gave the file a second name.
		for i := 0; i < len(old) && names(info) > 1; i++ {
			if second, err := os.Lstat(old[i].path); err == nil && os.SameFile(info, second) {
				if err := os.Remove(old[i].path); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	next, err := openLog(f.path, os.O_CREATE)
	if err != nil {
		return nil, nil, err
	}
	info, err := private(next)
	if err != nil {
		next.Close()
		return nil, nil, err
	}
	return next, info, nil
}

// private makes an open file its owner's only, or says why it can't be.
func private(f *os.File) (os.FileInfo, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no regular file: %v", info.Mode().Type())
	}
	if err := onlyOurs(info); err != nil {
		return nil, err
	}
	if info.Mode().Perm() != 0o600 {
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// began returns when the first line of a file was written, or if that can't
// be read, when the last one was.
func began(f *os.File, info os.FileInfo) time.Time {
	if info.Size() == 0 {
		return time.Now()
	}
	line := make([]byte, hardLine)
	n, _ := f.ReadAt(line, 0)
	first, _, _ := bytes.Cut(line[:n], []byte("\n"))
	if r, err := parse(first); err == nil {
		return r.Time
	}
	return info.ModTime()
}

// countLines returns how many whole lines are in a file.
func countLines(f *os.File) (n int) {
	buf := make([]byte, 64<<10)
	for at := int64(0); ; {
		m, err := f.ReadAt(buf, at)
		n += bytes.Count(buf[:m], newline)
		if at += int64(m); err != nil {
			return n
		}
	}
}

// heal closes off a part of a line at the file's end.
func (f *file) heal() {
	if f.torn = false; f.size == 0 {
		return
	}
	last := make([]byte, 1)
	if _, err := f.f.ReadAt(last, f.size-1); err == nil && last[0] == '\n' {
		return
	}
	f.gaps.add("torn", 1)
	f.torn = true
}
