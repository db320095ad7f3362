package chunk

// scanGo is what scan does: the reference that the assembly is
// compared with, and its stand-in elsewhere.
func scanGo(gear *[256]uint64, p []byte, h, mask uint64) (int, uint64) {
	for i, b := range p {
		h = h<<1 + gear[b]
		if h&mask == 0 {
			return i + 1, h
		}
	}
	return 0, h
}
