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
		c.Warn(tree.Warning{Path: fmt.Sprint(i), Lost: i >= 1500})
	}
	list, n, lost := c.Sum()
	if len(list) != 1000 || n != 2000 || lost != 500 || told != 2000 {
		t.Errorf("listed %d of %d, %d lost, told %d", len(list), n, lost, told)
	}
	if last := list[len(list)-1]; last.Path != "1500" {
		t.Errorf("the first that lost content is not listed, but %v", last)
	}
}
