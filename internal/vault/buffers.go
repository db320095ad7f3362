package vault

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/vault/offheap"
)

// Buffers is the memory of packs, which any number of Writers may share. It lies
// outside the Go heap, since the collector would otherwise let the heap grow to twice
// its size. A Writer fills one buffer at a time, so Writers that share n buffers make
// progress as long as there are no more than n of them, or fewer than n where some
// are in the background. Waiting Writers are served in the order of asking.
//
// A Writer gets two buffers at once, one to fill and one on its way. It gets
// more only when the store keeps them longer than patience, so that a fast
// store costs the memory of two. When no Writer uses Buffers, it has no memory.
//
// Writers in the background, whose packs may be long on their way, never have all buffers:
// one buffer is for the other Writers alone, which are also served first. So a Writer for
// which an instance stands still waits for no pack of a Writer in the background.
type Buffers struct {
	limit int

	mu         sync.Mutex
	users      int
	made       int      // buffers that have memory
	background int      // buffers of Writers in the background
	idle       [][]byte // the free ones; the last is taken first
	line       []waiter // who waits
}

// waiter is a Writer that waits for a buffer.
type waiter struct {
	ch         chan []byte
	background bool
}

// patience is how long a further buffer is not taken while others are on
// their way: longer than a store on a local disk or network keeps a pack of
// 16 MiB, and too short to be felt, since it passes once for each buffer.
const patience = 50 * time.Millisecond

// NewBuffers returns room for n packs, 2 at the least.
func NewBuffers(n int) *Buffers { return &Buffers{limit: max(n, 2)} }

// Grow makes room for n packs more, or fewer: a Writer that hangs keeps
// its buffers. Packs that are there stay until no Writer needs them.
func (b *Buffers) Grow(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit += n
}

// buffers is one Writer's use of Buffers. One goroutine takes, any number give back.
type buffers struct {
	b          *Buffers
	size       int
	background bool

	mu    sync.Mutex
	held  [][]byte // that it has
	ended bool
}

// use begins the use by a Writer whose packs need that many bytes; end ends it.
func (b *Buffers) use(size int, background bool) *buffers {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users++
	return &buffers{b: b, size: size, background: background}
}

// take waits for a free buffer, until ctx ends, and then returns its cause.
func (u *buffers) take(ctx context.Context) ([]byte, error) {
	u.mu.Lock()
	held := len(u.held)
	u.mu.Unlock()
	p, err := u.b.take(ctx, u.size, held < 2, u.background)
	if err == nil {
		u.mu.Lock()
		u.held = append(u.held, p)
		u.mu.Unlock()
	}
	return p, err
}

// count is how many the Writer has.
func (u *buffers) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.held)
}

// give gives a buffer back.
func (u *buffers) give(p []byte) {
	u.mu.Lock()
	u.held = slices.DeleteFunc(u.held, func(h []byte) bool { return &h[0] == &p[0] })
	u.mu.Unlock()
	u.b.give(p, u.background)
}

// may tells whether a Writer may have one more. The lock is held.
func (b *Buffers) may(background bool) bool { return !background || b.background < b.limit-1 }

// gave notes that a Writer has one more. The lock is held.
func (b *Buffers) gave(background bool) {
	if background {
		b.background++
	}
}

func (b *Buffers) take(ctx context.Context, size int, atOnce, background bool) ([]byte, error) {
	b.mu.Lock()
	if n := len(b.idle); n > 0 && b.may(background) {
		p := b.idle[n-1]
		b.gave(background)
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		return b.fit(p, size, background)
	}
	if atOnce && b.made < b.limit && b.may(background) {
		b.made++
		b.gave(background)
		b.mu.Unlock()
		return b.fit(nil, size, background)
	}
	mine := make(chan []byte, 1)
	b.line = append(b.line, waiter{mine, background})
	b.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case p := <-mine:
			return b.fit(p, size, background)
		case <-timer.C:
			b.mu.Lock()
			if b.made < b.limit && b.may(background) && b.leave(mine) {
				b.made++
				b.gave(background)
				b.mu.Unlock()
				return b.fit(nil, size, background)
			}
			b.mu.Unlock()
			timer.Reset(patience) // another Writer may end, and leave room
		case <-ctx.Done():
			b.mu.Lock()
			left := b.leave(mine)
			b.mu.Unlock()
			if !left {
				b.give(<-mine, background)
			}
			return nil, context.Cause(ctx)
		}
	}
}

// leave takes somebody out of the line, and tells whether it was still there. The lock is held.
func (b *Buffers) leave(mine chan []byte) bool {
	i := slices.IndexFunc(b.line, func(w waiter) bool { return w.ch == mine })
	if i >= 0 {
		b.line = slices.Delete(b.line, i, i+1)
	}
	return i >= 0
}

// fit returns p if it has that many bytes, else memory in its
// place. Vaults differ in the size of their packs.
func (b *Buffers) fit(p []byte, size int, background bool) ([]byte, error) {
	if len(p) == size {
		return p, nil
	}
	unmap(p)
	p, err := offheap.Take(size)
	if err != nil {
		b.mu.Lock()
		b.made--
		if background {
			b.background--
		}
		b.mu.Unlock()
		return nil, err
	}
	offheap.Fill(p)
	return p, nil
}

// give takes a buffer back, and gives it to the first in line,
// those in the background behind all others.
func (b *Buffers) give(p []byte, background bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if background {
		b.background--
	}
	i := slices.IndexFunc(b.line, func(w waiter) bool { return !w.background })
	if i < 0 && len(b.line) > 0 && b.may(true) {
		i = 0
	}
	if i < 0 {
		b.idle = append(b.idle, p)
		return
	}
	w := b.line[i]
	b.line = slices.Delete(b.line, i, i+1)
	b.gave(w.background)
	w.ch <- p
}

// end ends the use, and gives back the buffers that the Writer still has, of
// packs that did not arrive. Nobody may touch them any more. It is idempotent.
func (u *buffers) end() {
	u.mu.Lock()
	held, ended := u.held, u.ended
	u.held, u.ended = nil, true
	u.mu.Unlock()
	if ended {
		return
	}
	for _, p := range held {
		u.b.give(p, u.background)
	}
	b := u.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users--
	for len(b.idle) > 2*b.users {
		unmap(b.idle[len(b.idle)-1])
		b.idle = b.idle[:len(b.idle)-1]
		b.made--
	}
}

func unmap(p []byte) {
	if p != nil {
		_ = unix.Munmap(p) // fails only for memory that is not mapped
	}
}
