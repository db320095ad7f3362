package chunk

// scanGo has the same result as scan: it is the reference for the assembly, and its
// stand-in elsewhere.
func scanGo(gear *[256]uint64, p []byte, h, mask uint64) (int, uint64) {
	for i, b := range p {
		h = h<<1 + gear[b]
		if h&mask == 0 {
			return i + 1, h
		}
	}
	return 0, h
}
