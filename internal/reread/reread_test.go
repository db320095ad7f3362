package reread_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/reread"
)

func TestFilesAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		// As tools do that replace a file.
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	clock, reads := time.Unix(1000, 0), 0
	f := reread.New(func() time.Time { return clock }, func() (string, error) {
		reads++
		data, err := os.ReadFile(path)
		if string(data) == "broken" {
			err = errors.New("it is broken")
		}
		return string(data), err
	}, path)
	want := func(what, value, last string, bad bool, n int) {
		t.Helper()
		got, err := f.Get()
		kept, lastErr := f.Last()
		if got != value || kept != last || (err != nil) != bad || (lastErr != nil) != bad || reads != n {
			t.Errorf("%s: %q (last %q), %v, %d reads", what, got, kept, err, reads)
		}
	}
	want("before there is a file", "", "", true, 1)
	write("one")
	want("within a second", "", "", true, 1)
	clock = clock.Add(time.Second)
	want("there", "one", "one", false, 2)
	clock = clock.Add(time.Hour)
	want("not changed", "one", "one", false, 2)
	write("two") // of the same size
	clock = clock.Add(time.Second)
	want("changed", "two", "two", false, 3)
	write("broken")
	clock = clock.Add(time.Second)
	want("broken", "", "two", true, 4)
	clock = clock.Add(-time.Hour) // the clock is set back
	want("broken, looked at again", "", "two", true, 5)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(time.Second)
	want("gone", "", "two", true, 6)
	write("three")
	clock = clock.Add(time.Second)
	want("there again", "three", "three", false, 7)
}
