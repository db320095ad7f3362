package snapshot

// Parts that tests look at by themselves.
var Fiemap = fiemap

// JoinRanges adds ranges to a list that holds at most limit of them.
func JoinRanges(limit int, ranges []Range) []Range {
	l := rangeList{limit: limit}
	for _, r := range ranges {
		l.add(r)
	}
	return l.ranges
}
