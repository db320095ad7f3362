package main

import (
	"testing"
	"time"
)

func TestName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain.txt", "plain.txt"},
		{"with space", "with space"},
		{"größe", "größe"},
		{"", `""`},
		{" lead", `" lead"`},
		{"a\nb", `"a\nb"`},
		{"\x1b[31mred", `"\x1b[31mred"`},
		{"\xff\xfe", `"\xff\xfe"`},
		{"gnp.\u202eexe", `"gnp.\u202eexe"`},
		{"\u009b0m", `"\u009b0m"`},
	} {
		if got := name(c.in); got != c.want {
			t.Errorf("name(%q) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`a "quoted" word`, `a "quoted" word`},
		{"two\nlines of \"it\"", `two\nlines of "it"`},
		{"\x1b]0;title\a", `\x1b]0;title\a`},
	} {
		if got := oneLine(c.in); got != c.want {
			t.Errorf("oneLine(%q) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in   uint64
		want string
	}{
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.0 KiB"},
		{1536, "1.5 KiB"},
		{1<<20 - 1, "1.0 MiB"},
		{5 << 30, "5.0 GiB"},
		{1<<64 - 1, "16.0 EiB"},
	} {
		if got := size(c.in); got != c.want {
			t.Errorf("size(%d) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		in   time.Duration
		want string
	}{
		{0, "0:00"},
		{1400 * time.Millisecond, "0:01"},
		{75 * time.Second, "1:15"},
		{time.Hour + 2*time.Minute + 3*time.Second, "1:02:03"},
	} {
		if got := clock(c.in); got != c.want {
			t.Errorf("clock(%v) = %s, want %s", c.in, got, c.want)
		}
	}
}
