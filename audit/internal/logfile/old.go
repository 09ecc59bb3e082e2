package logfile

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const stampLayout = "20060102T150405Z"

func oldName(path string, seq uint64, now time.Time) string {
	return fmt.Sprintf("%s.%010d-%s", path, seq, now.UTC().Format(stampLayout))
}

// An oldFile is a file that rotate replaced.
type oldFile struct {
	path string
	seq  uint64
	gz   bool
	info os.FileInfo
}

// oldFiles returns the old files of path, sorted by number: the clock may have stepped back.
func oldFiles(path string) (old []oldFile, err error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), base+".")
		rest, gz := strings.CutSuffix(rest, ".gz")
		number, stamp, _ := strings.Cut(rest, "-")
		seq, errSeq := strconv.ParseUint(number, 10, 64)
		_, errStamp := time.Parse(stampLayout, stamp)
		if !ours || !entry.Type().IsRegular() || len(number) < 10 ||
			errSeq != nil || errStamp != nil {
			continue
		}
		if info, err := entry.Info(); err == nil { // an error if it was removed just now
			old = append(old, oldFile{dir + entry.Name(), seq, gz, info})
		}
	}
	slices.SortStableFunc(old, func(a, b oldFile) int { return cmp.Compare(a.seq, b.seq) })
	return old, err
}

// startTidying runs tidy in the background. If tidy is running, it runs once more after that.
func (f *File) startTidying() {
	if f.o.KeepFiles == math.MaxInt && !f.o.Compress || f.untidy.Swap(true) {
		return
	}
	f.background.Go(func() {
		f.tidying.Lock()
		defer f.tidying.Unlock()
		f.untidy.Store(false)
		if err := f.tidy(); err != nil && !f.closed.Load() {
			f.o.Warn("an old file could not be removed or compressed", err)
		}
	})
}

// tidy removes the oldest files beyond KeepFiles, and compresses the others.
func (f *File) tidy() error {
	old, err := oldFiles(f.path)
	newer, last := 0, uint64(0) // newer files that are not empty; a file and its .gz count once
	for _, o := range slices.Backward(old) {
		switch {
		case f.closed.Load():
			return err
		case newer >= f.o.KeepFiles:
			err = errors.Join(err, removeIfThere(o.path), removeIfThere(o.path+".gz.tmp"))
		case f.o.Compress && !o.gz && linkCount(o.info) == 1: // 2 during putAway
			err = errors.Join(err, f.compress(o.path))
		}
		if o.info.Size() > 0 && (newer == 0 || o.seq != last) {
			newer, last = newer+1, o.seq
		}
	}
	return err
}

// compress replaces a plain file by a compressed one, after that is whole and on the disk.
func (f *File) compress(path string) error {
	tmp := path + ".gz.tmp"
	err := f.compressTo(tmp, path)
	if err == nil {
		err = os.Rename(tmp, path+".gz")
	}
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return removeIfThere(path) // removeLeftovers may have removed it
}

func (f *File) compressTo(tmp, path string) error {
	in, _, err := openPrivate(path, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := removeIfThere(tmp); err != nil {
		return err
	}
	out, _, err := openPrivate(tmp, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	for err == nil {
		if _, err = io.CopyN(z, in, 1<<20); f.closed.Load() {
			err = ErrClosed
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, z.Close(), out.Sync(), out.Close())
}
