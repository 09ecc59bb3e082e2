//go:build linux

// Package crash looks what survives of an audit log when processes are killed and disks run full.
package crash

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/DeRuina/timberjack"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/ticketgate/ticketgate/audit"
)

// A contender is something that writes an audit log and rotates it.
type contender struct {
	name string
	open func(path string, size int64) opened
}

type opened struct {
	write  func(id, pad string) error // one line; nil is an acknowledgement
	rotate func() error               // nil: it goes by size alone
	close  func() error
}

var contenders = []contender{
	{"ticketgate", func(path string, size int64) opened {
		l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: size, KeepFiles: math.MaxInt})
		if err != nil {
			panic(err)
		}
		write := func(id, pad string) error {
			before := l.Stats().Failed
			l.Record(context.Background(), audit.SocketOpened,
				slog.String("id", id), slog.String("pad", pad), slog.String("end", id))
			if l.Stats().Failed > before {
				return errors.New("not recorded")
			}
			return nil
		}
		return opened{write, nil, l.Close}
	}},
	{"lumberjack v2.2.1", func(path string, size int64) opened {
		w := &lumberjack.Logger{Filename: path, MaxSize: megabytes(size)}
		return opened{lines(w), w.Rotate, w.Close}
	}},
	{"timberjack v1.4.9", func(path string, size int64) opened {
		w := &timberjack.Logger{Filename: path, MaxSize: megabytes(size)}
		return opened{lines(w), w.Rotate, w.Close}
	}},
}

// megabytes is the smallest size that they can be told which is not below.
func megabytes(size int64) int { return int((size + 1<<20 - 1) >> 20) }

// lines writes to w as slog.JSONHandler does, but hears of errors.
func lines(w io.Writer) func(id, pad string) error {
	h := slog.NewJSONHandler(w, nil)
	return func(id, pad string) error {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, "ws_opened", 0)
		r.AddAttrs(slog.String("id", id), slog.String("pad", pad), slog.String("end", id))
		return h.Handle(context.Background(), r)
	}
}

var padding = strings.Repeat("x", 3000)

func TestMain(m *testing.M) {
	if name := os.Getenv("BENCH_CHILD"); name != "" {
		for _, c := range contenders {
			if c.name == name {
				child(c)
			}
		}
	}
	os.Exit(m.Run())
}

// child writes from eight goroutines until it is killed, and acknowledges
// each line on its standard output.
func child(c contender) {
	log := c.open(os.Getenv("BENCH_PATH"), 1<<20)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprint(os.Getenv("BENCH_RUN"), "-", w, "-", i)
				if log.write(id, padding[:rand.IntN(len(padding))]) == nil {
					os.Stdout.WriteString(id + "\n")
				}
			}
		}()
	}
	select {}
}

// A tally is what became of the lines that were acknowledged.
type tally struct{ acknowledged, lost, twice, torn int }

func (t tally) log(tb *testing.T, name string) {
	tb.Helper()
	tb.Logf("%-18s %7d acknowledged, %5d lost, %5d twice, %5d lines that are none",
		name, t.acknowledged, t.lost, t.twice, t.torn)
	if name == contenders[0].name && (t.lost > 0 || t.twice > 0) {
		tb.Errorf("%s lost or doubled lines", name)
	}
}

// count reads every file in dir.
func count(t *testing.T, dir string, acknowledged map[string]bool) tally {
	t.Helper()
	res, seen := tally{acknowledged: len(acknowledged)}, map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "ballast" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				return err
			}
			if b, err = io.ReadAll(z); err != nil {
				return err
			}
		}
		for line := range bytes.Lines(b) {
			var rec struct{ ID, End, Event string }
			switch {
			case json.Unmarshal(line, &rec) != nil || rec.ID != rec.End:
				res.torn++
			case rec.Event != "audit_gap": // which is ticketgate's own
				seen[rec.ID]++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range acknowledged {
		if seen[id] == 0 {
			res.lost++
		}
	}
	for _, n := range seen {
		if n > 1 {
			res.twice++
		}
	}
	return res
}

// scale is how often things are done: BENCH_KILLS=300 for the figures in the
// README, few in CI.
func scale() int {
	if n, err := strconv.Atoi(os.Getenv("BENCH_KILLS")); err == nil {
		return n
	}
	return 20
}

// TestKilled kills a process with eight writers, again and again, over one log.
func TestKilled(t *testing.T) {
	for _, c := range contenders {
		dir, acknowledged := t.TempDir(), map[string]bool{}
		for run := range scale() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "BENCH_CHILD="+c.name,
				"BENCH_PATH="+filepath.Join(dir, "auth.log"), fmt.Sprint("BENCH_RUN=", run))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killed := false
			for in := bufio.NewReader(out); ; {
				line, err := in.ReadString('\n')
				if err != nil {
					break // part of a line is no acknowledgement
				}
				acknowledged[strings.TrimSuffix(line, "\n")] = true
				if !killed {
					killed = true
					time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond,
						func() { cmd.Process.Kill() })
				}
			}
			_ = cmd.Wait()
		}
		count(t, dir, acknowledged).log(t, c.name)
	}
}

// TestFullDisk lets the disk run full and gives it space again: a line that
// was acknowledged must not be glued to what is left of one that was not.
func TestFullDisk(t *testing.T) {
	for _, c := range contenders {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
			t.Skipf("mount tmpfs: %v", err)
		}
		log := c.open(filepath.Join(dir, "auth.log"), 100<<20)
		t.Cleanup(func() { _, _ = log.close(), syscall.Unmount(dir, 0) })
		acknowledged, n := map[string]bool{}, 0
		line := func() error {
			n++
			id := strconv.Itoa(n)
			err := log.write(id, padding[:rand.IntN(len(padding))])
			if err == nil {
				acknowledged[id] = true
			}
			return err
		}
		ballast := filepath.Join(dir, "ballast")
		for range 200 {
			_ = os.WriteFile(ballast, make([]byte, 8<<20), 0o600) // as much as there is room for
			for line() == nil {
			}
			_ = os.Remove(ballast)
			for range 3 {
				_ = line()
			}
		}
		count(t, dir, acknowledged).log(t, c.name)
	}
}

// TestFastRotation puts the file away after each of 200 lines.
func TestFastRotation(t *testing.T) {
	for _, c := range contenders {
		dir, acknowledged := t.TempDir(), map[string]bool{}
		log := c.open(filepath.Join(dir, "auth.log"), 4<<10) // which one line all but fills
		for i := range 200 {
			id := strconv.Itoa(i)
			if log.write(id, padding) == nil {
				acknowledged[id] = true
			}
			if log.rotate != nil {
				_ = log.rotate()
			}
		}
		_ = log.close()
		count(t, dir, acknowledged).log(t, c.name)
	}
}
