package vault

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// buffers is the memory of packs: outside the Go heap, since the collector would otherwise let the heap grow to twice of
// it. Two are taken at once, one to fill and one on its way; more only when the store keeps them longer than patience,
// so that a fast store costs the memory of two. One goroutine takes, any number give back.
type buffers struct {
	limit, size int
	ready       chan struct{} // one for each that is free

	mu   sync.Mutex
	idle [][]byte // the free ones; the last is taken first
	all  [][]byte
}

// patience is how long a further buffer is not taken while others are on their way: longer than a store on a local disk or
// network keeps a pack of 16 MiB, and too short to be felt, since it passes once for each buffer.
const patience = 50 * time.Millisecond

func newBuffers(limit, size int) *buffers {
	return &buffers{limit: limit, size: size, ready: make(chan struct{}, limit)}
}

// take waits for a free buffer, until ctx ends, and then returns its cause.
func (b *buffers) take(ctx context.Context) ([]byte, error) {
	more := make(<-chan time.Time) // never
	if len(b.all) < b.limit {
		wait := patience
		if len(b.all) < 2 {
			wait = 0
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		more = timer.C
	}
	select {
	case <-b.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-more:
		p, err := takeMemory(b.size)
		if err != nil {
			return nil, err
		}
		b.all = append(b.all, p)
		return p, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.idle[len(b.idle)-1]
	b.idle = b.idle[:len(b.idle)-1]
	return p, nil
}

// give gives a buffer back.
func (b *buffers) give(p []byte) {
	b.mu.Lock()
	b.idle = append(b.idle, p)
	b.mu.Unlock()
	b.ready <- struct{}{}
}

// free gives the memory back. Nobody may touch a buffer any more. It is idempotent.
func (b *buffers) free() {
	for _, p := range b.all {
		_ = unix.Munmap(p) // fails only for what is not mapped
	}
	b.all, b.idle = nil, nil
}
