package compat

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// screen is how many lines of code a recipe may have.
const screen = 25

// Every piece of code in the README stands, line by line, in the file that was
// linked last before it: the file of a test that runs it.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	link := regexp.MustCompile(`\]\(([\w./-]+)\)`)
	file, pieces := "", 0
	parts := strings.Split("\n"+string(readme), "\n```")
	for i, part := range parts {
		if i%2 == 0 { // prose
			for _, l := range link.FindAllStringSubmatch(part, -1) {
				file = l[1]
				require.FileExists(t, file)
			}
			continue
		}
		language, code, _ := strings.Cut(part, "\n")
		if language == "sh" {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, "\n"+string(source), "\n"+code+"\n",
			"not, or not any more, in %s", file)
		lines := 0
		for line := range strings.Lines(code) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
		require.LessOrEqual(t, lines, screen,
			"%s in %s is more than a screen", strings.SplitN(code, "\n", 2)[0], file)
		pieces++
	}
	require.Equal(t, 1, len(parts)%2, "a block is not closed")
	require.Greater(t, pieces, 20)
}
