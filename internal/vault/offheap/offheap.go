// Package offheap takes memory outside of Go's heap, so that large long-lived tables do not let the
// heap grow to twice their size.
//
// Callers are internal/vault and internal/vault/index. Its functions may be called from any
// goroutine. The memory goes with the process.
package offheap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Take returns n zero bytes, which Free gives back. n must be more than 0.
func Take(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("take %d bytes: %w", n, err)
	}
	return b, nil
}

// Fill tells the kernel that the caller will soon use all of b, which Take returned. Where the
// kernel can, it gives b in large pages then, so that the first use of b costs a fraction of the
// page faults. Fill changes no content and promises nothing.
func Fill(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) } // a kernel without large pages refuses

// Free gives back memory that Take returned. Nobody may use the memory any more. A second Free of
// the same memory, and a Free of nil, do nothing.
func Free(b []byte) { _ = unix.Munmap(b) } // an error means that b is no mapping of this process
