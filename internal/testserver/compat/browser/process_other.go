//go:build !linux

package browser

import "os/exec"

// EndWithTest does nothing here: only Linux ends a child with its parent.
func EndWithTest(*exec.Cmd) {}
