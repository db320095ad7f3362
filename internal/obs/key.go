package obs

import (
	"fmt"
	"strings"
)

const (
	// maxKey is the longest key in bytes; with a prefix of the store
	// it stays below the 1024 of S3 and OBS.
	maxKey = 512
	// maxElement is the longest element of a key in bytes: NAME_MAX of Linux, and MinIO's limit.
	maxElement = 255
	// tempFolder is the folder in which the file store keeps unfinished files. No key
	// begins with this element or with markerName.
	tempFolder = ".tmp"
)

// KeyValid returns nil when key may name an object, and ErrUsage with the reason otherwise.
func KeyValid(key string) error {
	if key == "" {
		return fmt.Errorf("%w: empty key", ErrUsage)
	}
	if len(key) > maxKey {
		return fmt.Errorf("%w: key of %d bytes, at most %d", ErrUsage, len(key), maxKey)
	}
	for rest, first := key, true; ; first = false {
		element, after, more := strings.Cut(rest, "/")
		if err := elementValid(element, first); err != nil {
			return fmt.Errorf("%w: key %q: %w", ErrUsage, key, err)
		}
		if !more {
			return nil
		}
		rest = after
	}
}

// prefixValid returns nil when a key could begin with prefix, whose last element may be partial. It
// may not be "." or "..", though, which MinIO does not take.
func prefixValid(prefix string) error {
	i := strings.LastIndexByte(prefix, '/')
	if i >= 0 {
		if err := KeyValid(prefix[:i]); err != nil {
			return err
		}
	}
	last := prefix[i+1:]
	if last == "." || last == ".." {
		return fmt.Errorf("%w: prefix %q: it ends in the element %q", ErrUsage, prefix, last)
	}
	if err := elementChars(last); err != nil {
		return fmt.Errorf("%w: prefix %q: %w", ErrUsage, prefix, err)
	}
	return nil
}

func elementValid(element string, first bool) error {
	switch {
	case element == "":
		return fmt.Errorf("it has an empty element")
	case element == "." || element == "..":
		return fmt.Errorf("it has the element %q", element)
	case first && (element == tempFolder || element == markerName):
		return fmt.Errorf("it begins with %q, which the file store uses", element)
	case len(element) > maxElement:
		return fmt.Errorf("it has an element of %d bytes, at most %d", len(element), maxElement)
	}
	return elementChars(element)
}

func elementChars(s string) error {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("it has the byte %q, outside [A-Za-z0-9._-]", c)
	}
	return nil
}
