package vault

import (
	"math/bits"
	"strings"
	"testing"
)

// This file and its neighbours protocol…_internal_test.go check the protocol of FORMAT.md
// (Garbage) without the code: they visit every state that a few processes can reach, their
// requests in any order. A pause is a process that is not chosen for a while, and a dead collector
// is never chosen again. Each check names the rule that it leaves out, or the fault that happens.

// protocolRules are the rules of the processes.
type protocolRules struct {
	sessionFirst  bool // W1: the session before the list of condemnations
	avoid         bool // W2: no condemned pack is used
	lookAtPacks   bool // W4
	lookBefore    bool // W5
	keepInDoubt   bool // W6: a manifest in doubt keeps the session
	lookAfter     bool // W7
	lookAtMark    bool // W5, W7, W8: a session that is marked as ended is gone
	longer        bool // W8, when the session is gone or the process was started again:
	newSession    bool // under a new session, which is still there in the end
	listAgain     bool // none of the packs is condemned
	lookAtAll     bool // all packs are there
	endsLast      bool // W9: the session ends after W7, not before W6
	waitFirst     bool // C1
	waitCondemned bool // C4
	readAgain     bool // C5
	waitReaders   bool // C6
	waitGone      bool // C8
	sweep         bool // C9: ends others' condemnations of which no pack is left
	takeOver      bool // forbidden: replaces the condemnation of a collector whose session is gone
	endNamed      bool // forbidden: ends others' condemnations whose packs are all named
	moveRules
}

// theProtocol is what FORMAT.md says.
func theProtocol() protocolRules {
	return protocolRules{
		sessionFirst: true, avoid: true, lookAtPacks: true, lookBefore: true, keepInDoubt: true, lookAfter: true, lookAtMark: true,
		longer: true, newSession: true, listAgain: true, lookAtAll: true, endsLast: true,
		waitFirst: true, waitCondemned: true, readAgain: true, waitReaders: true, waitGone: true, sweep: true,
		moveRules: theMoveRules(),
	}
}

// protocolFaults are what may happen.
type protocolFaults struct {
	operator bool // removes the session of a process that is alive
	mark     bool // the session of a process that is alive is marked as ended, and stands
	crash    bool // a writer dies, and may be started again once
	doubt    bool // the put of a manifest is not answered: done, not done, or done later
	late     bool // even after its process died
	stale    bool // a look may find a deleted pack that was there when, or after, the session of the looker began
	packs    bool // the put of a pack is not answered, and is done later
}

// Numbers of processes and places.
const (
	mostWriters    = 3
	mostCollectors = 2
	firstBackup    = mostWriters      // number of the manifest that is there from the start, and of its pack
	readerSession  = 1 << mostWriters // writers have the bits below
	firstCollector = 1 << (mostWriters + 1)
)

// Places of a writer, in order; from wDoubt to wFails are by-ways.
const (
	wPut = iota
	wListBegin
	wListEnd
	wPack
	wLook
	wBefore
	wManifest
	wAfter
	wDoubt
	wStays
	wLonger
	wAgainBegin
	wAgainEnd
	wAgainLook
	wAgainSession
	wFails
	wTold
	wEnds
	wDone
	wDead
)

// Places of a collector, in order.
const (
	cPacks = iota
	cSessions
	cManifests
	cManifestsEnd
	cCondemns
	cTakes
	cSessionsAgain
	cManifestsAgain
	cManifestsAgainEnd
	cReaders
	cReadersWait
	cDeletes
	cSessionsLast
	cEnds
	cMoveSession // from here to cMoveLook: by-ways of a collector that moves chunks
	cMovePack
	cMoveRelocation
	cMoveLook
	cDone
)

// Marks of a writer.
const (
	wasTold    = 1 << iota // success was reported
	onItsWay               // a put of the manifest
	wasRemoved             // its session, by the operator or by a mark
	wasAgain               // started once more
	wasExpired             // retention deleted the manifest
	wasRevived             // and it came once more after that: nobody was promised it
	packOnWay              // a put of its pack
)

// pWriter is a writer: the packs that its manifest names, the condemnations that a list under way
// gave, the packs that a stale look may find.
type pWriter struct{ at, use, list, seen, marks uint8 }

// pCollector is a collector: the packs that it condemned and that it deletes, what its lists
// gave (relocations behind the manifests), and the condemnations and relocations that it ends.
type pCollector struct {
	at, condemned, deletes, manifests, waits, ends, over uint8
	moves                                                bool  // chunks out of the first pack
	covers                                               uint8 // chunks that its relocation has
}

// pState is a state of all. Sets are bits.
type pState struct {
	w                                              [mostWriters]pWriter
	c                                              [mostCollectors]pCollector
	reader, reads                                  uint8
	packs, ever, sessions, manifests, condemnation uint8 // ever: packs that an index or a catalogue may list
	ended                                          uint8 // sessions of writers that are marked as ended
	moved                                          uint8 // relocations, by collector
}

func (s *pState) named(manifests uint8) (packs uint8) {
	packs = manifests & (1 << firstBackup)
	for i := range s.w {
		if manifests&(1<<i) != 0 {
			packs |= s.w[i].use
		}
	}
	return packs
}

func (s *pState) condemnedBy(objects uint8) (packs uint8) {
	for i := range s.c {
		if objects&(1<<i) != 0 {
			packs |= s.c[i].condemned
		}
	}
	return packs
}

