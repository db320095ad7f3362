package vault

import "testing"

// This file adds collectors that move chunks to the protocol. The first pack has two chunks: the
// first backup needs the one, and each writer that uses the pack needs the other. So a collector
// that looked at the first backup alone would move too little. A collector moves the needed chunks
// into a pack of its own, puts a relocation, and deletes the first pack.

// moveRules are the rules of compaction.
type moveRules struct {
	moverSession  bool // a writer's session, before the new pack
	moverLooks    bool // for that session, after the relocation
	needsAgain    bool // the needs are read after the second reading of the manifests, and not before
	targetsNamed  bool // a pack with moved chunks counts as named while the old pack is named
	movedStays    bool // a relocation stays while the old pack is named
	deletesLast   bool // the old pack goes after the relocation was put
	takesForThere bool // forbidden: a writer takes a moved pack for present
	endMoved      bool // the condemnation of a moved pack ends before the relocation
}

func theMoveRules() moveRules {
	return moveRules{moverSession: true, moverLooks: true, needsAgain: true, targetsNamed: true, movedStays: true, deletesLast: true}
}

const (
	firstPack    = 1 << firstBackup
	firstNewPack = firstPack << 1 // of the first collector
	relocations  = mostWriters + 1
	firstMover   = firstCollector << mostCollectors // a collector that moves has a writer's session too
	// writerSessions are the sessions that a collector waits for.
	writerSessions = readerSession - 1 | firstMover | firstMover<<1

	// The chunks of the first pack.
	chunkOfFirst  = 1
	chunkOfOthers = 2
)

// lacks tells whether a pack of a backup is missing, and no relocation gives its chunk.
func (s *pState) lacks(backup int) bool {
	missing := s.named(1<<backup) &^ s.packs
	if missing&firstPack == 0 {
		return missing != 0
	}
	chunk := uint8(chunkOfOthers)
	if backup == firstBackup {
		chunk = chunkOfFirst
	}
	for i := range s.c {
		if s.moved&(1<<i) != 0 && s.c[i].covers&chunk != 0 && s.packs&(firstNewPack<<i) != 0 {
			return missing != firstPack
		}
	}
	return true
}

// targets adds to named packs the packs into which the listed relocations moved their chunks.
func (s *pState) targets(named, moved uint8) uint8 {
	if named&firstPack != 0 {
		named |= moved * firstNewPack
	}
	return named
}

// named are the packs that a list of manifests and relocations names.
func (m *protocolCheck) named(s *pState, list uint8) uint8 {
	named := s.named(list & (1<<relocations - 1))
	if m.rules.targetsNamed {
		named = s.targets(named, list>>relocations)
	}
	return named
}

// takenForThere are the packs that a look takes for present though the store does not have them.
func (m *protocolCheck) takenForThere(s *pState) uint8 {
	if m.rules.takesForThere && s.moved != 0 {
		return firstPack
	}
	return 0
}

// judges ends the first reading of a collector's manifests: the collector knows which packs it
// condemns, which relocations may go, and decides whether it moves chunks.
func (m *protocolCheck) judges(s pState, i int, step func(func(*pState, *pCollector))) {
	list := s.c[i].manifests & (s.manifests | s.moved<<relocations)
	named := m.named(&s, list)
	judge := func(moves bool) {
		step(func(_ *pState, c *pCollector) {
			listed := c.condemned
			c.condemned = listed &^ named
			if c.over = list >> relocations; m.rules.movedStays && named&firstPack != 0 {
				c.over = 0
			}
			if c.moves = moves; moves {
				c.condemned |= firstPack
				c.covers = needs(&s, list)
			}
			c.manifests, c.at = 0, cCondemns
			if c.condemned == 0 {
				if c.at = cSessionsAgain; c.over == 0 {
					c.at = cDeletes // to look after the remains of others
				}
			}
		})
	}
	judge(false)
	if m.moves && s.c[i].condemned&named&firstPack != 0 && s.moved&(1<<i) == 0 {
		judge(true)
	}
}

// needs are the chunks of the first pack that listed manifests need.
func needs(s *pState, list uint8) (chunks uint8) {
	for i := range s.w {
		if list&(1<<i) != 0 && s.w[i].use&firstPack != 0 {
			chunks |= chunkOfOthers
		}
	}
	if list&firstPack != 0 {
		chunks |= chunkOfFirst
	}
	return chunks
}

// readsNeeds comes with the second reading of the manifests.
func (m *protocolCheck) readsNeeds(n *pState, c *pCollector) {
	if m.rules.movedStays && n.named(c.manifests&(1<<relocations-1))&firstPack != 0 {
		c.over = 0
	}
	if !c.moves {
		return
	}
	c.deletes &^= firstPack
	if m.rules.needsAgain {
		c.covers = needs(n, c.manifests)
	}
}

