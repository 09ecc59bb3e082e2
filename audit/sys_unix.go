//go:build unix && !aix && !solaris

package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// renamesOpen: a file can be renamed while it is open.
const renamesOpen = true

// openLog opens a log file for appending, through no symbolic link, and
// without waiting for anybody, should it be a FIFO.
func openLog(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
}

// writeTo is f.Write without what that does for those who close a file while
// others write to it. fd is f's.
func writeTo(_ *os.File, fd uintptr, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := syscall.Write(int(fd), b[n:])
		if m > 0 {
			n += m
		}
		if err != nil && err != syscall.EINTR {
			return n, os.NewSyscallError("write", err)
		}
		if err == nil && m == 0 {
			return n, io.ErrShortWrite
		}
	}
	return n, nil
}

// onlyOurs reports what is wrong with a file that others may own or name.
func onlyOurs(info os.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, and this process is user %d's", st.Uid, os.Geteuid())
	}
	if n := names(info); n > 1 {
		return fmt.Errorf("it has %d names: want no hard links", n)
	}
	return nil
}

// names returns how many names a file has.
func names(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Nlink)
	}
	return 1
}

// unlinked reports whether an open file has no name left.
func unlinked(f *os.File) bool {
	info, err := f.Stat()
	return err != nil || names(info) == 0
}

// takeLock locks the file at path for as long as it stays open.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("it is in use: another log, in this process or another, holds %s", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// noSpace reports whether a write failed for want of space, which comes back.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, syscall.EFBIG)
}

// syncDir has the names in a directory on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
