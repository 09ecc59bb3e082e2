package browser

import (
	"os/exec"
	"syscall"
)

// EndWithTest has the kernel end a process with the test binary that starts it,
// also where that is killed.
func EndWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
