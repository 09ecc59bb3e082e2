//go:build linux

package audit_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// childWriters records from eight goroutines until it is killed, and says on
// its standard output which Record has returned.
func childWriters(path string) {
	sync8, _ := strconv.ParseBool(os.Getenv("AUDIT_SYNC"))
	l, err := audit.OpenFile(path, &audit.FileOptions{
		MaxSize: 64 << 10, KeepFiles: math.MaxInt,
		Compress: os.Getenv("AUDIT_RUN")[0]%2 == 0, Sync: sync8})
	if err != nil {
		panic(err)
	}
	pad := strings.Repeat("x", 3000)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprint(os.Getenv("AUDIT_RUN"), "-", w, "-", i)
				l.Record(context.Background(), audit.SocketOpened, slog.String("id", id),
					slog.String("pad", pad[:rand.IntN(len(pad))]), slog.String("end", id))
				if l.Stats().Failed > 0 {
					panic("it failed")
				}
				os.Stdout.WriteString(id + "\n")
			}
		}()
	}
	select {}
}

// A line whose Record has returned survives a SIGKILL: of 300 kills, one
// write per line alone tore 2 to 32.
func TestKilled(t *testing.T) {
	kills := 60 // each starts a child
	if n := times(t); n > 1 {
		kills = 300 * n
	}
	path := filepath.Join(t.TempDir(), "auth.log")
	acknowledged := map[string]bool{}
	for run := range kills {
		cmd, out := startChild(t, "writers", path, fmt.Sprint("AUDIT_RUN=", run),
			fmt.Sprint("AUDIT_SYNC=", run%10 == 0))
		lines := bufio.NewReader(out)
		killed := false
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // a part of a line is no acknowledgement
			}
			acknowledged[line[:len(line)-1]] = true
			if !killed {
				killed = true
				soon := time.Duration(rand.IntN(3000)) * time.Microsecond
				time.AfterFunc(soon, func() { cmd.Process.Kill() })
			}
		}
		require.ErrorContains(t, cmd.Wait(), "killed")
	}
	l, err := audit.OpenFile(path, &audit.FileOptions{KeepFiles: math.MaxInt}) // heals the last one
	require.NoError(t, err)
	l.Record(ctx, audit.Logout, slog.String("id", "last"))
	require.NoError(t, l.Close())

	all, skipped := records(t, path)
	ids, own := count(t, all)
	for id := range acknowledged {
		if ids[id] != 1 {
			t.Errorf("acknowledged line %s is there %d times", id, ids[id])
		}
	}
	for _, rec := range all {
		if rec.Fields["pad"] != nil && rec.Fields["id"] != rec.Fields["end"] {
			t.Errorf("torn line: %s", rec.Line)
		}
	}
	// A fragment that lacked nothing but its newline is a line once it is healed, and was not
	// acknowledged.
	whole := own["torn"] - skipped
	assert.GreaterOrEqual(t, whole, 0, "fragments healed, less those skipped")
	assert.LessOrEqual(t, whole, len(ids)-len(acknowledged)-1, "lines that were not acknowledged")
	assert.Equal(t, 1, ids["last"])
	t.Logf("%d kills: %d lines acknowledged, %d more written, %d files, %d fragments healed",
		kills, len(acknowledged), len(ids)-len(acknowledged)-1, len(logFiles(t, path)), skipped)
}

// fastFolder returns a folder in memory, where there is one: what a test does
// there does not outlive a loss of power in any case.
func fastFolder(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "audit")
	if err != nil || times(t) > 1 {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestManyRotations(t *testing.T) {
	const writers = 8
	each := shortOr(t, 1000, 4000)
	path := filepath.Join(fastFolder(t), "auth.log")
	l, err := audit.OpenFile(path, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: math.MaxInt})
	require.NoError(t, err)
	pad := strings.Repeat("x", 1000)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				l.Record(ctx, audit.SocketOpened, slog.String("id", fmt.Sprint(w, "-", i)),
					slog.String("pad", pad))
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	assert.Equal(t, audit.Stats{Written: uint64(writers * each)}, l.Stats())
	all, skipped := records(t, path)
	ids, own := count(t, all)
	assert.Len(t, all, writers*each)
	assert.Len(t, ids, writers*each, "none twice")
	assert.Zero(t, skipped)
	assert.Empty(t, own)
	assert.Greater(t, len(logFiles(t, path)), writers*each*10/32, "rotations")
	t.Logf("%d lines, %d rotations: none lost, none twice", len(all), len(logFiles(t, path))-1)
}

