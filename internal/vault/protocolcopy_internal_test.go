package vault

import "testing"

// This file checks the rules of FORMAT.md (Copy) for a copier beside the collectors of the
// destination. It visits every state, as protocol_internal_test.go does. The source has one backup
// with one pack all the time, so the copier puts the pack under its old name as often as the
// destination lacks it.

// copyRules are the rules of the copier and of the collectors.
type copyRules struct {
	session       bool // the copier puts a session first
	seeCollectors bool // and then puts nothing while the session of a collector stands
	seeCondemned  bool // nor while a condemnation stands
	lookAtPack    bool // the copier looks that the pack is there, before the manifest and after it
	lookAfter     bool // and that its session is there
	waits         bool // C4: a collector waits for the copier's session
	readAgain     bool // C5
}

// Places of a copier, in order.
const (
	kList = iota
	kPut
	kCollectors
	kCondemned
	kPack
	kLook
	kManifest
	kLookAgain
	kAfter
	kEnds
	kDone
)

// Places of a collector of the destination, in order.
const (
	dBegins = iota
	dLists
	dManifests
	dCondemns
	dSessions
	dReads
	dDeletes
	dSweeps
	dEnds
	dDone
)

const copiers = 2 // one after the other: one copy at a time works on a destination

// kState is a state of a destination with its processes.
type kState struct {
	copier               [copiers]kCopier
	session              uint8 // of copiers, bits
	c                    [mostCollectors]kCollector
	collectors           uint8 // sessions, bits
	condemned            uint8 // condemnations, bits
	pack, manifest, made bool  // made: a copy was reported and the manifest was not deleted since
}

type kCopier struct {
	at  uint8
	saw bool // the pack, in a list from before its session
}

type kCollector struct {
	at, waits uint8
	has       bool // the pack is in its set
	ends      uint8
}

// copyCheck is one search.
type copyCheck struct {
	rules    copyRules
	operator bool // removes the session of a copier that is alive
	crash    bool // a copier dies; its session is removed some time
}

func (m *copyCheck) next(s kState, out func(kState)) {
	for i := range s.copier {
		if i > 0 && s.copier[i-1].at != kDone {
			break
		}
		m.copier(s, i, out)
		if s.session&(1<<i) != 0 && (m.operator || s.copier[i].at == kDone) {
			n := s
			n.session &^= 1 << i
			out(n)
		}
	}
	for i := range s.c {
		m.collector(s, i, out)
	}
	if s.manifest { // the destination forgets the backup
		n := s
		n.manifest, n.made = false, false
		out(n)
	}
}

// copier lets copier i take each of the steps that it can take.
func (m *copyCheck) copier(s kState, i int, out func(kState)) {
	at, bit := s.copier[i].at, uint8(1)<<i
	to := func(at uint8, f func(*kState)) {
		n := s
		if n.copier[i].at = at; f != nil {
			f(&n)
		}
		out(n)
	}
	fork := func(ok bool) {
		if ok {
			to(at+1, nil)
		} else {
			to(kEnds, nil)
		}
	}
	if m.crash && at > kPut && at < kDone {
		to(kDone, nil)
	}
	lacks := m.rules.lookAtPack && !s.pack // another look at a pack that the first list had
	switch at {
	case kList:
		to(kPut, func(n *kState) { n.copier[i].saw = n.pack })
	case kPut:
		to(kCollectors, func(n *kState) {
			if m.rules.session {
				n.session |= bit
			}
		})
	case kCollectors:
		fork(!m.rules.seeCollectors || s.collectors == 0)
	case kCondemned, kLookAgain:
		if at == kLookAgain && lacks {
			to(kPack, nil)
			return
		}
		fork(!m.rules.seeCondemned || s.condemned == 0)
	case kPack:
		to(kLook, func(n *kState) { n.pack, n.copier[i].saw = n.pack || !n.copier[i].saw, false })
	case kLook:
		switch {
		case m.rules.seeCondemned && s.condemned != 0:
			to(kEnds, nil)
		case lacks:
			to(kPack, nil)
		default:
			to(kManifest, nil)
		}
	case kManifest:
		to(kLookAgain, func(n *kState) { n.manifest = true })
	case kAfter:
		to(kEnds, func(n *kState) {
			n.made = n.made || n.manifest && (!m.rules.lookAfter || s.session&bit != 0)
		})
	case kEnds:
		to(kDone, func(n *kState) { n.session &^= bit })
	}
}

