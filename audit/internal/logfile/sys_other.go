//go:build !unix || aix || solaris

package logfile

import (
	"errors"
	"fmt"
	"os"
	"time"
)

const openFlags = 0

// putAway gives the file an old file's name, if keep, and returns the new file at path. It closes
// the file first: Windows can't rename an open file.
func (f *File) putAway(now time.Time, keep bool) (*os.File, os.FileInfo, error) {
	err := f.closeFile()
	if keep && err == nil {
		f.seq++
		err = os.Rename(f.path, oldName(f.path, f.seq, now))
	} else if err == nil {
		err = os.Remove(f.path)
	}
	next, info, errOpen := openPrivate(f.path, os.O_CREATE)
	if err != nil || errOpen != nil {
		f.f = next // the old file, or nil
		return nil, nil, errors.Join(err, errOpen)
	}
	return next, info, nil
}

// onlyOurs allows every file: access lists come from the directory.
func onlyOurs(os.FileInfo) error { return nil }

// linkCount returns 1: hard links are not checked.
func linkCount(os.FileInfo) int { return 1 }

// noSpace returns false: the errors can't be distinguished.
func noSpace(error) bool { return false }

// syncDir does nothing: directories can't be flushed.
func (f *File) syncDir() error { return nil }

// takeLock creates a file that nobody can remove while it is open. Only Windows has such a lock.
func takeLock(path string) (*os.File, error) {
	if err := removeIfThere(path); err != nil {
		return nil, fmt.Errorf("it is in use: another log holds %s: %w", path, err)
	}
	f, _, err := openPrivate(path, os.O_CREATE|os.O_EXCL)
	return f, err
}
