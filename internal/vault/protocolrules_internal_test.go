package vault

import "testing"

// TestProtocolHolds visits all states of a few processes, and a part of the states of more.
func TestProtocolHolds(t *testing.T) {
	if testing.Short() {
		t.Skip("visits many states")
	}
	p := theProtocol()
	all := protocolFaults{operator: true, crash: true, doubt: true, stale: true}
	runProtocol(t, map[string]protocolCase{
		"a writer, a collector, a reader, all faults":    {check: protocolCheck{rules: p, faults: all, writers: 1, collectors: 1, readers: 1}},
		"a writer, two collectors, an operator":          {check: protocolCheck{rules: p, faults: protocolFaults{operator: true}, writers: 1, collectors: 2}},
		"a writer, a collector, a mark, all faults":      {check: protocolCheck{rules: p, faults: protocolFaults{operator: true, mark: true, crash: true, doubt: true, stale: true}, writers: 1, collectors: 1}},
		"two writers, a collector":                       {check: protocolCheck{rules: p, writers: 2, collectors: 1}, most: 1 << 18},
		"two writers, two collectors, operator, stale":   {check: protocolCheck{rules: p, faults: protocolFaults{operator: true, stale: true}, writers: 2, collectors: 2}, most: 1 << 18},
		"three writers, a collector, operator":           {check: protocolCheck{rules: p, faults: protocolFaults{operator: true}, writers: 3, collectors: 1}, most: 1 << 18},
		"a pack that comes once more, nothing else late": {check: protocolCheck{rules: p, faults: protocolFaults{packs: true, operator: true}, writers: 1, collectors: 1, readers: 1}},
	})
}

// TestProtocolNeedsItsRules: without a rule something breaks, and without the others nothing does:
// those are there to spare work.
func TestProtocolNeedsItsRules(t *testing.T) {
	without := func(f func(*protocolRules)) protocolRules {
		p := theProtocol()
		f(&p)
		return p
	}
	operator := protocolFaults{operator: true}
	both := protocolFaults{operator: true, stale: true}
	one := func(r protocolRules, f protocolFaults, looks string) protocolCheck {
		return protocolCheck{rules: r, faults: f, writers: 1, collectors: 1, looks: looks}
	}
	cases := map[string]protocolCase{
		"W1 session first":        {check: protocolCheck{rules: without(func(p *protocolRules) { p.sessionFirst = false }), writers: 1, collectors: 2, looks: "S"}, wrong: "S"},
		"W2 avoids condemned":     {check: one(without(func(p *protocolRules) { p.avoid = false }), protocolFaults{}, "S"), wrong: "S"},
		"W4 looks at packs":       {check: one(without(func(p *protocolRules) { p.lookAtPacks = false }), protocolFaults{}, "S"), wrong: "S"},
		"W5 spares work":          {check: one(without(func(p *protocolRules) { p.lookBefore = false }), operator, "")},
		"W6 keeps the session":    {check: one(without(func(p *protocolRules) { p.keepInDoubt = false }), protocolFaults{doubt: true}, "D"), wrong: "D"},
		"W7 looks again":          {check: one(without(func(p *protocolRules) { p.lookAfter = false }), operator, "S"), wrong: "S"},
		"W7 looks for the mark":   {check: one(without(func(p *protocolRules) { p.lookAtMark = false }), protocolFaults{mark: true}, "S"), wrong: "S"},
		"W8 new session":          {check: one(without(func(p *protocolRules) { p.newSession = false }), both, "S"), wrong: "S"},
		"W8 list":                 {check: one(without(func(p *protocolRules) { p.listAgain = false }), operator, "S"), wrong: "S"},
		"W8 all packs":            {check: one(without(func(p *protocolRules) { p.lookAtAll = false }), operator, "S"), wrong: "S"},
		"W9 ends last":            {check: one(without(func(p *protocolRules) { p.endsLast, p.lookAfter = false, false }), protocolFaults{}, "S"), wrong: "S"},
		"C1 spares work":          {check: one(without(func(p *protocolRules) { p.waitFirst = false }), operator, "")},
		"C4 waits":                {check: one(without(func(p *protocolRules) { p.waitCondemned = false }), protocolFaults{}, "S"), wrong: "S"},
		"C5 reads again":          {check: one(without(func(p *protocolRules) { p.readAgain = false }), protocolFaults{}, "S"), wrong: "S"},
		"C6 waits for readers":    {check: protocolCheck{rules: without(func(p *protocolRules) { p.waitReaders = false }), writers: 1, collectors: 1, readers: 1, looks: "R"}, wrong: "R"},
		"C8 waits":                {check: one(without(func(p *protocolRules) { p.waitGone = false }), protocolFaults{stale: true}, "S"), wrong: "S"},
		"C9 ends empty ones":      {check: one(without(func(p *protocolRules) { p.sweep = false }), protocolFaults{}, "L"), wrong: "L"},
		"a manifest that is late": {check: one(theProtocol(), protocolFaults{crash: true, doubt: true, late: true}, "S")},
		"a late one is damaged":   {check: one(theProtocol(), protocolFaults{crash: true, doubt: true, late: true}, "D"), wrong: "D"},
	}
	if !testing.Short() {
		cases["C9 takes nothing over"] = protocolCase{
			check: protocolCheck{rules: without(func(p *protocolRules) { p.takeOver = true }), faults: operator, writers: 1, collectors: 2, looks: "S"}, wrong: "S",
		}
	}
	runProtocol(t, cases)
}
