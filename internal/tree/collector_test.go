package tree_test

import (
	"fmt"
	"testing"

	"holdfast/internal/tree"
)

func TestCollector(t *testing.T) {
	told := 0
	c := tree.Collector{Tell: func(tree.Warning) { told++ }}
	for i := range 2000 {
		c.Warn(tree.Warning{Path: fmt.Sprint(i)})
	}
	if list, n := c.Sum(); len(list) != 1000 || n != 2000 || told != 2000 {
		t.Errorf("listed %d of %d, told %d", len(list), n, told)
	}
}
