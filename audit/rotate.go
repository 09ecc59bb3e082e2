package audit

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oldFile is a file that rotation put away. One that was being compressed
// when the process was killed may be there in both forms.
type oldFile struct {
	path      string // of the plain one, whether it is there or not
	seq       uint64
	plain, gz bool
	linked    bool // it has another name: it is still being put away
	size      int64
}

const (
	stampLayout = "20060102T150405Z"
	seqDigits   = 10
	gzSuffix    = ".gz"
	tmpSuffix   = ".gz.tmp"
)

func oldName(path string, seq uint64, now time.Time) string {
	return fmt.Sprintf("%s.%0*d-%s", path, seqDigits, seq, now.UTC().Format(stampLayout))
}

// oldFiles lists path's old files, the oldest first. It goes by the numbers:
// clocks step back.
func oldFiles(path string) ([]oldFile, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	var old []oldFile
	for _, entry := range entries {
		rest, ok := strings.CutPrefix(entry.Name(), base+".")
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		rest, gz := strings.CutSuffix(rest, gzSuffix)
		number, stamp, _ := strings.Cut(rest, "-")
		seq, err := strconv.ParseUint(number, 10, 64)
		if _, errStamp := time.Parse(stampLayout, stamp); err != nil || errStamp != nil || len(number) < seqDigits {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue // gone meanwhile
		}
		o := oldFile{path: dir + base + "." + rest, seq: seq, plain: !gz, gz: gz, linked: names(info) > 1, size: info.Size()}
		if n := len(old); n > 0 && old[n-1].path == o.path {
			// A .gz that others can write to is no copy of the plain one.
			old[n-1].gz = onlyOurs(info) == nil && info.Mode().Perm()&0o022 == 0
			continue
		}
		old = append(old, o)
	}
	slices.SortFunc(old, func(a, b oldFile) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.path, b.path))
	})
	return old, nil
}

// putAway gives what is at path an old file's name, if it is to be kept, and
// returns the new file that is there in its stead.
func (f *file) putAway(now time.Time, keep bool) (*os.File, error) {
	if !renamesOpen {
		return f.putAwayClosed(now, keep)
	}
	spare := f.spare()
	if err := os.Remove(spare); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	next, err := openLog(spare, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	old := ""
	if keep {
		old, err = f.secondName(now)
	}
	if err == nil {
		if err = os.Rename(spare, f.path); err == nil {
			return next, nil
		}
	}
	if err != nil && old != "" {
		if _, lerr := os.Lstat(f.path); errors.Is(lerr, fs.ErrNotExist) {
			err = errors.Join(err, os.Rename(old, f.path))
		} else {
			err = errors.Join(err, os.Remove(old))
		}
	}
	next.Close()
	return nil, errors.Join(err, os.Remove(spare))
}

// secondName gives the file an old file's name. A link can't take the place
// of another file; and if the process is killed now, the next one sees what
// was going on. Where there are no links, it is renamed.
func (f *file) secondName(now time.Time) (string, error) {
	for {
		f.seq++
		old := oldName(f.path, f.seq, now)
		err := os.Link(f.path, old)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			if _, taken := os.Lstat(old); !errors.Is(taken, fs.ErrNotExist) {
				return "", err
			}
			err = os.Rename(f.path, old)
		}
		if err != nil {
			return "", err
		}
		if info, err := os.Lstat(old); err != nil || !os.SameFile(info, f.id) {
			return "", errors.Join(errors.New("another file was put in its place"), err, os.Remove(old))
		}
		return old, nil
	}
}

// putAwayClosed is putAway where an open file can't be renamed.
func (f *file) putAwayClosed(now time.Time, keep bool) (*os.File, error) {
	if err := f.f.Close(); err != nil {
		return nil, err
	}
	var err error
	if keep {
		f.seq++
		err = os.Rename(f.path, oldName(f.path, f.seq, now))
	} else {
		err = os.Remove(f.path)
	}
	next, errOpen := openLog(f.path, os.O_CREATE)
	if err != nil && errOpen == nil { // the old one goes on
		f.f, next = next, nil
	}
	if errOpen != nil {
		f.f = nil
	}
	return next, errors.Join(err, errOpen)
}

// startTidying removes and compresses old files in the background. Should
// that be going on already, it is gone through once more.
func (f *file) startTidying() {
	if f.o.KeepFiles == math.MaxInt && f.o.KeepBytes == 0 && !f.o.Compress {
		return
	}
	if f.untidy.Add(1) > 1 {
		return
	}
	f.tidying.Go(func() {
		for seen := int32(1); seen > 0; {
			more, err := f.tidyOnce()
			if err != nil {
				f.warn("an old file could not be removed or compressed", err)
			}
			if !more {
				seen = f.untidy.Add(-seen)
			}
		}
	})
}

// tidyOnce removes what is not to be kept, compresses one of the rest, and
// reports whether there may be more to do.
func (f *file) tidyOnce() (more bool, err error) {
	select {
	case <-f.stop:
		return false, nil
	default:
	}
	old, err := oldFiles(f.path)
	if err != nil {
		return false, err
	}
	var errs []error
	total, newer := int64(0), 0              // newer: files with lines in them
	for _, o := range slices.Backward(old) { // the newest first
		total += o.size
		remove := newer > 0 && (newer >= f.o.KeepFiles || f.o.KeepBytes > 0 && total > f.o.KeepBytes)
		if o.size > 0 {
			newer++
		}
		if remove {
			errs = append(errs, o.remove())
		} else if f.o.Compress && o.plain && !o.linked && !more {
			if err := o.compress(f.stop); errors.Is(err, errClosed) {
				return false, errors.Join(errs...) // the next one goes on with it
			} else if err != nil {
				errs = append(errs, err)
			} else {
				more = true
			}
		}
	}
	return more, errors.Join(errs...)
}

func (o oldFile) remove() error {
	var errs []error
	if o.plain {
		errs = append(errs, os.Remove(o.path))
	}
	if o.gz {
		errs = append(errs, os.Remove(o.path+gzSuffix))
	}
	if err := os.Remove(o.path + tmpSuffix); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err) // what a compression left that was killed
	}
	return errors.Join(errs...)
}

// compress puts a compressed file in a plain one's place. The plain one goes
// when the other is whole and on the disk.
func (o oldFile) compress(stop <-chan struct{}) error {
	if !o.gz {
		tmp := o.path + tmpSuffix
		if err := o.compressTo(tmp, stop); err != nil {
			return errors.Join(err, os.Remove(tmp))
		}
		if err := os.Rename(tmp, o.path+gzSuffix); err != nil {
			return err
		}
	}
	if err := os.Remove(o.path); err != nil && !errors.Is(err, fs.ErrNotExist) { // Reopen does so too
		return err
	}
	return nil
}

func (o oldFile) compressTo(tmp string, stop <-chan struct{}) (err error) {
	in, err := openLog(o.path, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := private(in); err != nil {
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // what a compression left that was killed, or somebody put there
	}
	out, err := openLog(tmp, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z := gzip.NewWriter(out)
	if _, err := io.Copy(z, stoppable{in, stop}); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return out.Sync()
}

// stoppable is a reader that fails once stop is closed.
type stoppable struct {
	io.Reader
	stop <-chan struct{}
}

func (s stoppable) Read(p []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, errClosed
	default:
		return s.Reader.Read(p)
	}
}
