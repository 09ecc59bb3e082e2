// Command bench measures ticketgate beside what a user would pick instead, all in one run, and
// prints what it found as two tables in Markdown. See its README.
//
//	go run .                      everything: some ten minutes
//	go run . -only gate,audit     some rows
//	go run . -o new.txt           and what benchstat reads, into a file
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

type row struct {
	name string
	run  func(*report)
}

// The rows of the table. Each runs in a process of its own: a cache that cannot be closed, or a
// heap that has been large, is not there for the next one.
var rows = []row{
	{"exchange", exchangeRow},
	{"scaling", scalingRow},
	{"origin", originRow},
	{"outstanding", outstandingRow},
	{"steady", steadyRow},
	{"slowest", slowestRow},
	{"held", heldRow},
	{"gate", gateRow},
	{"loopback", loopbackRow},
	{"refusal", refusalRow},
	{"upgrade", upgradeRow},
	{"dialers", dialersRow},
	{"sockets", socketsRow},
	{"audit", auditRow},
	{"durable", durableRow},
}

func main() {
	log.SetFlags(0)
	only := flag.String("only", "",
		"the rows to measure, by name, with commas between; all if empty")
	output := flag.String("o", "", "a file for benchstat")
	child := flag.String("child", "", "for the command itself: measure this one here")
	scale := flag.Float64("scale", 1, "of the time and the numbers of each row")
	flag.Parse()
	if *child != "" {
		for _, row := range rows {
			if row.name == *child {
				row.run(newReport(os.Stdout, *scale))
			}
		}
		return
	}
	names := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	for _, name := range names {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
			log.Fatalf("there is no row %q", name)
		}
	}
	stat := io.Writer(io.Discard)
	if *output != "" {
		f, err := os.Create(*output)
		if err != nil {
			log.Fatal(err)
		}
		defer f.Close()
		stat = f
	}
	fmt.Fprintf(stat, "goos: %s\ngoarch: %s\n"+
		"pkg: github.com/ticketgate/ticketgate/internal/testserver/bench\n",
		runtime.GOOS, runtime.GOARCH)
	var goals, lines []string
	began, failed := time.Now(), false
	for _, row := range rows {
		if len(names) > 0 && !slices.Contains(names, row.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s (%.0fs)\n", row.name, time.Since(began).Seconds())
		if err := runChild(row.name, *scale, func(text string) {
			kind, rest, _ := strings.Cut(text, "\t")
			switch {
			case kind == "goal":
				goals = append(goals, rest)
			case kind == "line":
				lines = append(lines, rest)
			case strings.HasPrefix(text, "Benchmark"):
				fmt.Fprintln(stat, text)
			}
		}); err != nil {
			log.Printf("%s: %v", row.name, err)
			failed = true
		}
	}
	fmt.Printf("| | goal | measured | |\n|---|---|---|---|\n%s\n\n", strings.Join(goals, "\n"))
	fmt.Printf("| row | | median | over the first |\n|---|---|---:|---:|\n%s\n",
		strings.Join(lines, "\n"))
	if failed {
		os.Exit(1)
	}
}

// runChild measures one row in a process of its own.
func runChild(row string, scale float64, each func(line string)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-child", row, "-scale", fmt.Sprint(scale))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		each(in.Text())
	}
	return cmd.Wait()
}
