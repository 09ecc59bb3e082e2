//go:build linux

package audit_test

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/audit"
)

// breakFile puts another file behind path's descriptor. Writes to /proc/self/mem fail with EIO, as
// on a bad disk: nothing is mapped at the beginning of memory. A pipe takes writes, but no fsync.
func breakFile(t testing.TB, path string, with *os.File) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target == path {
			n, err := strconv.Atoi(fd.Name())
			require.NoError(t, err)
			require.NoError(t, syscall.Dup3(int(with.Fd()), n, syscall.O_CLOEXEC))
		}
	}
}

// inProcessOfItsOwn runs the test again as a child and reports true, unless this is
// the child: what limits files is not for the other tests, nor for what go test
// writes while it runs.
func inProcessOfItsOwn(t *testing.T) bool {
	t.Helper()
	if os.Getenv("AUDIT_LIMITED") != "" {
		return false
	}
	test, row, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$/^"+row+"$", "-test.v")
	cmd.Env = append(os.Environ(), "AUDIT_LIMITED=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return true
}

// limitFiles makes every write beyond so many bytes of a file fail with EFBIG.
func limitFiles(t testing.TB, size uint64) (lift func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var was syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was))
	limit := syscall.Rlimit{Cur: size, Max: was.Max}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	return func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was)) }
}

// HOSTILE D2b: retention must not take files of a failing disk for history.
func TestDisk_FailsForFiveMinutesAndNoGoodFileIsRemoved(t *testing.T) {
	faults := map[string]func(t *testing.T, path string) (each, end func()){
		"EIO": func(t *testing.T, path string) (each, end func()) {
			memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
			require.NoError(t, err)
			return func() { breakFile(t, path, memory) }, func() { memory.Close() }
		},
		"fsync": func(t *testing.T, path string) (each, end func()) {
			r, w, err := os.Pipe()
			require.NoError(t, err)
			return func() { breakFile(t, path, w) }, func() { r.Close(); w.Close() }
		},
		"EFBIG": func(t *testing.T, path string) (each, end func()) {
			return func() {}, limitFiles(t, 100)
		},
	}
	for name, fault := range faults {
		for _, durable := range []bool{false, true} {
			if name == "fsync" && !durable {
				continue
			}
			t.Run(fmt.Sprintf("%s, Sync %v", name, durable), func(t *testing.T) {
				if name == "EFBIG" && inProcessOfItsOwn(t) {
					return
				}
				asDefault(t, slog.DiscardHandler)
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					path := filepath.Join(dir, "auth.log")
					l, err := audit.OpenFile(path, &audit.FileOptions{
						MaxSize: 4 << 10, KeepFiles: 4, Sync: durable,
					})
					require.NoError(t, err)
					for i := range 20 {
						l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint(i)),
							slog.String("pad", strings.Repeat("x", 1000)))
					}
					synctest.Wait() // the old files are removed in the background
					before, _ := records(t, path)
					ids, _ := count(t, before)

					each, end := fault(t, path)
					for i := range 300 {
						each()
						l.Record(ctx, audit.Logout, slog.String("id", fmt.Sprint("failed", i)))
						time.Sleep(time.Second)
					}
					end()
					failed := int(l.Stats().Failed)
					assert.Greater(t, failed, 250)
					time.Sleep(10 * time.Second)
					l.Record(ctx, audit.Logout, slog.String("id", "after"))
					assert.Equal(t, failed, int(l.Stats().Failed), "it goes on by itself")
					require.NoError(t, l.Close())

					all, skipped := records(t, path)
					after, own := count(t, all)
					for id := range ids {
						assert.Equal(t, 1, after[id], "line %s was there before", id)
					}
					assert.Equal(t, 1, after["after"])
					assert.Equal(t, failed, own["failed"])
					assert.Zero(t, skipped)
					for _, f := range logFiles(t, path) {
						assert.NotEmpty(t, readAll(t, f), "%s is empty", f)
					}
				})
			})
		}
	}
}

