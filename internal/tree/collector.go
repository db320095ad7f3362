package tree

import "sync"

// maxCollected is how many warnings a Collector keeps. A tree of
// ten million files can have as many.
const maxCollected = 1000

// Collector takes warnings from any goroutine. Its zero value is ready.
type Collector struct {
	// Tell gets each warning, one call at a time. Set before the first; nil is allowed.
	Tell func(Warning)

	mu   sync.Mutex
	list []Warning
	n    int
}

// Warn takes a warning.
func (c *Collector) Warn(w Warning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if len(c.list) < maxCollected {
		c.list = append(c.list, w)
	}
	if c.Tell != nil {
		c.Tell(w)
	}
}

// Sum returns the first thousand warnings, and how many came.
func (c *Collector) Sum() (list []Warning, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list, c.n
}
