package main

import (
	"syscall"
	"time"
	"unsafe"
)

// processCPU is what all threads of this process have used.
func processCPU() time.Duration { return clock(2) } // CLOCK_PROCESS_CPUTIME_ID

// threadCPU is what this thread has used: what the machine gives to others meanwhile is not in it.
func threadCPU() time.Duration { return clock(3) } // CLOCK_THREAD_CPUTIME_ID

func clock(id uintptr) time.Duration {
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}
