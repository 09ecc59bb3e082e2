package logfile

import (
	"path/filepath"
	"time"
)

// rotate makes an old file of f and begins a new one. A file without lines is
// replaced: a disk that goes on failing must not use up the old files' places.
func (f *File) rotate(now time.Time) error {
	_ = f.flush() // the batch has the error
	failed := f.suspect
	next, info, err := f.putAway(now, f.lines > 0)
	if err != nil {
		return err
	}
	f.use(next, info)
	f.born, f.retry = now.Round(0), time.Time{}
	if failed { // no file is removed for one that a failing disk cut short
		f.retry = now.Add(retryEvery)
	} else {
		f.startTidying()
	}
	if f.o.Sync {
		return syncDir(filepath.Dir(f.path))
	}
	return nil
}
