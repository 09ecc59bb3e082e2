//go:build !linux

package main

import "time"

// threadCPU is the time that has passed: an upper bound, where nothing better is known.
func threadCPU() time.Duration { return time.Since(began) }
