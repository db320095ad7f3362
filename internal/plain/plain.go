// Package plain keeps text that others chose, such as names of files, from acting on
// the terminal on which somebody reads it. It starts no goroutine and keeps nothing.
package plain

import (
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON returns JSON text with the same meaning, in which unprintable characters are
// written as \u escapes: encoding/json leaves DEL, the control characters of C1 (U+009B
// begins an escape sequence) and the characters that turn the direction of text as they
// are. Text without any of them comes back as it is, with the same memory.
func JSON(text []byte) []byte {
	i := 0
	for i < len(text) {
		r, n := utf8.DecodeRune(text[i:])
		if acts(r) {
			break
		}
		i += n
	}
	if i == len(text) {
		return text
	}
	out := append([]byte(nil), text[:i]...)
	for i < len(text) {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case !acts(r):
			out = append(out, text[i:i+n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	return out
}

// acts reports whether r may be in a JSON string as it is, but does not print. Bytes that
// are no UTF-8 decode to a character that prints; encoding/json lets no such bytes through.
func acts(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
