//go:build linux

package audit_test

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

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

func TestSync_LineIsInFileWhenRecordReturns(t *testing.T) {
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

// Lines that share an fsync do not share a file that is full.
func TestSync_BatchesAreSplitWhereTheFileRotates(t *testing.T) {
	const maxSize = 8 << 10
	l, path := open(t, &audit.FileOptions{Sync: true, MaxSize: maxSize, KeepFiles: math.MaxInt})
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := range 20 {
				l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint(w, "-", i)))
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	all, _ := records(t, path)
	ids, own := count(t, all)
	assert.Len(t, ids, 64*20)
	assert.Empty(t, own)
	assert.Greater(t, len(logFiles(t, path)), 10)
	for _, f := range logFiles(t, path) {
		assert.LessOrEqual(t, len(readAll(t, f)), maxSize)
	}
}

// An fsync that failed is not tried again and believed: the file is put away.
func TestDisk_FailedFileIsPutAway(t *testing.T) {
	for name, sync := range map[string]bool{"fsync": true, "write": false} {
		t.Run(name, func(t *testing.T) {
			asDefault(t, slog.DiscardHandler)
			l, path := open(t, &audit.FileOptions{Sync: sync, MaxSize: math.MaxInt64})
			l.Record(ctx, audit.Logout, slog.String("id", "1"))
			// takes lines, but can't fsync; with nobody to read, it takes none
			r, w, err := os.Pipe()
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
