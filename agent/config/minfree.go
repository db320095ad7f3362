package config

import (
	"strconv"
	"strings"
	"time"
)

// minKeepReplaced keeps a typing error from deleting content that may be in no backup before a
// person could look at it.
const minKeepReplaced = time.Hour

// Reserve is the space that a restore leaves free on a file system: bytes at least, and a
// percentage of it that is bounded by most, bytes (0: by nothing).
func (p Prepare) Reserve() (bytes Size, percent int, most Size) {
	if p.MinFree == MinFreeAuto || p.MinFree == "" {
		return 0, autoPercent, autoMost
	}
	if digits, ok := strings.CutSuffix(p.MinFree, "%"); ok {
		percent, _ = strconv.Atoi(digits) // it was checked
		return 0, percent, 0
	}
	bytes, _ = ParseSize(p.MinFree)
	return bytes, 0, 0
}

func (p Prepare) check(f *faults) {
	if p.KeepReplaced < minKeepReplaced {
		f.add("prepare.keep_replaced", "must be %v or more, got %v: the replaced content may be in no backup; `holdfast kept remove INSTANCE` removes it earlier",
			minKeepReplaced, p.KeepReplaced)
	}
	if digits, ok := strings.CutSuffix(p.MinFree, "%"); ok {
		if n, err := strconv.Atoi(digits); err != nil || n < 0 || n > 90 {
			f.add("prepare.min_free", "must be 0%% to 90%%, got %s", quote(p.MinFree))
		}
	} else if _, err := ParseSize(p.MinFree); p.MinFree != MinFreeAuto && err != nil {
		f.add("prepare.min_free", "must be %s, a size such as 10GiB, or a percentage such as 5%%, got %s", MinFreeAuto, quote(p.MinFree))
	}
	if n := p.MinFreeInodes; n < 0 || n > 90 {
		f.add("prepare.min_free_inodes", "must be 0 to 90 (percent), got %d", n)
	}
}
