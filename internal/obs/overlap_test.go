package obs_test

import (
	"os"
	"testing"

	"holdfast/internal/obs"
)

func TestOverlap(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"/a", "/a/b", "/ab"} {
		if err := os.Mkdir(dir+sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	const at = "?endpoint=https://one.example&region=r"
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"file://" + dir + "/a", "file://" + dir + "/a", true},
		{"file://" + dir + "/a", "file://" + dir + "/a/b", true},
		{"file://" + dir + "/a/b", "file://" + dir + "/link", true},
		{"file://" + dir + "/a", "file://" + dir + "/ab", false},
		{"file://" + dir + "/a", "s3://bucket/a" + at, false},
		{"file:///", "file://" + dir, true},
		{"s3://bucket/a" + at, "s3://bucket/a" + at, true},
		{"s3://bucket/a" + at, "s3://bucket/a?region=r&endpoint=https://ONE.example", true},
		{"s3://bucket/a" + at, "s3://bucket/a/b" + at, true},
		{"s3://bucket" + at, "s3://bucket/a/b" + at, true},
		{"s3://bucket/a" + at, "s3://bucket/ab" + at, false},
		{"s3://bucket/a" + at, "s3://other/a" + at, false},
		{"s3://bucket/a" + at, "s3://bucket/a?endpoint=https://two.example&region=r", false},
		{"s3://bucket/a?region=r", "s3://bucket/a?region=q", false},
	} {
		for _, swapped := range []bool{false, true} {
			a, b := c.a, c.b
			if swapped {
				a, b = b, a
			}
			if got := obs.Overlap(a, b); got != c.want {
				t.Errorf("Overlap(%s, %s) is %v", a, b, got)
			}
		}
	}
}
