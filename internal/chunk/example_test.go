package chunk_test

import (
	"fmt"
	"math/rand/v2"

	"holdfast/internal/chunk"
)

// Content that is inserted moves the cuts near it and no others, so that the rest of the content
// has the same chunks as before.
func ExampleCutter() {
	cutter := chunk.NewCutter([32]byte{1}, chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10})
	namer := chunk.NewNamer([32]byte{2})
	names := func(content []byte) map[chunk.Name]bool {
		all := map[chunk.Name]bool{}
		for len(content) > 0 {
			n := cutter.Cut(content)
			all[namer.Name(content[:n])] = true
			content = content[n:]
		}
		return all
	}
	content := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(content)
	before, after := names(content), names(append([]byte("inserted"), content...))
	unknown := 0
	for name := range after {
		if !before[name] {
			unknown++
		}
	}
	fmt.Println(unknown, "new chunk")
	// Output: 1 new chunk
}
