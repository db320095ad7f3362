package backup

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/seal"
)

// When the level of compression is looked at, and what makes it change.
const (
	// lookPacks is how many packs lie between two looks at the least: filling one and
	// waiting for the next buffer alternate, and a shorter time may have seen one of
	// them only. With more packs on their way it is as many as those, since uploads
	// that began together end together, and then so many are filled without a wait.
	lookPacks = 2
	// idleShare is the part of the time that the workers wait for the
	// store from where on their cores can do more.
	idleShare = 0.5
	// busyShare is the part below which the cores hold the backup up.
	// Between the two the level stays.
	busyShare = 0.1
	// raiseAfter is how many looks in a row have to find idle cores at first.
	// Each time that a level proved too dear it doubles, up to raiseMost.
	raiseAfter, raiseMost = 2, 64
)

// governor chooses the level of compression of a backup by what holds it up: stronger while
// workers wait for the store, faster while the store waits for them. Any goroutine may call it.
type governor struct {
	min, max seal.Level
	level    atomic.Int32
	bytes    [seal.Levels + 1]atomic.Uint64 // bytes compressed at each level, before compression

	mu     sync.Mutex
	at     time.Duration // of the last look, since the start
	waited time.Duration // by then
	packs  int64         // by then
	most   int           // packs on their way at once since then
	idle   int           // looks in a row that found idle cores
	needed int           // of them, for the next level
}

func newGovernor(least, most seal.Level) *governor {
	g := &governor{min: least, max: most, needed: raiseAfter}
	g.level.Store(int32(least))
	return g
}

// observe takes how long the backup runs, how many packs were begun
// since then, and how long their workers waited for buffers all in all,
// of which none ever gets less; and how many packs are on their way.
func (g *governor) observe(now time.Duration, packs int64, waited time.Duration, held int) {
	if g.min == g.max || !g.mu.TryLock() { // who holds it is looking
		return
	}
	defer g.mu.Unlock()
	took := now - g.at
	g.most = max(g.most, held)
	if packs-g.packs < int64(max(lookPacks, g.most)) || took <= 0 {
		return
	}
	share := float64(waited-g.waited) / float64(took)
	g.at, g.waited, g.packs, g.most = now, waited, packs, held
	level := seal.Level(g.level.Load())
	switch {
	case share > idleShare:
		if g.idle++; g.idle >= g.needed && level < g.max {
			g.level.Store(int32(level + 1))
			g.idle = 0
		}
	case share < busyShare && level > g.min:
		g.level.Store(int32(level - 1))
		g.idle, g.needed = 0, min(2*g.needed, raiseMost)
	default:
		g.idle = 0
	}
}

// why tells in words how the level was chosen: within which bounds, and
// how long the workers waited for the store in a backup of that duration.
func (g *governor) why(took, waited time.Duration) string {
	bounds := fmt.Sprintf("level %s alone is allowed", g.min)
	if g.min != g.max {
		bounds = fmt.Sprintf("levels %s to %s are allowed", g.min, g.max)
	}
	return fmt.Sprintf("%s; workers waited for the store for %.1f of %.1f s", bounds, waited.Seconds(), took.Seconds())
}

// byLevel returns how many bytes were compressed at each level that was used.
func (g *governor) byLevel() map[string]uint64 {
	m := map[string]uint64{}
	for l := range g.bytes {
		if n := g.bytes[l].Load(); n > 0 {
			m[seal.Level(l).String()] = n
		}
	}
	return m
}
