package engine

import (
	"maps"
	"sync"
)

// claimedBy has the instances whose content is on this host and that other hosts have claimed, as
// the last pass over the claims found them. The zero value is ready; it is for any goroutine.
type claimedBy struct {
	mu   sync.Mutex
	with map[string]error // by instance, in words
}

// note notes the finding about an instance; nil: none. It tells whether the finding is new.
func (c *claimedBy) note(id string, found error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.with[id]
	if found == nil {
		delete(c.with, id)
		return false
	}
	if c.with == nil {
		c.with = map[string]error{}
	}
	c.with[id] = found
	return before == nil || before.Error() != found.Error()
}

func (c *claimedBy) now() map[string]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.with)
}