// collector lets collector i take each of the steps that it can take.
func (m *copyCheck) collector(s kState, i int, out func(kState)) {
	c, bit := s.c[i], uint8(1)<<i
	step := func(f func(n *kState, c *kCollector)) {
		n := s
		n.c[i].at++
		f(&n, &n.c[i])
		out(n)
	}
	switch c.at {
	case dBegins:
		step(func(n *kState, _ *kCollector) { n.collectors |= bit })
	case dLists:
		step(func(n *kState, c *kCollector) { c.has = n.pack })
	case dManifests:
		step(func(n *kState, c *kCollector) { c.has = c.has && !n.manifest })
	case dCondemns:
		step(func(n *kState, c *kCollector) {
			if c.has {
				n.condemned |= bit
			}
		})
	case dSessions:
		step(func(n *kState, c *kCollector) { c.waits = n.session })
	case dReads:
		if !m.rules.waits || c.waits&s.session == 0 {
			step(func(n *kState, c *kCollector) {
				if c.waits = 0; m.rules.readAgain {
					c.has = c.has && !n.manifest
				}
			})
		}
	case dDeletes:
		step(func(n *kState, c *kCollector) {
			if c.has {
				n.pack, c.has = false, false
			}
		})
	case dSweeps: // finds others' condemnations without a pack, and waits for copiers
		step(func(n *kState, c *kCollector) {
			if c.waits = n.session; !n.pack {
				c.ends = n.condemned
			}
		})
	case dEnds:
		if !m.rules.waits || c.waits&s.session == 0 {
			step(func(n *kState, c *kCollector) {
				n.condemned &^= bit | c.ends
				n.collectors &^= bit
				*c = kCollector{at: dDone}
			})
		}
	}
}

// wrong is "S" where a copy was reported and the destination lacks the pack, and "D" where it has
// the manifest without the pack.
func (m *copyCheck) wrong(s *kState) string {
	switch {
	case s.manifest && s.made && !s.pack:
		return "S"
	case s.manifest && !s.pack && !m.operator:
		return "D"
	}
	return ""
}

// TestProtocolCopy visits all states of two copies, one after the other, beside two collectors of
// the destination, and shows which rules a copy needs.
func TestProtocolCopy(t *testing.T) {
	all := copyRules{session: true, seeCollectors: true, seeCondemned: true, lookAtPack: true, lookAfter: true, waits: true, readAgain: true}
	without := func(f func(*copyRules)) copyRules {
		r := all
		f(&r)
		return r
	}
	for name, c := range map[string]struct {
		check copyCheck
		wrong string
	}{
		"holds":                    {copyCheck{rules: all}, ""},
		"holds when copiers die":   {copyCheck{rules: all, crash: true}, ""},
		"holds with an operator":   {copyCheck{rules: all, crash: true, operator: true}, ""},
		"needs a session":          {copyCheck{rules: without(func(r *copyRules) { r.session = false })}, "D"},
		"sees collectors":          {copyCheck{rules: without(func(r *copyRules) { r.seeCollectors = false })}, "D"},
		"looks at the pack":        {copyCheck{rules: without(func(r *copyRules) { r.lookAtPack = false })}, "D"},
		"looks for its session":    {copyCheck{rules: without(func(r *copyRules) { r.lookAfter = false }), operator: true}, "S"},
		"is waited for":            {copyCheck{rules: without(func(r *copyRules) { r.waits = false })}, "D"},
		"is read again":            {copyCheck{rules: without(func(r *copyRules) { r.readAgain = false })}, "D"},
		"condemnations spare work": {copyCheck{rules: without(func(r *copyRules) { r.seeCondemned = false })}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wrong, states, cutOff := searchStates(kState{}, c.check.next, c.check.wrong, 1<<22)
			t.Logf("%d states", states)
			if wrong != c.wrong || cutOff {
				t.Errorf("breaks %q after %d states (cut off: %v), want %q", wrong, states, cutOff, c.wrong)
			}
		})
	}
}
