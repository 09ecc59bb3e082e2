package audit

import (
	"os"
	"syscall"
)

// dataSync has a file's lines on the disk, and of what is known about it only
// what reading them takes.
func dataSync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
