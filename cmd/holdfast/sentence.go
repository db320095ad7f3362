package main

import (
	"path"
	"strings"
)

// sentence is the text of an error or a warning as one line for a person: what several
// errors say stands side by side, and nothing is said twice. Layers that know a path,
// and the system's own errors, both name it: `read "x": read x: no such file`.
func sentence(text string) string {
	var parts []string
	for part := range strings.SplitSeq(text, "\n") { // as errors.Join has them
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, once(part))
		}
	}
	return oneLine(strings.ReplaceAll(strings.Join(parts, "; "), ":; ", ": "))
}

// once leaves out each clause of a text that only repeats the one before it.
func once(text string) string {
	var kept []string
	for clause := range strings.SplitSeq(text, ": ") {
		if n := len(kept); n > 0 && repeats(kept[n-1], clause) {
			continue
		} else if n > 0 && repeatsPath(kept[n-1], clause) {
			kept[n-1] = clause
			continue
		}
		kept = append(kept, clause)
	}
	return strings.Join(kept, ": ")
}

// repeats tells whether the second clause adds nothing to the first:
// it is the same, or a verb with the path that the first ends with.
func repeats(first, second string) bool {
	if first == second {
		return first != ""
	}
	verb, b, ok := strings.Cut(second, " ")
	if !ok || strings.Contains(verb, "/") || b == "" {
		return false
	}
	// "is empty" names no file
	if !strings.Contains(b, "/") && !strings.HasPrefix(first, verb+" ") {
		return false
	}
	last := first[strings.LastIndexByte(first, ' ')+1:]
	return last != first && (samePath(last, b) || strings.HasSuffix(first, " "+b) && strings.Contains(b, "/"))
}

// repeatsPath tells whether the second clause is a verb and the path that is all of the first.
func repeatsPath(first, second string) bool {
	verb, b, ok := strings.Cut(second, " ")
	return ok && !strings.Contains(verb, "/") && strings.Contains(first, "/") && strings.Contains(b, "/") && samePath(first, b)
}

// samePath tells whether two texts name one file, as it is, quoted, or from another folder on.
func samePath(a, b string) bool {
	a, b = strings.Trim(a, `"`), strings.Trim(b, `"`)
	if strings.ContainsAny(a+b, ` "`) || a == "" || b == "" {
		return a == b && a != ""
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	return path.Clean(a) == path.Clean(b) || strings.HasSuffix(b, "/"+strings.TrimPrefix(a, "./"))
}