// fullDisk returns a folder on a disk of 96 KiB.
func fullDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=96k"); err != nil {
		t.Skipf("mount tmpfs: %v: TestFileSizeLimit runs everywhere", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

func TestFullDisk(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	for name, opts := range map[string]*audit.FileOptions{
		"straight": {MaxSize: 32 << 10, KeepFiles: math.MaxInt}, "Sync": {Sync: true},
	} {
		t.Run(name, func(t *testing.T) {
			cycles, dir := shortOr(t, 60, 200), fullDisk(t)
			path := filepath.Join(dir, "auth.log")
			l, err := audit.OpenFile(path, opts)
			require.NoError(t, err)
			defer l.Close()
			emitted, failed := 0, uint64(0)
			ids, own, skippedAll := map[string]int{}, map[string]int{}, 0
			collect := func() { // reads what is there, and makes room
				all, skipped := records(t, path)
				i, o := count(t, all)
				for id, n := range i {
					ids[id] += n
				}
				for reason, n := range o {
					own[reason] += n
				}
				skippedAll += skipped
				for _, f := range logFiles(t, path) {
					require.NoError(t, os.Remove(f))
				}
				require.NoError(t, l.Reopen())
			}
			emit := func() {
				l.Record(ctx, audit.SocketOpened, slog.String("id", fmt.Sprint(emitted)),
					slog.String("pad", strings.Repeat("x", 100+rand.IntN(8000))))
				emitted++
			}
			ballast := filepath.Join(dir, "ballast")
			for range cycles {
				require.NoError(t, os.WriteFile(ballast, make([]byte, 24<<10), 0o600))
				for l.Stats().Failed == failed {
					emit()
				}
				for range rand.IntN(5) {
					emit()
				}
				failed = l.Stats().Failed
				require.NoError(t, os.Remove(ballast))
				emit() // it resumes alone
				require.Equal(t, failed, l.Stats().Failed)
				collect()
			}
			stats := l.Stats()
			collect()
			require.NoError(t, l.Close())
			assert.EqualValues(t, emitted, stats.Written+stats.Failed)
			assert.Len(t, ids, int(stats.Written))
			for id, n := range ids {
				assert.Equal(t, 1, n, id)
			}
			assert.EqualValues(t, stats.Failed, own["failed"])
			assert.Zero(t, skippedAll)
			t.Logf("%d cycles: emitted %d = written %d + failed %d", cycles, emitted, stats.Written,
				stats.Failed)
		})
	}
}

// childLimited runs into RLIMIT_FSIZE, which tears lines as a full disk does.
func childLimited(path string) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	signal.Ignore(syscall.SIGXFSZ)
	const limit = 20_000
	most := &syscall.Rlimit{Cur: limit, Max: limit}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, most); err != nil {
		panic(err)
	}
	l, err := audit.OpenFile(path, &audit.FileOptions{KeepFiles: math.MaxInt})
	if err != nil {
		panic(err)
	}
	for i := range 500 {
		l.Record(context.Background(), audit.SocketOpened, slog.String("id", fmt.Sprint(i)),
			slog.String("pad", strings.Repeat("x", rand.IntN(8000))))
	}
	err = l.Close()
	fmt.Println(l.Stats().Written, l.Stats().Failed, err)
}

func TestFileSizeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.log")
	cmd, out := startChild(t, "limited", path)
	b, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	var written, failed int
	_, err = fmt.Sscan(string(b), &written, &failed)
	require.NoError(t, err, "%s", b)
	assert.Equal(t, 500, written+failed)
	assert.Positive(t, failed)
	all, skipped := records(t, path)
	ids, _ := count(t, all)
	assert.Len(t, ids, written)
	assert.Zero(t, skipped, "what was torn was taken back")
	for _, f := range logFiles(t, path) {
		b := readAll(t, f)
		assert.LessOrEqual(t, len(b), 20_000)
		assert.True(t, b == "" || strings.HasSuffix(b, "\n"), "%s ends in a part of a line", f)
	}
}