// moveChunks lets collector i move the needed chunks of the first pack.
func (m *protocolCheck) moveChunks(s pState, i int, step func(func(*pState, *pCollector))) {
	bit, mine := uint8(1)<<i, uint8(firstMover)<<i
	stays := func(n *pState, c *pCollector) { n.sessions &^= mine; c.moves, c.at = false, cDeletes }
	if m.faults.operator && s.sessions&mine != 0 { // also when the collector is dead
		step(func(n *pState, _ *pCollector) { n.sessions &^= mine })
	}
	switch s.c[i].at {
	case cMoveSession:
		step(func(n *pState, c *pCollector) {
			if c.at = cMovePack; m.rules.moverSession {
				n.sessions |= mine
			}
		})
	case cMovePack:
		if s.packs&firstPack == 0 { // another collector has moved its chunks
			step(stays)
			return
		}
		step(func(n *pState, c *pCollector) {
			n.packs, n.ever, c.at = n.packs|firstNewPack<<i, n.ever|firstNewPack<<i, cMoveRelocation
			if !m.rules.deletesLast {
				n.packs &^= firstPack
			}
		})
	case cMoveRelocation:
		step(func(n *pState, c *pCollector) { n.moved |= bit; c.at = cMoveLook })
	case cMoveLook:
		if m.rules.moverSession && m.rules.moverLooks && s.sessions&mine == 0 {
			step(func(n *pState, c *pCollector) { n.moved &^= bit; stays(n, c) })
			return
		}
		step(func(n *pState, c *pCollector) { n.packs &^= firstPack; stays(n, c) })
	}
}

// TestProtocolMoves visits the states of collectors that move chunks, beside others.
func TestProtocolMoves(t *testing.T) {
	p := theProtocol()
	operator := protocolFaults{operator: true}
	cases := map[string]protocolCase{
		"two collectors, an operator": {check: protocolCheck{rules: p, faults: operator, collectors: 2, moves: true}},
		"a collector, a reader":       {check: protocolCheck{rules: p, faults: operator, collectors: 1, readers: 1, moves: true}},
		"a writer, a collector, all faults": {check: protocolCheck{
			rules: p, faults: protocolFaults{operator: true, crash: true, doubt: true, stale: true}, writers: 1, collectors: 1, moves: true,
		}, most: 1 << 18},
	}
	if !testing.Short() {
		cases["a writer, two collectors, a reader, an operator"] = protocolCase{
			check: protocolCheck{rules: p, faults: operator, writers: 1, collectors: 2, readers: 1, moves: true}, most: 1 << 18,
		}
	}
	runProtocol(t, cases)
}

// TestProtocolMovesNeedItsRules: each rule of compaction is there because without it something
// breaks.
func TestProtocolMovesNeedItsRules(t *testing.T) {
	without := func(f func(*protocolRules)) protocolRules {
		p := theProtocol()
		f(&p)
		return p
	}
	operator := protocolFaults{operator: true}
	two := func(f func(*protocolRules)) protocolCheck {
		return protocolCheck{rules: without(f), faults: operator, collectors: 2, moves: true, looks: "S"}
	}
	runProtocol(t, map[string]protocolCase{
		"session":            {check: two(func(p *protocolRules) { p.moverSession = false }), wrong: "S"},
		"looks for it":       {check: two(func(p *protocolRules) { p.moverLooks = false }), wrong: "S"},
		"new packs are kept": {check: two(func(p *protocolRules) { p.targetsNamed = false }), wrong: "S"},
		"relocation stays":   {check: two(func(p *protocolRules) { p.movedStays = false }), wrong: "S"},
		"deletes last":       {check: two(func(p *protocolRules) { p.deletesLast = false }), wrong: "S"},
		"needs of the second reading": {check: protocolCheck{
			rules: without(func(p *protocolRules) { p.needsAgain = false }), writers: 1, collectors: 1, moves: true, looks: "S",
		}, wrong: "S"},
		"waits for writers": {check: protocolCheck{
			rules: without(func(p *protocolRules) { p.waitCondemned = false }), writers: 1, collectors: 1, moves: true, looks: "S",
		}, wrong: "S"},
		"waits for readers": {check: protocolCheck{
			rules: without(func(p *protocolRules) { p.waitReaders = false }), collectors: 1, readers: 1, moves: true, looks: "R",
		}, wrong: "R"},
		"a moved pack is not there, or condemned": {check: protocolCheck{
			rules: without(func(p *protocolRules) { p.takesForThere, p.endMoved = true, true }), writers: 1, collectors: 2, moves: true, looks: "S",
		}, wrong: "S"},
	})
}
