package auth

import (
	"context"
	"sync"
	"time"
)

const (
	// DefaultLookups is how many unknown tokens a second IAM is asked
	// about: little for an IAM that serves a cloud.
	DefaultLookups = 20
	// addressShare is the part of them that one address gets, so that an address that
	// tries tokens does not keep others out.
	addressShare = 4
	// maxAddresses bounds how many addresses are remembered in each of two
	// generations: about 1 MB in all. Forgotten ones begin anew, with a full budget.
	maxAddresses = 4096
)

// addressKey is the key of the caller's address in a context.
type addressKey struct{}

// WithAddress gives Authenticate the address of the caller, which has a budget of its
// own for questions to IAM.
func WithAddress(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, addressKey{}, address)
}

func addressOf(ctx context.Context) string {
	address, _ := ctx.Value(addressKey{}).(string)
	return address
}

// budget bounds the questions to IAM about tokens that turn out to be unknown: over
// all, and for each address. A valid token gives back its part of the budget, so that
// many callers with valid tokens can come at once. It is safe for concurrent use.
type budget struct {
	perSecond float64
	now       func() time.Time

	mu          sync.Mutex
	all         bucket
	young, aged map[string]*bucket
}

// bucket fills up with time.
type bucket struct {
	left float64
	at   time.Time // of left; zero: the bucket is full
}

// fill brings the bucket to the present and tells whether a whole one is in it.
func (b *bucket) fill(now time.Time, perSecond, most float64) bool {
	switch {
	case b.at.IsZero():
		b.left = most
	case now.After(b.at): // a clock that was set back adds nothing
		b.left = min(most, b.left+now.Sub(b.at).Seconds()*perSecond)
	}
	b.at = now
	return b.left >= 1
}

func (g *budget) most() (all, one float64) {
	// All look-ups that are under way at once must fit in, even if all come from one address.
	return max(2*g.perSecond, 4*maxLookups), max(2*g.perSecond/addressShare, 2*maxLookups)
}

// buckets returns the bucket of the address, and whether both have one left. The lock is held.
func (g *budget) buckets(address string) (one *bucket, left bool) {
	if one = g.young[address]; one == nil {
		if one = g.aged[address]; one == nil {
			one = &bucket{}
		}
		if len(g.young) >= maxAddresses || g.young == nil {
			g.young, g.aged = map[string]*bucket{}, g.young
		}
		g.young[address] = one
	}
	now := g.now()
	most, mostOfOne := g.most()
	mine, every := one.fill(now, g.perSecond/addressShare, mostOfOne), g.all.fill(now, g.perSecond, most)
	return one, mine && every
}

// allows tells whether a question may be asked for the address.
func (g *budget) allows(address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, left := g.buckets(address)
	return left
}

// take counts a question, or refuses it. giveBack is to be called when the token was valid.
func (g *budget) take(address string) (giveBack func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, left := g.buckets(address)
	if !left {
		return nil, false
	}
	one.left--
	g.all.left--
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		one.left++
		g.all.left++
	}, true
}
