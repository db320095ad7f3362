package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/obs"
)

// view is the store as one process of the model sees it: its requests may be the last before
// it dies, and the answer to a put may be lost, with the put done at once, later or never.
type view struct {
	g       *game
	sound   bool // has no faults
	dead    bool
	session string
	busy    bool // in the middle of a step
	gone    bool // its writer or collector has left the game

	mu     sync.Mutex
	dieIn  int // requests until the process dies; below 0: it does not
	loseIn int // puts until an answer is lost
	how    int // 0 never done, 1 done at once, 2 done later
	late   []latePut
	// refuses makes the store refuse every put after the one whose
	// answer was lost, until the step ends: only a look is left.
	refuses bool
	refused bool
	ledger  *ledger // of the process, over all its steps
}

type latePut struct {
	key  string
	body []byte
}

var errDied = errors.New("the process died")

// plain takes the faults away.
func (p *view) plain() { p.dieIn, p.loseIn, p.refuses, p.refused = -1, -1, false, false }

// plan draws the faults of the next step.
func (p *view) plan() {
	p.plain()
	if p.sound {
		return
	}
	switch p.g.draw(12, "fault") {
	case 10:
		p.dieIn = p.g.draw(6, "dies")
	case 11:
		p.loseIn, p.how, p.refuses = p.g.draw(2, "loses"), p.g.draw(3, "how"), p.g.draw(3, "refuses") > 0
	}
	// what this rule is about comes by chance too seldom
	if p.g.rules.writerForgetsDoubt && p.g.draw(3, "doubt") == 0 {
		p.dieIn, p.loseIn, p.how, p.refuses = -1, 0, 2, true
	}
}

// deliver does what was on its way.
func (p *view) deliver() {
	if len(p.late) > 0 {
		l := p.late[0]
		p.late = p.late[1:]
		p.g.fail(p.g.st.Put(p.g.ctx, l.key, l.body))
	}
}

// vault returns the vault over this view.
func (p *view) vault() *Vault {
	if p.ledger == nil {
		p.ledger = newLedger()
	}
	v := *p.g.v
	v.st, v.ledger = (*viewStore)(p), p.ledger
	return &v
}

// spend counts a request.
func (p *view) spend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || p.dieIn == 0 {
		p.dead = true
		return errDied
	}
	p.dieIn--
	return nil
}

// viewStore is the Store of a view.
type viewStore view

func (s *viewStore) base() *view { return (*view)(s) }

// between lets others work before a request that its process makes alone.
func (s *viewStore) between(key string) {
	for _, folder := range []string{"/sessions/", "/condemned/", "/backups/"} {
		if strings.Contains(key, folder) && !s.sound && !s.dead {
			s.g.interleave()
		}
	}
}

func (s *viewStore) Put(ctx context.Context, key string, body []byte) error {
	s.between(key)
	p := s.base()
	if err := p.spend(); err != nil {
		return err
	}
	p.mu.Lock()
	lose, refused := p.loseIn == 0, p.refused
	p.loseIn--
	p.refused = p.refused || lose && p.refuses
	p.mu.Unlock()
	switch {
	case refused:
		return fmt.Errorf("put %s: %w", key, obs.ErrAccess)
	case !lose:
		return s.g.st.Put(ctx, key, body)
	}
	s.g.sum.Lost++
	switch p.how {
	case 1:
		s.g.fail(s.g.st.Put(ctx, key, body))
	case 2:
		p.late = append(p.late, latePut{key, slices.Clone(body)})
	}
	return fmt.Errorf("put %s: %w (%w)", key, obs.ErrUnavailable, obs.ErrUncertain)
}

func (s *viewStore) PutNew(ctx context.Context, key string, body []byte) error {
	return s.g.st.PutNew(ctx, key, body)
}

func (s *viewStore) ReadAt(ctx context.Context, key string, b []byte, off int64) (int, error) {
	if err := s.base().spend(); err != nil {
		return 0, err
	}
	return s.g.st.ReadAt(ctx, key, b, off)
}

func (s *viewStore) Stat(ctx context.Context, key string) (obs.Info, error) {
	s.between(key)
	if err := s.base().spend(); err != nil {
		return obs.Info{}, err
	}
	return s.g.st.Stat(ctx, key)
}

func (s *viewStore) List(ctx context.Context, prefix string) iter.Seq2[obs.Info, error] {
	s.between(prefix)
	if err := s.base().spend(); err != nil {
		return func(yield func(obs.Info, error) bool) { yield(obs.Info{}, err) }
	}
	return s.g.st.List(ctx, prefix)
}

func (s *viewStore) Delete(ctx context.Context, keys ...string) error {
	if len(keys) > 0 {
		s.between(keys[0])
	}
	if err := s.base().spend(); err != nil {
		return err
	}
	return s.g.st.Delete(ctx, keys...)
}

func (s *viewStore) Extend(ctx context.Context, key string, until time.Time) error {
	s.between(key)
	if err := s.base().spend(); err != nil {
		return err
	}
	return s.g.st.Extend(ctx, key, until)
}

func (s *viewStore) Capabilities() obs.Capabilities { return s.g.st.Capabilities() }
func (s *viewStore) String() string                 { return s.g.st.String() }
func (s *viewStore) Close() error                   { return nil }

// collector follows FORMAT.md, one step of it at a time.
type collector struct {
	*view
	state   int
	s       *Session
	packs   map[PackID]bool // P, then K
	waits   []string        // sessions
	own     string          // key of the condemnation
	deleted []PackID        // D
}

