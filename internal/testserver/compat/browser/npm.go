package browser

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed npm
var manifest embed.FS

// npmLimit bounds a registry that does not answer.
const npmLimit = 2 * time.Minute

var npm struct {
	install sync.Once
	dir     string
	err     error
}

// Packages returns the folder node_modules with the packages that tests put into
// pages, and the tools that check and bundle those. Their versions and hashes are
// those of npm/package-lock.json; npm takes them from its cache or from its registry,
// and runs none of their scripts. The folder goes when the tests end.
func Packages(tb testing.TB) (nodeModules string) {
	tb.Helper()
	path := Need(tb, "npm", "apt-get install npm")
	npm.install.Do(func() { npm.dir, npm.err = install(path) })
	if npm.err != nil {
		unavailable(tb, "npm ci: "+npm.err.Error())
	}
	return filepath.Join(npm.dir, "node_modules")
}

func install(npm string) (dir string, err error) {
	dir, err = os.MkdirTemp("", "ticketgate-npm-")
	if err != nil {
		return "", err
	}
	files, err := fs.Sub(manifest, "npm")
	if err == nil {
		err = os.CopyFS(dir, files)
	}
	if err != nil {
		return dir, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), npmLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--include=dev", "--ignore-scripts",
		"--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	EndWithTest(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, errors.Join(err, errors.New(strings.TrimSpace(string(out))))
	}
	return dir, nil
}
