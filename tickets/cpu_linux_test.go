package tickets_test

import (
	"syscall"
	"time"
	"unsafe"
)

// threadCPU is what this thread has used: what the machine gives to others meanwhile is not in it.
func threadCPU() time.Duration {
	const threadCPUTime = 3 // CLOCK_THREAD_CPUTIME_ID
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(
		syscall.SYS_CLOCK_GETTIME,
		threadCPUTime,
		uintptr(unsafe.Pointer(&t)),
		0,
	)
	return time.Duration(t.Nano())
}
