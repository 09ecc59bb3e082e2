package logfile

import (
	"cmp"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An oldFile is a file that was put away. One whose compression was killed
// may be there in both forms.
type oldFile struct {
	path      string // of the plain form, which need not be there
	seq       uint64
	plain, gz bool
	linked    bool // it has another name: it is still being put away
	empty     bool
}

// oldFiles returns path's old files in the order of their numbers, which rise
// even if the clock steps back.
func oldFiles(path string) ([]oldFile, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	var old []oldFile
	for _, entry := range entries { // sorted: the plain form comes before its .gz
		name, gz := strings.CutSuffix(entry.Name(), ".gz")
		rest, ok := strings.CutPrefix(name, base+".")
		number, stamp, _ := strings.Cut(rest, "-")
		seq, errSeq := strconv.ParseUint(number, 10, 64)
		_, errStamp := time.Parse(stampLayout, stamp)
		if !ok || !entry.Type().IsRegular() || len(number) < 10 || errSeq != nil || errStamp != nil {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue // removed meanwhile
		}
		if n := len(old); n > 0 && old[n-1].path == dir+name {
			// A .gz that others can write to is no copy of the plain file.
			old[n-1].gz = onlyOurs(info) == nil && info.Mode().Perm()&0o022 == 0
			continue
		}
		old = append(old, oldFile{dir + name, seq, !gz, gz, names(info) > 1, info.Size() == 0})
	}
	slices.SortFunc(old, func(a, b oldFile) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.path, b.path))
	})
	return old, nil
}

// startTidying removes and compresses old files in the background. If that is
// under way already, it is done once more.
func (f *File) startTidying() {
	if f.o.KeepFiles == math.MaxInt && !f.o.Compress || f.untidy.Add(1) > 1 {
		return
	}
	f.tidying.Go(func() {
		for seen := int32(1); seen > 0; {
			more, err := f.tidyOnce()
			if err != nil && !errors.Is(err, ErrClosed) {
				f.o.Warn("an old file could not be removed or compressed", err)
			}
			if !more {
				seen = f.untidy.Add(-seen)
			}
		}
	})
}

// tidyOnce removes the files that are too many, compresses one of the others,
// and reports whether there may be more to compress.
func (f *File) tidyOnce() (more bool, err error) {
	if f.stopped() {
		return false, nil
	}
	old, err := oldFiles(f.path)
	newer := 0 // files with lines in them
	for _, o := range slices.Backward(old) {
		switch {
		case newer >= f.o.KeepFiles:
			err = errors.Join(err, o.remove())
		case f.o.Compress && o.plain && !o.linked && !more:
			errGz := f.compress(o)
			err = errors.Join(err, errGz)
			more = errGz == nil
		}
		if !o.empty {
			newer++
		}
	}
	return more, err
}

func (f *File) stopped() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}

func (o oldFile) remove() error {
	err := removeIfThere(o.path + ".gz.tmp")
	if o.plain {
		err = errors.Join(err, os.Remove(o.path))
	}
	if o.gz {
		err = errors.Join(err, os.Remove(o.path+".gz"))
	}
	return err
}

// compress puts a compressed file in a plain one's place. The plain one goes
// when the other is whole and on the disk.
func (f *File) compress(o oldFile) error {
	if !o.gz {
		tmp := o.path + ".gz.tmp"
		if err := f.compressTo(tmp, o.path); err != nil {
			return errors.Join(err, removeIfThere(tmp))
		}
		if err := os.Rename(tmp, o.path+".gz"); err != nil {
			return err
		}
	}
	return removeIfThere(o.path) // Reopen removes it too
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
		if _, err = io.CopyN(z, in, 1<<20); f.stopped() {
			err = ErrClosed
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, z.Close(), out.Sync(), out.Close())
}
