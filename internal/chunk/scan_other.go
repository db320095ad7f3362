//go:build !amd64 && !arm64

package chunk

func scan(gear *[256]uint64, p []byte, h, mask uint64) (int, uint64) { return scanGo(gear, p, h, mask) }
