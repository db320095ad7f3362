package vault

import (
	"errors"
	"slices"
	"time"
)

// collector is a prune, one step of it at a time.
type collector struct {
	*view
	p *prune
}

// The steps of a prune that rules of the model change.
var (
	stepSeeCondemned = stepNamed("reads new manifests") - 2
	stepReadAgain    = stepNamed("reads new manifests")
	stepDelete       = stepNamed("deletes packs")
	stepsOfMoves     = []int{
		stepNamed("compares locks"), stepNamed("looks for sparse packs"),
		stepNamed("reads which chunks of sparse packs are needed"), stepNamed("moves chunks out of sparse packs"),
	}
)

func stepNamed(what string) int {
	return slices.IndexFunc(pruneSteps, func(s pruneStep) bool { return s.what == what })
}

func newCollector(p *view) *collector {
	// Without a folder: games with the same random bytes have backups of the same names, so what a
	// prune keeps of their manifests would be wrong in the next game.
	o := PruneOptions{Host: "h", Now: time.Now, Warn: p.g.fail}
	if p.g.rules == (rules{}) && !p.sound && p.g.draw(4, "compacts") == 0 {
		o.Sparse = 100 // however much of a pack is needed
		o.Warn = func(error) {}
	}
	return &collector{view: p, p: newPrune(p.vault(), o)}
}

func (c *collector) step() {
	if c.busy || c.gone {
		return
	}
	c.busy = true
	defer func() { c.busy = false }()
	g := c.g
	c.plain()
	at, named := c.p.at, 0
	if at == stepReadAgain {
		named, _ = c.p.packs.sum()
	}
	if at == stepDelete { // one pack at a time, so that others go on between two deletes
		if c.deleteOne() {
			return
		}
	}
	moved := c.p.report.Moved
	_, err := c.p.next(g.ctx)
	g.sum.Moved += c.p.report.Moved - moved
	if errors.Is(err, ErrSessionGone) { // the operator removed its writer's session
		g.fail(c.p.giveUp(g.ctx, err))
		c.leave()
		return
	}
	g.fail(err)
	switch {
	case at == stepReadAgain:
		left, _ := c.p.packs.sum()
		g.sum.Reprieved += named - left
	case at == stepSeeCondemned && g.rules.collectorDoesNotWait:
		c.p.waits = nil
	}
	for !c.p.over() && c.idle() { // steps in which this collector does nothing
		c.p.at++
	}
	if c.p.over() {
		c.leave()
	}
}

// idle tells whether a collector that moves no chunks has nothing to do in its step.
func (c *collector) idle() bool {
	return c.p.o.Sparse == 0 && slices.Contains(stepsOfMoves, c.p.at)
}

// deleteOne deletes one pack of the set.
func (c *collector) deleteOne() bool {
	one := -1
	c.p.packs.each(func(i int) bool { one = i; return false })
	if one < 0 {
		return false
	}
	c.p.deleting = true
	c.g.fail(c.p.deleteSome(c.g.ctx, []int{one}))
	c.g.sum.Deleted++
	clear(c.g.seen)
	return true
}

func (c *collector) leave() {
	c.gone = true
	c.g.collectors = slices.DeleteFunc(c.g.collectors, func(o *collector) bool { return o == c })
}

// killCollector ends a collector's process in any state.
func (g *game) killCollector(c *collector) {
	if c.busy {
		return
	}
	c.ended()
	c.leave()
}

// removeSession is the operator, who takes a process that is alive for dead. Nothing rests on the
// sessions of collectors.
func (g *game) removeSession() {
	sessions, err := g.v.Sessions(g.ctx)
	g.fail(err)
	var all []string
	for _, s := range sessions {
		if s.body.Kind != kindCollector {
			all = append(all, s.ID)
		}
	}
	if len(all) == 0 {
		return
	}
	id := all[g.draw(len(all), "session")]
	g.removed[id] = true
	g.sum.Removed++
	g.fail(g.st.Delete(g.ctx, g.v.sessionsPrefix()+id))
}

// reader reads one backup under a session.
type reader struct {
	*view
	state int
	ref   BackupRef
	s     *Session
	m     *Manifest
	reads int
}

func (a *reader) step() {
	if a.busy || a.gone {
		return
	}
	a.busy = true
	defer func() { a.busy = false }()
	g, v := a.g, a.vault()
	a.plain()
	switch a.state {
	case 0:
		var err error
		if a.s, err = v.BeginReading(g.ctx, SessionOptions{Host: "h"}, fullName(a.ref)); err != nil {
			g.fail(err)
		}
	case 1:
		m, err := v.Manifest(g.ctx, a.ref)
		if errors.Is(err, ErrNoBackup) {
			a.state = 3
			return
		}
		g.fail(err)
		a.m = m
	case 2: // as long as it likes
		for _, p := range a.m.Packs {
			why, err := v.packAbsent(g.ctx, p)
			if err == nil && why != "" {
				why, err = v.movedAbsent(g.ctx, p, why, 0)
			}
			g.fail(err)
			if why != "" && !g.removed[a.s.id] {
				g.fail(errors.New("a reader lost a pack of backup " + a.ref.ID + ": " + why))
			}
		}
		g.sum.Read++
		if a.reads++; a.reads < 4 && !a.sound && g.draw(3, "read on") > 0 {
			return
		}
	case 3:
		g.fail(a.s.End(g.ctx))
		a.leave()
		return
	}
	a.state++
}

func (a *reader) leave() {
	a.gone = true
	a.ended()
	a.g.readers = slices.DeleteFunc(a.g.readers, func(o *reader) bool { return o == a })
}
