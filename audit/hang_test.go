//go:build linux

package audit_test

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
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

// swap puts something else behind the descriptor of the log's file.
func swap(t testing.TB, path string, with int) (descriptor int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target == path {
			n, err := strconv.Atoi(fd.Name())
			require.NoError(t, err)
			require.NoError(t, syscall.Dup3(with, n, syscall.O_CLOEXEC))
			return n
		}
	}
	t.Fatalf("no descriptor of %s", path)
	return 0
}

// hang makes the log's disk hang, until release is called. What was on its way
// then can be drained.
func hang(t testing.TB, path string) (release func(), drain func() string) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	r, err := syscall.Open(fifo, syscall.O_RDWR|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	for _, size := range []int{4096, 1} { // fill it, to the last byte
		for n := 1; n > 0; {
			n, _ = syscall.Write(r, make([]byte, size))
		}
	}
	w, err := syscall.Open(fifo, syscall.O_WRONLY, 0)
	require.NoError(t, err)
	descriptor := swap(t, path, w)
	release = func() {
		file, err := syscall.Open(path, syscall.O_RDWR|syscall.O_APPEND, 0)
		require.NoError(t, err)
		require.NoError(t, syscall.Dup3(file, descriptor, syscall.O_CLOEXEC))
		for _, fd := range []int{w, file} {
			require.NoError(t, syscall.Close(fd))
		}
		n, err := syscall.Read(r, make([]byte, 1<<20)) // what it was filled with
		require.NoError(t, err)
		require.Equal(t, 1<<16, n)
	}
	drain = func() string {
		b := make([]byte, 1<<20)
		n, _ := syscall.Read(r, b)
		require.NoError(t, syscall.Close(r))
		return string(b[:max(n, 0)])
	}
	return release, drain
}

func TestQueueDoesNotWaitForAHungDisk(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	l, path := open(t, &audit.FileOptions{Queue: 100})
	l.Record(ctx, audit.Logout, slog.String("id", "before"))
	waitFor(t, func() bool { return l.Stats().Written == 1 })
	release, drain := hang(t, path)
	for i := range 1000 { // each returns, or the test would hang here
		l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint(i)))
	}
	assert.Equal(t, audit.Stats{Written: 1, Dropped: 900}, l.Stats())
	release()
	waitFor(t, func() bool { return l.Stats().Written == 101 })
	l.Record(ctx, audit.Logout, slog.String("id", "after"))
	require.NoError(t, l.Close())
	assert.Equal(t, audit.Stats{Written: 102, Dropped: 900}, l.Stats())
	all, _ := records(t, path)
	for rec, err := range audit.Read(strings.NewReader(drain())) {
		require.NoError(t, err)
		all = append(all, rec)
	}
	ids, own := count(t, all)
	assert.Equal(t, 900, own["dropped"])
	assert.Len(t, ids, 102)
}

// BenchmarkRecordWhileTheDiskHangs prints how long Record takes at p99, in
// microseconds, with a queue that nobody empties.
func BenchmarkRecordWhileTheDiskHangs(b *testing.B) {
	was := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(was)
	l, path := open(b, &audit.FileOptions{Queue: 1000, CloseWait: time.Millisecond})
	l.Record(ctx, audit.Logout)
	waitFor(b, func() bool { return l.Stats().Written == 1 })
	release, drain := hang(b, path)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		start := time.Now()
		l.Record(ctx, audit.TicketMinted, slog.String("provider", "oidc"), slog.String("ip", "203.0.113.9"))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
	l.Close()
	release()
	drain()
}

func TestCloseOfAHungQueue(t *testing.T) {
	asDefault(t, slog.DiscardHandler)
	l, path := open(t, &audit.FileOptions{Queue: 100, CloseWait: 50 * time.Millisecond})
	l.Record(ctx, audit.Logout)
	waitFor(t, func() bool { return l.Stats().Written == 1 })
	release, drain := hang(t, path)
	for range 30 {
		l.Record(ctx, audit.Logout)
	}
	err := l.Close()
	require.ErrorContains(t, err, "30 lines were not written within 50ms")
	assert.Equal(t, err, l.Close())
	l.Record(ctx, audit.Logout)
	assert.Equal(t, audit.Stats{Written: 1, Dropped: 30, Failed: 1}, l.Stats())
	release()
	drain()
}

func TestQueueIsDrainedByClose(t *testing.T) {
	l, path := open(t, &audit.FileOptions{Queue: 10_000, MaxSize: 8 << 10, KeepFiles: math.MaxInt})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint(w, "-", i)))
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	assert.Equal(t, audit.Stats{Written: 8000}, l.Stats())
	all, _ := records(t, path)
	ids, own := count(t, all)
	assert.Len(t, ids, 8000)
	assert.Empty(t, own)
	for _, f := range logFiles(t, path) { // lines that are written together are parted
		info, err := os.Stat(f)
		require.NoError(t, err)
		assert.LessOrEqual(t, info.Size(), int64(8<<10))
	}
}

func TestSyncFromManyGoroutines(t *testing.T) {
	l, path := open(t, &audit.FileOptions{Sync: true})
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 20 {
				id := fmt.Sprint(w, "-", i)
				l.Record(ctx, audit.Logout, slog.String("id", id))
				assert.Contains(t, readAll(t, path), `"id":"`+id+`"`)
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	assert.Equal(t, audit.Stats{Written: 64 * 20}, l.Stats())
	all, _ := records(t, path)
	assert.Len(t, all, 64*20)
}

// An fsync that failed is not tried again and believed: the file is put away.
func TestDiskThatFails(t *testing.T) {
	for name, sync := range map[string]bool{"fsync": true, "write": false} {
		t.Run(name, func(t *testing.T) {
			asDefault(t, slog.DiscardHandler)
			l, path := open(t, &audit.FileOptions{Sync: sync, MaxSize: math.MaxInt64})
			l.Record(ctx, audit.Logout, slog.String("id", "1"))
			r, w, err := os.Pipe() // takes lines, but can't fsync; with nobody to read, it takes none
			require.NoError(t, err)
			if !sync {
				r.Close()
			}
			swap(t, path, int(w.Fd()))
			l.Record(ctx, audit.Logout, slog.String("id", "2"))
			assert.Equal(t, audit.Stats{Written: 1, Failed: 1}, l.Stats())
			l.Record(ctx, audit.Logout, slog.String("id", "3"))
			assert.Equal(t, audit.Stats{Written: 2, Failed: 1}, l.Stats())
			files := logFiles(t, path)
			require.Len(t, files, 2)
			assert.Contains(t, readAll(t, files[0]), `"id":"1"`)
			assert.Contains(t, readAll(t, path), `"reason":"failed","lines":1}`)
			assert.Contains(t, readAll(t, path), `"id":"3"`)
			w.Close()
			r.Close()
		})
	}
}