// protocolCheck is one search.
type protocolCheck struct {
	rules                        protocolRules
	faults                       protocolFaults
	writers, collectors, readers int
	moves                        bool   // collectors may move chunks
	looks                        string // the properties looked at; "" is all
}

// next calls out with every state that follows s.
func (m *protocolCheck) next(s pState, out func(pState)) {
	emit := func(n pState) {
		n.ended &= n.sessions // a mark without its session tells nothing
		for i := range n.c {
			if n.c[i].at == cDone && n.moved&(1<<i) == 0 {
				n.c[i].covers = 0
			}
		}
		for i := range n.w { // what nothing depends on any more is made the same
			w := &n.w[i]
			if w.at >= wDone && n.manifests&(1<<i) == 0 && w.marks&(onItsWay|packOnWay) == 0 && (n.reader != 2 || int(n.reads) != i) {
				w.use, w.marks = 0, 0
			}
		}
		out(n)
	}
	for i := range m.writers {
		m.writer(s, i, emit)
	}
	for i := range m.collectors {
		m.collector(s, i, emit)
	}
	if m.readers > 0 {
		m.reader(s, emit)
	}
	for i := range mostWriters + 1 { // retention deletes reported backups, and backups of failed writers
		if s.manifests&(1<<i) != 0 && (i == firstBackup || s.w[i].marks&wasTold != 0 || s.w[i].at >= wDone) {
			n := s
			n.manifests &^= 1 << i
			if i != firstBackup {
				n.w[i].marks |= wasExpired
			}
			emit(n)
		}
	}
}

// reader reads one backup.
func (m *protocolCheck) reader(s pState, out func(pState)) {
	n := s
	switch s.reader {
	case 0:
		for j := range mostWriters + 1 {
			if s.manifests&(1<<j) != 0 {
				n := s
				n.sessions, n.reads, n.reader = n.sessions|readerSession, uint8(j), 1
				out(n)
			}
		}
		return
	case 1:
		if n.reader = 2; s.manifests&(1<<s.reads) == 0 {
			n.sessions, n.reader = n.sessions&^readerSession, 3
		}
	case 2:
		n.sessions, n.reader = n.sessions&^readerSession, 3
	default:
		return
	}
	out(n)
}

// wrong tells which property a state breaks:
//
//	S  no backup that was reported as made, and not deleted, lacks a pack
//	R  the packs that a reader reads stay
//	D  no manifest at all lacks a pack, unless an operator removed its writer's session
//	L  when all die, two collections leave neither garbage nor condemnations, the second after
//	   all manifests expired
func (m *protocolCheck) wrong(s *pState) string {
	looks := func(p string) bool { return m.looks == "" || strings.Contains(m.looks, p) }
	for i := range mostWriters + 1 {
		lacks := s.lacks(i)
		lost := lacks && s.manifests&(1<<i) != 0
		var marks uint8 = wasTold
		if i != firstBackup {
			marks = s.w[i].marks
		}
		promised := marks&(wasTold|wasRevived) == wasTold
		switch {
		case lost && promised && looks("S"):
			return "S"
		case lost && i != firstBackup && marks&(wasRemoved|wasRevived) == 0 && looks("D"):
			return "D"
		case lacks && promised && s.reader == 2 && int(s.reads) == i && looks("R"):
			return "R"
		}
	}
	n := *s
	for _, manifests := range []uint8{n.manifests, 0} {
		n.packs &= n.targets(n.named(manifests), n.moved)
		if n.named(manifests)&firstPack == 0 {
			n.moved = 0
		}
		for o := range n.c {
			if m.rules.takeOver || m.rules.sweep && n.c[o].condemned&n.packs == 0 && (n.moved == 0 || n.c[o].condemned&firstPack == 0) {
				n.condemnation &^= 1 << o
			}
		}
	}
	if n.condemnation|n.moved != 0 && looks("L") {
		return "L"
	}
	return ""
}

// search visits the states that can be reached, the nearest first, until one is wrong or there are
// too many.
func (m *protocolCheck) search(most int) (wrong string, states int, cutOff bool) {
	return searchStates(pState{packs: 1 << firstBackup, ever: 1 << firstBackup, manifests: 1 << firstBackup}, m.next, m.wrong, most)
}

func searchStates[S comparable](first S, next func(S, func(S)), wrong func(*S) string, most int) (broken string, states int, cutOff bool) {
	seen := map[S]struct{}{first: {}}
	queue := []S{first}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if broken = wrong(&s); broken != "" {
			return broken, len(seen), false
		}
		if len(seen) >= most {
			return "", len(seen), true
		}
		next(s, func(n S) {
			if _, ok := seen[n]; !ok {
				seen[n] = struct{}{}
				queue = append(queue, n)
			}
		})
	}
	return "", len(seen), false
}

// protocolCase is a check and its expected result.
type protocolCase struct {
	check protocolCheck
	wrong string // the property that breaks; "" is none
	most  int    // states; 0 is all of them
}

func runProtocol(t *testing.T, cases map[string]protocolCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			most := c.most
			if most == 0 {
				most = 1 << 22
			}
			wrong, states, cutOff := c.check.search(most)
			t.Logf("%d states", states)
			if wrong != c.wrong || cutOff && c.most == 0 {
				t.Errorf("breaks %q after %d states (cut off: %v), want %q", wrong, states, cutOff, c.wrong)
			}
		})
	}
}

func lowest(set uint8) uint8 { return 1 << bits.TrailingZeros8(set) }
