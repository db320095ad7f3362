package pattern_test

import (
	"fmt"

	"holdfast/internal/pattern"
)

// A pattern without a slash matches anywhere, and one with a slash from the volume's root on.
func ExampleSet_Match() {
	set, err := pattern.Compile([]string{"*.tmp", "/cache/"})
	if err != nil {
		panic(err)
	}
	folder := func() bool { return true }
	for _, path := range []string{"media/a.tmp", "cache", "media/cache"} {
		fmt.Println(path, set.Match(path, folder))
	}
	// Output:
	// media/a.tmp true
	// cache true
	// media/cache false
}
