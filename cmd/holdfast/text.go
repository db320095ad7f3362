package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// name returns a file name or path for a person's eyes: as it is when every rune of it prints, else
// quoted. A name can hold any byte, and an escape sequence in one must not reach the terminal.
func name(s string) string {
	if s == "" || !printable(s) || strings.TrimSpace(s) != s {
		return strconv.Quote(s)
	}
	return s
}

// oneLine escapes whatever would break a message's line or move the cursor.
func oneLine(s string) string {
	if printable(s) {
		return s
	}
	q := strings.ReplaceAll(strconv.Quote(s), `\"`, `"`)
	return q[1 : len(q)-1]
}

// printable reports whether s is UTF-8 of graphic runes and plain spaces. Format characters
// (category Cf, among them the characters that turn the direction of text) are not printable.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// size writes a count of bytes in binary units: "512 B", "1.5 MiB".
func size[N ~int64 | ~uint64](bytes N) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1023.95 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// clock writes a duration as minutes and seconds, or hours, minutes and seconds.
func clock(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// seconds writes a duration that a figure of the demo or of a summary needs: "12 ms", "1.24 s".
func seconds(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

// count writes a number with its noun, plural where due.
func count[N ~int | ~int64 | ~uint64](n N, noun, plural string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %s", n, plural)
}
