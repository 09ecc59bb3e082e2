package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// What the library's own benchmarks measure beside a floor is not measured a second time here: they
// are run, and their figures taken over.

// ownBenchmarks runs benchmarks of a package of the library, so often, and returns the median of
// each metric by "benchmark metric".
func ownBenchmarks(r *report, pkg, pattern, benchtime string, count int) map[string]float64 {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchtime", benchtime,
		"-count", fmt.Sprint(count), "./"+pkg)
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	procs := regexp.MustCompile(`-\d+$`)
	samples := map[string][]float64{}
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		if !strings.HasPrefix(in.Text(), "Benchmark") {
			continue
		}
		fmt.Fprintln(r.out, in.Text())
		fields := strings.Fields(in.Text())
		name := procs.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				samples[name+" "+fields[i+1]] = append(samples[name+" "+fields[i+1]], v)
			}
		}
	}
	medians := map[string]float64{}
	for name, values := range samples {
		medians[name] = median(values)
	}
	return medians
}

// socketsRow is what a tracked socket costs, with coder/websocket.
func socketsRow(r *report) {
	// At 1 s, 64 KiB came out between 0.95 and 1.02.
	m := ownBenchmarks(r, "middleware", "^BenchmarkEcho$", "4s", 3)
	maps.Copy(m, ownBenchmarks(r, "middleware", "^BenchmarkIdleMemory$", "1s", 3))
	for _, size := range []string{"128B", "4096B", "65536B"} {
		ratio := m["Echo/"+size+" of-bare"]
		r.line("echo of "+size+", tracked", ours,
			nanoseconds(m["Echo/"+size+" guarded-ns/echo"]), fmt.Sprintf("%.2f", 1/ratio))
		r.atLeast("tracked socket, echo throughput against untracked, "+size, ratio, 0.98, "%.3f")
	}
	more := m["IdleMemory more-B/socket"]
	guarded, bare := m["IdleMemory guarded-B/socket"], m["IdleMemory bare-B/socket"]
	r.line("idle socket, tracked", ours,
		fmt.Sprintf("%.0f B", guarded), fmt.Sprintf("%.2f", guarded/bare))
	r.atMost("memory per idle tracked socket over untracked", more, 2000, "%.0f B")
}

// durableRow is lines that are on the disk when Record returns.
func durableRow(r *report) {
	m := ownBenchmarks(r, "audit", "^BenchmarkSync$", "1s", 3)
	for _, c := range []struct {
		writers int
		goal    float64
	}{{1, 1.25}, {16, 0.20}, {64, 0.08}} {
		name := fmt.Sprintf("Sync/%d_writers ", c.writers)
		r.line(fmt.Sprintf("durable line, %d writers", c.writers), ours,
			nanoseconds(m[name+"ns/line"]), fmt.Sprintf("%.3f", m[name+"ratio"]))
		r.atMost(fmt.Sprintf("durable audit, %d writers, against one fsync per line", c.writers),
			m[name+"ratio"], c.goal, "%.3f")
	}
}
