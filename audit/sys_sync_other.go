//go:build !linux

package audit

import "os"

// dataSync has a file's lines on the disk.
func dataSync(f *os.File) error { return f.Sync() }