// A file without lines is no reason to remove one that has some.
func TestRetention_CountsOnlyFilesWithLines(t *testing.T) {
	l, path := open(t, &audit.FileOptions{MaxSize: 4 << 10, KeepFiles: 2})
	for range 12 {
		l.Record(ctx, audit.Logout, slog.String("pad", strings.Repeat("x", 1000)))
	}
	require.NoError(t, l.Close())
	// Close ends what goes on in the background.
	tidied(t, path, &audit.FileOptions{KeepFiles: 2}, 3, "Z")
	before, _ := records(t, path)
	for i := range 10 {
		empty := fmt.Sprintf("%s.%010d-20260527T091227Z", path, 100+i)
		require.NoError(t, os.WriteFile(empty, nil, 0o600))
	}
	for range 3 {
		l, err := audit.OpenFile(path, &audit.FileOptions{KeepFiles: 2})
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	after, _ := records(t, path)
	assert.Len(t, after, len(before))
}

// A plain file and its compressed copy are one file.
func TestRetention_CountsAFileAndItsCopyOnce(t *testing.T) {
	l, path := open(t, nil)
	require.NoError(t, l.Close())
	name := func(n int) string { return fmt.Sprintf("%s.%010d-20260527T091227Z", path, n) }
	for n := 1; n <= 3; n++ {
		require.NoError(t, os.WriteFile(name(n), []byte("{}\n"), 0o600))
	}
	require.NoError(t, os.WriteFile(name(3)+".gz", []byte("a copy"), 0o640))
	l, err := audit.OpenFile(path, &audit.FileOptions{KeepFiles: 3})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	for n := 1; n <= 2; n++ {
		assert.FileExists(t, name(n))
	}
	assert.FileExists(t, name(3)+".gz")
}

// HOSTILE D5b: what somebody put at the name of a file that the log is going to make.
func TestCompress_PlantedFileIsNeitherFollowedNorReused(t *testing.T) {
	const old = ".0000000001-20260527T091227Z"
	victim := func(t *testing.T, path string) string {
		name := path + ".victim"
		require.NoError(t, os.WriteFile(name, []byte("victim"), 0o644))
		return name
	}
	plants := map[string]func(t *testing.T, path, at string){
		"symbolic link": func(t *testing.T, path, at string) {
			require.NoError(t, os.Symlink(victim(t, path), at))
		},
		"dangling symbolic link": func(t *testing.T, path, at string) {
			require.NoError(t, os.Symlink(path+".none", at))
		},
		"hard link": func(t *testing.T, path, at string) {
			require.NoError(t, os.Link(victim(t, path), at))
		},
		"FIFO": func(t *testing.T, path, at string) {
			require.NoError(t, syscall.Mkfifo(at, 0o600))
		},
		"0666": func(t *testing.T, path, at string) {
			require.NoError(t, os.WriteFile(at, []byte("planted"), 0o666))
			require.NoError(t, os.Chmod(at, 0o666))
		},
		"foreign owner": func(t *testing.T, path, at string) {
			require.NoError(t, os.WriteFile(at, []byte("planted"), 0o600))
			if err := os.Chown(at, 12345, 12345); err != nil {
				t.Skip(err)
			}
		},
	}
	for name, plant := range plants {
		for _, suffix := range []string{".gz.tmp", ".gz"} {
			t.Run(name+" at "+suffix, func(t *testing.T) {
				asDefault(t, slog.DiscardHandler)
				path := filepath.Join(t.TempDir(), "auth.log")
				require.NoError(t, os.WriteFile(path+old, []byte(good+"\n"), 0o600))
				plant(t, path, path+old+suffix)

				l, err := audit.OpenFile(path, &audit.FileOptions{
					KeepFiles: math.MaxInt, Compress: true,
				})
				require.NoError(t, err)
				waitFor(t, func() bool {
					_, err := os.Lstat(path + old)
					return err != nil
				})
				require.NoError(t, l.Close())

				info, err := os.Lstat(path + old + ".gz")
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode())
				stat := info.Sys().(*syscall.Stat_t)
				assert.EqualValues(t, os.Geteuid(), stat.Uid)
				assert.EqualValues(t, 1, stat.Nlink)
				all, _ := records(t, path)
				assert.Len(t, all, 1)
				if _, err := os.Stat(path + ".victim"); err == nil {
					assert.Equal(t, "victim", readAll(t, path+".victim"))
				}
				assert.NoFileExists(t, path+".none")
			})
		}
	}
}

// HOSTILE D8b: 1,001 lines were gone, and audit_gap said 49.
func TestGap_CountsTheLinesThatWereInTheFile(t *testing.T) {
	tests := []struct {
		name, reason string
		take         func(t *testing.T, path string)
		lines        int
	}{
		{"cut to nothing", "truncated", func(t *testing.T, path string) {
			require.NoError(t, os.Truncate(path, 0))
		}, 1001},
		{"cut in the middle of line 11", "truncated", func(t *testing.T, path string) {
			all := readAll(t, path)
			ten := strings.Join(strings.SplitAfter(all, "\n")[:10], "")
			require.NoError(t, os.Truncate(path, int64(len(ten)+5)))
		}, 991},
		{"removed", "removed", func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
		}, 1001},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(dir, "auth.log")
				write := func(n int) {
					l, err := audit.OpenFile(path, nil)
					require.NoError(t, err)
					for range n {
						l.Record(ctx, audit.Logout, slog.String("id", "x"))
					}
					require.NoError(t, l.Close())
				}
				write(500) // before this process, as far as the log knows
				l, err := audit.OpenFile(path, nil)
				require.NoError(t, err)
				defer l.Close()
				for range 501 {
					l.Record(ctx, audit.Logout, slog.String("id", "x"))
					time.Sleep(10 * time.Millisecond)
				}
				tt.take(t, path)
				time.Sleep(time.Second)
				l.Record(ctx, audit.Logout, slog.String("id", "after"))
				all, _ := records(t, path)
				_, own := count(t, all)
				assert.Equal(t, map[string]int{tt.reason: tt.lines}, withoutTorn(own))
			})
		})
	}
}

func withoutTorn(own map[string]int) map[string]int {
	delete(own, "torn")
	return own
}
