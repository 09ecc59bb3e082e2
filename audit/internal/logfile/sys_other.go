//go:build !unix || aix || solaris

package logfile

import (
	"fmt"
	"os"
)

const (
	renamesOpen = false // Windows renames no open file
	openFlags   = 0
)

// onlyOurs allows every file: access lists are inherited from the directory.
func onlyOurs(os.FileInfo) error { return nil }

// names is 1: hard links are not looked for.
func names(os.FileInfo) int { return 1 }

// noSpace is false: the errors can't be distinguished.
func noSpace(error) bool { return false }

// syncDir does nothing: directories can't be flushed.
func syncDir(string) error { return nil }

// takeLock makes a file that nobody removes while it is open: on Windows.
// Other systems have no lock here.
func takeLock(path string) (*os.File, error) {
	if err := removeIfThere(path); err != nil {
		return nil, fmt.Errorf("it is in use: another log holds %s: %w", path, err)
	}
	f, _, err := openPrivate(path, os.O_CREATE|os.O_EXCL)
	return f, err
}
