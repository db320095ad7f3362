// Package pattern matches paths in a volume with patterns that an operator writes:
// paths that a backup leaves out, and paths where losses are accepted.
//
// The command line and the agent's configuration check patterns with it, and
// internal/backup matches with it. A Set is not changed after Compile returned it, so
// any number of goroutines may use one.
//
// A pattern without a slash matches the last element of a path, in any folder. A pattern with a
// slash, at its beginning or inside, matches a path from the root of the volume on. A slash at the
// end restricts the pattern to folders. "*" and "?" match within one element, "**" as a whole
// element matches any number of elements, "[a-z]" matches one character and "{a,b}" one of several
// texts; a backslash takes the meaning from the character that follows it. Letter case counts.
package pattern

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// Limits of a list of patterns. A manifest records the list, and a
// walk compares each entry with it.
const (
	MaxPatterns = 10_000
	maxLength   = 4096 // of one pattern, bytes: no path of a system call is longer
)

// Check returns nil for a pattern that Compile takes, and else an error that names the fault.
func Check(pattern string) error {
	_, err := parse(pattern)
	return err
}

// parsed is a pattern that was found right.
type parsed struct {
	body     string // without the slashes at its beginning and end
	anchored bool   // it is compared with whole paths, and not with last elements
	folder   bool   // it matches folders only
}

func parse(pattern string) (parsed, error) {
	switch {
	case pattern == "":
		return parsed{}, errors.New("a pattern must not be empty")
	case len(pattern) > maxLength:
		return parsed{}, fmt.Errorf("a pattern of %d bytes is longer than the %d that are allowed", len(pattern), maxLength)
	case !utf8.ValidString(pattern) || strings.ContainsRune(pattern, utf8.RuneError):
		return parsed{}, fmt.Errorf("pattern %q must be UTF-8; a ? matches a byte that is none", pattern)
	case strings.IndexByte(pattern, 0) >= 0:
		return parsed{}, fmt.Errorf("pattern %q holds a zero byte, which no path has", pattern)
	case pattern[0] == '!':
		return parsed{}, fmt.Errorf(`pattern %q: an exception from other patterns is not possible; write \%s for a name that begins with "!"`, pattern, pattern)
	case !doublestar.ValidatePattern(pattern):
		return parsed{}, fmt.Errorf(`pattern %q: a bracket or brace is not closed, or a backslash ends it; write \[ or \{ for the character itself`, pattern)
	}
	p := parsed{body: pattern}
	if strings.HasSuffix(p.body, "/") && !strings.HasSuffix(p.body, `\/`) {
		p.body, p.folder = p.body[:len(p.body)-1], true
	}
	p.body, p.anchored = strings.CutPrefix(p.body, "/")
	p.anchored = p.anchored || strings.Contains(p.body, "/")
	all := true // each element is "**"
	for element := range strings.SplitSeq(p.body, "/") {
		switch element {
		case "":
			if p.body != "" {
				return parsed{}, fmt.Errorf("pattern %q has two slashes in a row, which no path in a volume has", pattern)
			}
		case ".", "..":
			return parsed{}, fmt.Errorf("pattern %q has the element %q, which no path in a volume has; begin with / for the root of the volume", pattern, element)
		}
		all = all && element == "**"
	}
	if p.body == "" || all || !p.folder && doublestar.MatchUnvalidated(p.body, "") {
		return parsed{}, fmt.Errorf("pattern %q matches the root of the volume and with it everything; name what lies below", pattern)
	}
	return p, nil
}

// Set is a list of patterns. A nil Set matches nothing.
type Set struct {
	names    map[string]bool // the last element is this text; true: of a folder only
	paths    map[string]bool // the whole path is this text; true: of a folder only
	suffixes []glob          // the last element ends with body
	globs    []glob
}

type glob struct {
	parsed
	// a pattern that ends with "/**" matches the content of a folder, but not the
	// folder; outside matches the folder
	outside string
}

// Compile makes a Set of patterns. Its error names the first pattern that is wrong.
func Compile(patterns []string) (*Set, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	if len(patterns) > MaxPatterns {
		return nil, fmt.Errorf("%d patterns are more than the %d that are allowed", len(patterns), MaxPatterns)
	}
	s := &Set{names: map[string]bool{}, paths: map[string]bool{}}
	for _, text := range patterns {
		p, err := parse(text)
		if err != nil {
			return nil, err
		}
		add := func(m map[string]bool) { // of two patterns with the same text the wider counts
			before, again := m[p.body]
			m[p.body] = p.folder && (!again || before)
		}
		switch end, star := strings.CutPrefix(p.body, "*"); {
		case literal(p.body) && p.anchored:
			add(s.paths)
		case literal(p.body):
			add(s.names)
		case star && literal(end) && !p.anchored:
			p.body = end
			s.suffixes = append(s.suffixes, glob{parsed: p})
		default:
			outside, inside := strings.CutSuffix(p.body, "/**")
			if !inside {
				outside = ""
			}
			s.globs = append(s.globs, glob{parsed: p, outside: outside})
		}
	}
	return s, nil
}

// literal says whether a pattern matches nothing but its own text.
func literal(body string) bool { return !strings.ContainsAny(body, `*?[{\`) }

// Match says whether the path of an entry matches a pattern. folder tells whether the entry
// is a folder, and is asked only where a pattern that matches folders only depends on it.
func (s *Set) Match(path string, folder func() bool) bool {
	if s == nil || path == "" {
		return false
	}
	last := path[strings.LastIndexByte(path, '/')+1:]
	needsFolder := false
	found := func(only bool) bool {
		needsFolder = needsFolder || only
		return !only
	}
	if only, ok := s.names[last]; ok && found(only) {
		return true
	}
	if only, ok := s.paths[path]; ok && found(only) {
		return true
	}
	for i := range s.suffixes {
		if g := &s.suffixes[i]; strings.HasSuffix(last, g.body) && found(g.folder) {
			return true
		}
	}
	for i := range s.globs {
		if g := &s.globs[i]; g.matches(path, last) && found(g.folder) {
			return true
		}
	}
	return needsFolder && folder()
}

func (g *glob) matches(path, last string) bool {
	if !g.anchored {
		return doublestar.MatchUnvalidated(g.body, last)
	}
	return doublestar.MatchUnvalidated(g.body, path) && (g.outside == "" || !doublestar.MatchUnvalidated(g.outside, path))
}

// Covers reports whether path, or a folder on the way to it, matches a pattern. path
// may be a folder.
func (s *Set) Covers(path string) bool {
	if s == nil {
		return false
	}
	isFolder := func() bool { return true }
	for i := range len(path) {
		if path[i] == '/' && s.Match(path[:i], isFolder) {
			return true
		}
	}
	return s.Match(path, isFolder)
}

// Lines reads the patterns of a file: one on a line, without blank lines
// and lines that begin with "#". A line may end as on Windows, and the file
// may begin with a byte order mark. The error names the file and the line.
func Lines(data []byte, file string) ([]string, error) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	var patterns []string
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		if err := Check(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		patterns = append(patterns, line)
	}
	return slices.Clip(patterns), nil
}