func (c *collector) step() {
	if c.busy || c.gone {
		return
	}
	c.busy = true
	defer func() { c.busy = false }()
	g, v := c.g, c.vault()
	c.plain()
	switch c.state {
	case 0:
		var err error
		c.s, err = v.putSession(g.ctx, kindCollector, SessionOptions{Host: "h"}, observe(SessionOptions{Host: "h"}).process)
		g.fail(err)
		if c.packs = c.orphans(); len(c.packs) > 0 {
			c.state = 5
			return
		}
	case 1:
		c.packs = map[PackID]bool{}
		for _, key := range g.list("packs/") {
			id, err := ParsePackID(key[strings.LastIndexByte(key, '/')+1:])
			g.fail(err)
			c.packs[id] = true
		}
	case 2:
		c.waits = c.writers()
	case 3:
		if c.waiting() {
			return
		}
	case 4:
		named, err := v.namedPacks(g.ctx)
		g.fail(err)
		for p := range named {
			delete(c.packs, p)
		}
		if len(c.packs) == 0 {
			c.end()
			return
		}
		c.condemn()
	case 5:
		if c.waits = c.writers(); g.rules.collectorDoesNotWait {
			c.waits = nil
		}
	case 6:
		if c.waiting() {
			return
		}
	case 7:
		named, err := v.namedPacks(g.ctx)
		g.fail(err)
		for p := range c.packs {
			if named[p] && !g.rules.collectorDoesNotReprieve {
				g.sum.Reprieved++
				continue
			}
			c.deleted = append(c.deleted, p)
		}
		slices.SortFunc(c.deleted, func(a, b PackID) int { return slices.Compare(a[:], b[:]) })
	case 8:
		g.fail(c.forget(v))
	case 9:
		if len(c.deleted) > 0 {
			g.fail(v.st.Delete(g.ctx, v.packKey(c.deleted[0])))
			c.deleted = c.deleted[1:]
			g.sum.Deleted++
			clear(g.seen)
			return
		}
	case 10:
		g.fail(v.st.Delete(g.ctx, c.own))
		c.end()
		return
	}
	c.state++
}

// orphans takes over the condemnations of collectors that are dead, and returns their packs.
func (c *collector) orphans() map[PackID]bool {
	g, v := c.g, c.vault()
	packs := map[PackID]bool{}
	var old []string
	for _, key := range g.list("condemned/") {
		object, err := readAll(g.ctx, g.st, key, maxCondemnedObject)
		g.fail(err)
		var k condemned
		id := strings.TrimPrefix(key, v.condemnedPrefix())
		g.fail(v.openSmall("condemned", condemnedMagic, v.condemnedPrefix(), id, object, &k))
		if _, err := g.st.Stat(g.ctx, v.sessionsPrefix()+k.Session); !errors.Is(err, obs.ErrNotFound) {
			continue
		}
		old = append(old, key)
		for _, p := range k.Packs {
			packs[p] = true
		}
	}
	if len(packs) > 0 {
		g.sum.TakenOver++
		c.packs = packs
		c.condemn()
		g.fail(v.st.Delete(g.ctx, old...))
	}
	return packs
}

func (c *collector) condemn() {
	g, v := c.g, c.vault()
	k := condemned{Session: c.s.id}
	for p := range c.packs {
		k.Packs = append(k.Packs, p)
	}
	slices.SortFunc(k.Packs, func(a, b PackID) int { return slices.Compare(a[:], b[:]) })
	id := hex.EncodeToString([]byte(c.s.id)[17+16:]) // any name that nobody else takes
	object, err := v.sealSmall("condemned", condemnedMagic, id, &k)
	g.fail(err)
	c.own = v.condemnedPrefix() + id
	g.fail(v.st.Put(g.ctx, c.own, object))
}

// writers returns the sessions of writers.
func (c *collector) writers() (ids []string) {
	all, err := c.vault().Sessions(c.g.ctx)
	c.g.fail(err)
	for _, s := range all {
		if s.body.Kind == kindWriter {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func (c *collector) waiting() bool {
	for _, id := range c.waits {
		if _, err := c.g.st.Stat(c.g.ctx, c.vault().sessionsPrefix()+id); err == nil {
			return true
		}
	}
	return false
}

// forget puts index segments without the rows of the packs that are
// to be deleted, and deletes those that they replace.
func (c *collector) forget(v *Vault) error {
	without := map[PackID]bool{}
	for _, p := range c.deleted {
		without[p] = true
	}
	set, err := v.openSegments(c.g.ctx, c.g.dir, func(error) {})
	if err != nil {
		return err
	}
	defer set.close()
	for _, s := range set.open {
		for i := range s.packs {
			if without[s.pack(i)] {
				if err := v.mergeGroup(c.g.ctx, set, []*segment{s}, nil, without); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

func (c *collector) end() {
	c.gone = true
	c.g.fail(c.s.End(c.g.ctx))
	c.g.collectors = slices.DeleteFunc(c.g.collectors, func(o *collector) bool { return o == c })
}

// killCollector ends a collector's process, whatever it was doing.
func (g *game) killCollector(c *collector) {
	if c.busy {
		return
	}
	c.gone = true
	if c.s != nil {
		running.Delete(c.s.id)
	}
	g.collectors = slices.DeleteFunc(g.collectors, func(o *collector) bool { return o == c })
}
