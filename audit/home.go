package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// HomePath returns where the application called app keeps its log called
// file: in logs/ under the folder that the environment variable APP_HOME
// names, else under .app in the user's home. For HomePath("hermes",
// "auth.log") that is $HERMES_HOME/logs/auth.log or ~/.hermes/logs/auth.log.
// In the variable's name all but letters and digits of app are underscores.
//
// app and file are single names: neither may be empty, begin with a dot, or
// have a separator or control character in it. Nothing is made; OpenFile does that.
func HomePath(app, file string) (string, error) {
	if err := errors.Join(singleName("app", app), singleName("file", file)); err != nil {
		return "", err
	}
	variable := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(app)) + "_HOME"
	home := os.Getenv(variable)
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("audit: %s is not set, and there is no home: %w", variable, err)
		}
		home = filepath.Join(user, "."+app)
	}
	return filepath.Join(home, "logs", file), nil
}

func singleName(what, name string) error {
	bad := func(r rune) bool { return r < 0x20 || r == 0x7f || strings.ContainsRune(`/\:`, r) }
	if name == "" || name[0] == '.' || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("audit: %s %q is not the name of one file: want no separator and no dot in front", what, name)
	}
	return nil
}
