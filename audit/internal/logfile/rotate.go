package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// rotate makes an old file of f and begins a new one. A file without lines is
// replaced: a disk that goes on failing must not use up the old files' places.
func (f *File) rotate(now time.Time) error {
	putAway := f.putAway
	if !renamesOpen {
		putAway = f.putAwayClosed
	}
	next, info, err := putAway(now, f.lines > 0)
	if err != nil {
		return err
	}
	failed := f.suspect
	f.f.Close()
	f.use(next, info)
	f.born, f.torn, f.retry = now.Round(0), false, time.Time{}
	if f.o.Sync {
		err = syncDir(filepath.Dir(f.path))
	}
	if failed { // no file is removed for one that a failing disk cut short
		f.retry = now.Add(retryEvery)
		return err
	}
	f.startTidying()
	return err
}

// putAway gives the file an old file's name, if it is kept, and returns the
// new file at path. There is a file at path at every moment.
func (f *File) putAway(now time.Time, keep bool) (*os.File, os.FileInfo, error) {
	spare := f.beside(".new")
	if err := removeIfThere(spare); err != nil {
		return nil, nil, err
	}
	next, info, err := openPrivate(spare, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, nil, err
	}
	old := ""
	if keep {
		old, err = f.secondName(now)
	} else {
		err = f.at(f.path)
	}
	if err == nil {
		if err = os.Rename(spare, f.path); err == nil {
			return next, info, nil
		}
		if old != "" {
			err = errors.Join(err, f.takeName(old))
		}
	}
	next.Close()
	return nil, nil, errors.Join(err, os.Remove(spare))
}

// at returns an error if path is not the name of the open file.
func (f *File) at(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !os.SameFile(info, f.id) {
		err = errors.New("another file was put in its place")
	}
	return err
}

// secondName gives the file an old file's name beside its own. A link takes no
// other file's place, and shows the next process that this one was killed
// before it was done. Where there are no links, the file is renamed.
func (f *File) secondName(now time.Time) (string, error) {
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
			if err = os.Rename(f.path, old); err != nil {
				return "", err
			}
		}
		if err := f.at(old); err != nil {
			return "", errors.Join(err, os.Remove(old))
		}
		return old, nil
	}
}

// takeName undoes secondName.
func (f *File) takeName(old string) error {
	if _, err := os.Lstat(f.path); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(old, f.path)
	}
	return os.Remove(old)
}

// putAwayClosed is putAway for systems that rename no open file.
func (f *File) putAwayClosed(now time.Time, keep bool) (*os.File, os.FileInfo, error) {
	err := f.f.Close()
	if keep && err == nil {
		f.seq++
		err = os.Rename(f.path, oldName(f.path, f.seq, now))
	} else if err == nil {
		err = os.Remove(f.path)
	}
	next, info, errOpen := openPrivate(f.path, os.O_CREATE)
	if err != nil || errOpen != nil {
		f.f = next // the old file serves, or none does
		return nil, nil, errors.Join(err, errOpen)
	}
	return next, info, nil
}

const stampLayout = "20060102T150405Z"

func oldName(path string, seq uint64, now time.Time) string {
	return fmt.Sprintf("%s.%010d-%s", path, seq, now.UTC().Format(stampLayout))
}
