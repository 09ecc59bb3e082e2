package testserver_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The README's code is in example_test.go, whose Example runs it. Its links lead to files.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	readme := string(text)
	assert.LessOrEqual(t, strings.Count(readme, "\n"), 150, "lines")
	assert.Contains(t, readme, "\ngo get github.com/ticketgate/ticketgate\n")

	example, err := os.ReadFile("../../example_test.go")
	require.NoError(t, err)
	languages := make(map[string]int)
	blocks := regexp.MustCompile("(?ms)^```(go|js)\n(.*?)^```$").FindAllStringSubmatch(readme, -1)
	for _, block := range blocks {
		languages[block[1]]++
		found := containsBlock(string(example), block[2])
		require.True(t, found, "not in example_test.go:\n%s", block[2])
	}
	require.Equal(t, map[string]int{"go": 2, "js": 1}, languages)

	link := regexp.MustCompile(`\]\(([^):]+?)(?:#[^)]*)?\)`)
	for _, found := range link.FindAllStringSubmatch(readme, -1) {
		_, err := os.Stat("../../" + found[1])
		assert.NoError(t, err)
	}
}

// containsBlock reports whether the lines of block are in source, all of them indented alike.
func containsBlock(source, block string) bool {
	for indent := ""; len(indent) < 4; indent += "\t" {
		lines := strings.ReplaceAll("\n"+block, "\n", "\n"+indent)
		lines = strings.ReplaceAll(strings.TrimSuffix(lines, indent), "\n"+indent+"\n", "\n\n")
		if strings.Contains(source, lines) {
			return true
		}
	}
	return false
}
