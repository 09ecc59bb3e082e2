//go:build !unix || aix || solaris

package audit

import "os"

// renamesOpen: Windows renames no file that is open.
const renamesOpen = false

// openLog opens a log file for appending.
func openLog(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags|os.O_RDWR|os.O_APPEND, 0o600)
}

// writeTo is f.Write.
func writeTo(f *os.File, _ uintptr, b []byte) (int, error) { return f.Write(b) }

// onlyOurs has nothing to go by: access lists are inherited from the directory.
func onlyOurs(os.FileInfo) error { return nil }

// names is one: hard links are not looked for.
func names(os.FileInfo) int { return 1 }

// unlinked is false: a file that is open can't be removed.
func unlinked(*os.File) bool { return false }

// noSpace can't be told from other errors here.
func noSpace(error) bool { return false }

// syncDir has nothing to do: directories can't be flushed.
func syncDir(string) error { return nil }
