package origin_test

import (
	"testing"

	"holdfast/internal/origin"
)

// TestSamePlace: a folder is the same after an update of the kernel that tells the UUID of the file
// system, and of another file system, or where the kernel did not answer, no folder is.
func TestSamePlace(t *testing.T) {
	at := func(fileSystem, root string) origin.Place { return origin.Place{FileSystem: fileSystem, Root: root} }
	for _, c := range []struct {
		a, b origin.Place
		want bool
	}{
		{at("f2fs 1", "r"), at("f2fs 1", "r"), true},
		{at("f2fs", "r"), at("f2fs 1", "r"), true},
		{at("tmpfs", "r"), at("tmpfs", "r"), true},
		{at("", "r"), at("", "r"), true},
		{at("f2fs 1", "r"), at("f2fs 2", "r"), false},
		{at("f2fs", "r"), at("ext4 1", "r"), false},
		{at("", "r"), at("ext4 1", "r"), false},
		{at("f2fs 1", "r"), at("f2fs 1", "s"), false},
		{at("f2fs 1", ""), at("f2fs 1", ""), false},
	} {
		if c.a.Same(c.b) != c.want || c.b.Same(c.a) != c.want {
			t.Errorf("%+v and %+v: %v, want %v", c.a, c.b, c.a.Same(c.b), c.want)
		}
	}
}
