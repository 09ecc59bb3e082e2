//go:build unix && !aix && !solaris

package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// openFlags reject a symbolic link, and do not wait for the other end of a FIFO.
const openFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// putAway gives the file an old file's name, if keep, and returns the new file at path. There is a
// file at path at every moment, if the file system has hard links.
func (f *File) putAway(now time.Time, keep bool) (*os.File, os.FileInfo, error) {
	if !f.isAtPath() {
		return nil, nil, errors.New("another file is at its path")
	}
	spare := f.hidden(".new")
	if err := removeIfThere(spare); err != nil {
		return nil, nil, err
	}
	next, info, err := openPrivate(spare, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, nil, err
	}
	old := ""
	if keep {
		old, err = f.secondName(now)
	}
	if err == nil {
		err = os.Rename(spare, f.path)
	}
	if err == nil {
		return next, info, nil
	}
	if old != "" && f.isAtPath() {
		err = errors.Join(err, removeIfThere(old))
	}
	return nil, nil, errors.Join(err, next.Close(), os.Remove(spare))
}

func (f *File) isAtPath() bool {
	info, _ := os.Lstat(f.path)
	return os.SameFile(info, f.id)
}

// secondName gives the file an old file's name as a second name. A hard link overwrites no file. If
// this process is killed, the next one sees from it that the rotation is not complete.
func (f *File) secondName(now time.Time) (string, error) {
	for {
		f.seq++
		old := oldName(f.path, f.seq, now)
		if os.Link(f.path, old) == nil {
			return old, nil
		}
		if _, err := os.Lstat(old); err != nil {
			return old, os.Rename(f.path, old) // no hard links here
		}
	}
}

// onlyOurs returns an error for a file that another user owns, or that has a second name.
func onlyOurs(info os.FileInfo) error {
	if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, and this process to %d", uid, os.Geteuid())
	}
	if n := linkCount(info); n > 1 {
		return fmt.Errorf("it has %d names: want no hard links", n)
	}
	return nil
}

// linkCount returns the number of names of a file.
func linkCount(info os.FileInfo) int {
	return int(info.Sys().(*syscall.Stat_t).Nlink)
}

// takeLock locks the file at path, until it is closed.
func takeLock(path string) (*os.File, error) {
	f, _, err := openPrivate(path, os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("it is in use: another log holds %s", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// noSpace reports whether a write failed because of a full disk, a quota or a size limit.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, syscall.EFBIG)
}

// syncDir calls fsync for the directory, with Sync: new names survive a loss of power.
func (f *File) syncDir() error {
	if !f.o.Sync {
		return nil
	}
	d, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
