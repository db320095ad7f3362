package pattern_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/pattern"
)

func compile(t testing.TB, patterns ...string) *pattern.Set {
	t.Helper()
	s, err := pattern.Compile(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPatternsMatch: each pattern matches the entries that its form
// says. A path that ends with a slash is a folder.
func TestPatternsMatch(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"a", []string{"a", "x/a", "x/y/a/"}, []string{"ab", "a/b", "A", "x/ab"}},
		{"/a", []string{"a", "a/"}, []string{"x/a", "a/b"}},
		{"x/a", []string{"x/a"}, []string{"a", "y/x/a", "x/a/b"}},
		{"**/x/a", []string{"x/a", "y/x/a", "z/y/x/a"}, []string{"a", "y/xx/a"}},
		{"a/", []string{"a/", "x/a/"}, []string{"a", "x/a", "ab/"}},
		{"/a/", []string{"a/"}, []string{"a", "x/a/"}},
		{"*.log", []string{"a.log", "x/b.log", ".log", "x.log/"}, []string{"a.logs", "x.log/y"}},
		{"*.log/", []string{"x.log/"}, []string{"a.log"}},
		{"/*.log", []string{"a.log"}, []string{"x/a.log"}},
		{"var/*/tmp", []string{"var/a/tmp"}, []string{"var/tmp", "var/a/b/tmp"}},
		{"var/**/tmp", []string{"var/tmp", "var/a/tmp", "var/a/b/tmp/"}, []string{"tmp", "x/var/tmp"}},
		{"cache/**", []string{"cache/a", "cache/a/b"}, []string{"cache", "cache/", "x/cache/a"}},
		{"**/cache/**", []string{"cache/a", "x/cache/a/b"}, []string{"cache/", "x/cache/"}},
		{"?at", []string{"cat", "x/bat", "éat"}, []string{"at", "chat"}},
		{"[a-c]x", []string{"ax", "y/cx"}, []string{"dx", "x"}},
		{"{core,*.tmp}", []string{"core", "x/a.tmp"}, []string{"cores"}},
		{`\*`, []string{"*", "x/*"}, []string{"a"}},
		{`\!important`, []string{"!important"}, []string{"important"}},
		{`\#x`, []string{"#x"}, []string{"x"}},
		{".gvfs", []string{".gvfs/", "home/u/.gvfs/"}, []string{"gvfs"}},
		{" a ", []string{" a "}, []string{"a"}},
	} {
		s := compile(t, c.pattern)
		match := func(path string) bool {
			bare := strings.TrimSuffix(path, "/")
			return s.Match(bare, func() bool { return bare != path })
		}
		for _, path := range c.yes {
			if !match(path) {
				t.Errorf("pattern %q does not match %q", c.pattern, path)
			}
		}
		for _, path := range c.no {
			if match(path) {
				t.Errorf("pattern %q matches %q", c.pattern, path)
			}
		}
	}
}

// TestPatternThatMatchesEverythingIsRefused also refuses patterns that match nothing at
// all: both are mistakes.
func TestPatternThatMatchesEverythingIsRefused(t *testing.T) {
	for text, reason := range map[string]string{
		"": "empty", "/": "root", "**": "root", "/**": "root", "**/": "root", "/**/**": "root", "*": "root", "/*": "root", "{,a}": "root",
		".": "element", "./a": "element", "../a": "element", "a/./b": "element", "a/..": "element", "a//b": "two slashes", "//": "root",
		"[": "bracket", "{a": "bracket", "a}": "bracket", `a\`: "backslash", "[]": "bracket", "!a": "exception",
		"a\xff": "UTF-8", "\ufffd": "UTF-8", "a\x00": "zero byte", strings.Repeat("a", 5000): "longer",
	} {
		err := pattern.Check(text)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want %q", text, err, reason)
		}
		if _, cerr := pattern.Compile([]string{"fine", text}); fmt.Sprint(cerr) != fmt.Sprint(err) {
			t.Errorf("%q: Compile says %v, Check %v", text, cerr, err)
		}
	}
	if _, err := pattern.Compile(slices.Repeat([]string{"a"}, pattern.MaxPatterns+1)); err == nil {
		t.Error("a list without end is taken")
	}
}

func TestCovers(t *testing.T) {
	s := compile(t, "/cache/", "*.sock", "home/*/.gvfs")
	for path, want := range map[string]bool{
		"cache": true, "cache/a/b": true, "x/cache": false, "run/a.sock": true, "run/a.sock/b": true, "home/u/.gvfs": true,
		"home/u/.gvfs/x": true, "home/u": false, "": false, "cached": false,
	} {
		if got := s.Covers(path); got != want {
			t.Errorf("Covers(%q) = %v", path, got)
		}
	}
	if (*pattern.Set)(nil).Covers("a") || (*pattern.Set)(nil).Match("a", nil) {
		t.Error("no pattern matches something")
	}
}

// TestNarrowPatternDoesNotHideWider: of two patterns with the same text, the pattern
// without a slash at its end counts.
func TestNarrowPatternDoesNotHideWider(t *testing.T) {
	for _, list := range [][]string{{"a/", "a"}, {"a", "a/"}, {"/x/a/", "x/a", "a"}} {
		if !compile(t, list...).Match("x/a", func() bool { return false }) {
			t.Errorf("%q does not match a file", list)
		}
	}
}

func TestLines(t *testing.T) {
	got, err := pattern.Lines([]byte("\ufeff# comment\r\n\r\n*.tmp\r\n  \n/a b\n\\#c\n"), "list")
	if want := []string{"*.tmp", "/a b", `\#c`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := pattern.Lines([]byte("a\n\n[x\n"), "list"); err == nil || !strings.HasPrefix(err.Error(), "list:3: ") {
		t.Errorf("the error does not name file and line: %v", err)
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("a/**/b{c,d}/[e-f]?*", "a/x/bc/ez")
	f.Add("*/", "a")
	f.Fuzz(func(t *testing.T, text, path string) {
		s, err := pattern.Compile([]string{text})
		if err != nil {
			return
		}
		if s.Match(path, func() bool { return true }) && !s.Covers(path) {
			t.Errorf("%q matches %q and does not cover it", text, path)
		}
		if s.Match("", func() bool { return true }) {
			t.Errorf("%q matches the root", text)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	var list []string
	for i := range 20 {
		list = append(list, fmt.Sprintf("name%d", i), fmt.Sprintf("*.ext%d", i), fmt.Sprintf("/some/path%d", i))
	}
	for _, globs := range []int{0, 20} {
		all := slices.Clone(list)
		for i := range globs {
			all = append(all, fmt.Sprintf("var/**/cache%d/*", i))
		}
		s := compile(b, all...)
		b.Run(fmt.Sprintf("globs=%d", globs), func(b *testing.B) {
			for b.Loop() {
				s.Match("var/lib/docker/volumes/x/_data/base/1/1234", nil)
			}
		})
	}
}
