package plain_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"holdfast/internal/plain"
)

func TestJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"name":"photo ä 日本 😀"}`: `{"name":"photo ä 日本 😀"}`,
		"\"\u009b0m\"":            `"\u009b0m"`,
		"\"a\u202eb\x7f\"":        `"a\u202eb\u007f"`,
		"\"\U000e0001x\"":         `"\udb40\udc01x"`,
		"{\n  \"a\": 1\n}\n":      "{\n  \"a\": 1\n}\n",
		"":                        "",
	} {
		if got := string(plain.JSON([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzJSON: the text keeps its meaning, and no character in it acts on a terminal.
func FuzzJSON(f *testing.F) {
	f.Add("a\u009b[31m\x7f\u2066\U000e0001\xff")
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		got := plain.JSON(bytes.Clone(text))
		if i := strings.IndexFunc(string(got), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Fatalf("%q acts at %d", got, i)
		}
		var was, is map[string]string
		if err := json.Unmarshal(text, &was); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &is); err != nil || len(is) != 1 {
			t.Fatalf("%q: %v", got, err)
		}
		for k, v := range is {
			if was[k] != v {
				t.Fatalf("%q means %q", got, v)
			}
		}
	})
}
