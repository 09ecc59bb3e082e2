//go:build !linux

package main

import "time"

var began = time.Now()

// cpuTime is the time that has passed: an upper bound, where nothing better is known.
func cpuTime() time.Duration { return time.Since(began) }
