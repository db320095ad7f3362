package repotest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// commentWidth is how many columns a line of comment may have, with tabs of four.
const commentWidth = 100

// TestCommentsAreNarrow: a line that stands for itself and has a comment is
// at most commentWidth columns wide. Lists, tables and code in comments,
// which are indented, and addresses, which can't be wrapped, may be wider.
func TestCommentsAreNarrow(t *testing.T) {
	for _, f := range goFiles(t) {
		data, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			text, ok := strings.CutPrefix(strings.TrimLeft(line, "\t"), "// ")
			if !ok || strings.HasPrefix(text, " ") || strings.Contains(text, "://") {
				continue
			}
			wide := utf8.RuneCountInString(strings.TrimRight(strings.ReplaceAll(line, "\t", "    "), "\n"))
			if wide > commentWidth {
				t.Errorf("%s:%d: a comment of %d columns; wrap it evenly at %d or less, so that it can be read beside another file", f.path, n, wide, commentWidth)
			}
		}
	}
}
