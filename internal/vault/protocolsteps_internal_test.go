package vault

// writer lets writer i take each of the steps that it can take.
func (m *protocolCheck) writer(s pState, i int, out func(pState)) {
	bit, w := uint8(1)<<i, s.w[i]
	step := func(f func(n *pState, w *pWriter)) {
		n := s
		f(&n, &n.w[i])
		out(n)
	}
	to := func(at uint8) { step(func(_ *pState, w *pWriter) { w.list, w.at = 0, at }) }
	fork := func(ok bool, at, otherwise uint8) {
		if ok {
			to(at)
		} else {
			to(otherwise)
		}
	}
	list := func(at uint8) { step(func(n *pState, w *pWriter) { w.list, w.at = n.condemnation, at }) }
	good := func(_ *pState, w *pWriter) { w.at, w.marks = wTold, w.marks|wasTold }
	there := func(packs uint8) bool { return packs&^(s.packs|w.seen|m.takenForThere(&s)) == 0 }
	stands := s.sessions&bit != 0 && (!m.rules.lookAtMark || s.ended&bit == 0)
	m.mishaps(s, i, step)
	switch w.at {
	case wPut:
		if m.rules.sessionFirst {
			step(func(n *pState, w *pWriter) { m.begin(n, i); w.at = wListBegin })
		} else {
			list(wListEnd)
		}
	case wListBegin:
		list(wListEnd)
	case wListEnd:
		m.choose(s, i, step)
	case wPack:
		m.putPack(i, step)
	case wLook:
		fork(!m.rules.lookAtPacks || there(w.use&^bit), wBefore, wEnds)
	case wBefore:
		fork(!m.rules.lookBefore || stands, wManifest, wEnds)
	case wManifest:
		if s.sessions&bit != 0 && !m.rules.endsLast {
			step(func(n *pState, _ *pWriter) { n.sessions &^= bit })
			return
		}
		m.putManifest(s, i, step)
	case wDoubt:
		to(wManifest)
		fork(m.rules.keepInDoubt, wStays, wEnds)
	case wAfter:
		switch {
		case stands:
			step(good)
		default:
			fork(m.rules.longer, wLonger, wFails)
		}
	case wLonger:
		step(func(n *pState, w *pWriter) {
			if w.at = wAgainBegin; m.rules.newSession {
				m.begin(n, i)
			}
		})
	case wAgainBegin:
		list(wAgainEnd)
	case wAgainEnd:
		fork(!m.rules.listAgain || s.condemnedBy(w.list&s.condemnation)&w.use == 0, wAgainLook, wFails)
	case wAgainLook:
		fork(!m.rules.lookAtAll || there(w.use), wAgainSession, wFails)
	case wAgainSession:
		if !m.rules.newSession || stands {
			step(good)
		} else {
			to(wFails)
		}
	case wFails:
		step(func(n *pState, w *pWriter) { n.manifests &^= bit; w.at = wEnds })
	case wTold, wEnds:
		step(func(n *pState, w *pWriter) { n.sessions &^= bit; w.seen, w.at = 0, wDone })
	case wDead:
		if s.sessions&bit != 0 {
			step(func(n *pState, _ *pWriter) { n.sessions &^= bit })
		}
		if w.marks&(wasTold|wasAgain) == 0 && s.manifests&bit != 0 && m.rules.longer {
			step(func(_ *pState, w *pWriter) { w.marks |= wasAgain; w.at = wLonger })
		}
	}
}

// begin puts the session of writer i.
func (m *protocolCheck) begin(n *pState, i int) {
	n.ended &^= 1 << i // another session
	if n.sessions |= 1 << i; m.faults.stale {
		n.w[i].seen = n.packs
	}
}

// mishaps are the events that can happen to a writer in any state.
func (m *protocolCheck) mishaps(s pState, i int, step func(func(*pState, *pWriter))) {
	bit, w := uint8(1)<<i, s.w[i]
	if w.at > wPut && w.at < wTold { // later it ends its session next in any case
		if m.faults.operator && s.sessions&bit != 0 {
			step(func(n *pState, w *pWriter) { n.sessions &^= bit; w.marks |= wasRemoved })
		}
		if m.faults.mark && s.sessions&^s.ended&bit != 0 {
			step(func(n *pState, w *pWriter) { n.ended |= bit; w.marks |= wasRemoved })
		}
		if m.faults.crash {
			step(func(_ *pState, w *pWriter) {
				if w.at, w.list, w.seen = wDead, 0, 0; !m.faults.late {
					w.marks &^= onItsWay | packOnWay
				}
			})
		}
	}
	if w.marks&onItsWay != 0 {
		step(func(n *pState, w *pWriter) {
			n.manifests |= bit
			if w.marks &^= onItsWay; w.marks&wasExpired != 0 {
				w.marks |= wasRevived
			}
		})
	}
	if w.marks&packOnWay != 0 {
		step(func(n *pState, w *pWriter) { n.packs |= bit; w.marks &^= packOnWay })
	}
}

// choose ends the list of condemnations and decides which packs the backup uses. The list is
// as poor as possible: it has only the objects that were there from its begin to its end.
func (m *protocolCheck) choose(s pState, i int, step func(func(*pState, *pWriter))) {
	bit := uint8(1) << i
	avoid := s.condemnedBy(s.w[i].list & s.condemnation)
	use := func(packs uint8) {
		if m.rules.avoid && avoid&packs&^bit != 0 {
			return
		}
		step(func(n *pState, w *pWriter) {
			if !m.rules.sessionFirst {
				m.begin(n, i)
			}
			if w.list, w.use, w.at = 0, packs, wLook; packs&bit != 0 {
				w.at = wPack
			}
		})
	}
	use(bit)
	for p := range mostWriters + 1 + mostCollectors { // behind the first pack those into which chunks were moved
		if pack := uint8(1) << p; p != i && s.ever&pack != 0 {
			use(pack)
			use(pack | bit)
		}
	}
}

func (m *protocolCheck) putPack(i int, step func(func(*pState, *pWriter))) {
	bit := uint8(1) << i
	confirmed := func(n *pState, w *pWriter) {
		n.packs, n.ever, w.at = n.packs|bit, n.ever|bit, wLook
		for j := range n.w {
			if m.faults.stale && n.w[j].at > wPut && n.w[j].at < wDone {
				n.w[j].seen |= bit
			}
		}
	}
	step(confirmed)
	if m.faults.packs { // a repeated put is confirmed, and the first one arrives once more, some time
		step(func(n *pState, w *pWriter) { confirmed(n, w); w.marks |= packOnWay })
	}
}

func (m *protocolCheck) putManifest(s pState, i int, step func(func(*pState, *pWriter))) {
	bit := uint8(1) << i
	step(func(n *pState, w *pWriter) {
		if n.manifests, w.at = n.manifests|bit, wAfter; !m.rules.lookAfter {
			w.at, w.marks = wTold, w.marks|wasTold
		}
	})
	if m.faults.doubt && s.w[i].marks&onItsWay == 0 {
		step(func(n *pState, w *pWriter) { n.manifests |= bit; w.at = wDoubt })
		step(func(_ *pState, w *pWriter) { w.marks |= onItsWay; w.at = wDoubt })
	}
}

// collector lets collector i take each of the steps that it can take.
func (m *protocolCheck) collector(s pState, i int, out func(pState)) {
	bit, mine, c := uint8(1)<<i, uint8(firstCollector)<<i, s.c[i]
	step := func(f func(n *pState, c *pCollector)) {
		n := s
		f(&n, &n.c[i])
		out(n)
	}
	ended := func(rule bool) bool { return !rule || c.waits&s.sessions&^s.ended == 0 }
	if m.faults.operator && m.rules.takeOver && c.at > cPacks && c.at < cDone && s.sessions&mine != 0 {
		step(func(n *pState, _ *pCollector) { n.sessions &^= mine })
	}
	switch c.at {
	case cPacks:
		step(func(n *pState, c *pCollector) { n.sessions |= mine; c.condemned, c.at = n.packs, cSessions })
		for o := range s.c {
			if m.rules.takeOver && o != i && s.condemnation&(1<<o) != 0 && s.sessions&(firstCollector<<o) == 0 {
				step(func(n *pState, c *pCollector) {
					n.sessions, n.condemnation = n.sessions|mine, n.condemnation|bit
					c.condemned, c.ends, c.at = n.c[o].condemned, 1<<o, cTakes
				})
			}
		}
	case cTakes:
		step(func(n *pState, c *pCollector) { n.condemnation &^= c.ends; c.ends, c.at = 0, cSessionsAgain })
	case cSessions, cSessionsAgain, cSessionsLast:
		step(func(n *pState, c *pCollector) { c.waits = n.sessions &^ n.ended & writerSessions; c.at++ })
	case cManifests, cManifestsAgain:
		if ended(c.at == cManifests && m.rules.waitFirst || c.at == cManifestsAgain && m.rules.waitCondemned) {
			step(func(n *pState, c *pCollector) { c.waits, c.manifests = 0, n.manifests|n.moved<<relocations; c.at++ })
		}
	case cManifestsEnd:
		m.judges(s, i, step)
	case cMoveSession, cMovePack, cMoveRelocation, cMoveLook:
		m.moveChunks(s, i, step)
	case cCondemns:
		step(func(n *pState, c *pCollector) { n.condemnation |= bit; c.at = cSessionsAgain })
	case cManifestsAgainEnd:
		step(func(n *pState, c *pCollector) {
			c.manifests &= n.manifests | n.moved<<relocations
			if c.deletes, c.at = c.condemned, cReaders; m.rules.readAgain {
				c.deletes &^= m.named(n, c.manifests)
			}
			m.readsNeeds(n, c)
		})
	case cReaders:
		step(func(n *pState, c *pCollector) {
			if c.at++; m.rules.waitReaders && n.sessions&readerSession != 0 && c.manifests&(1<<n.reads) == 0 {
				c.waits = readerSession
			}
		})
	case cReadersWait:
		if ended(true) {
			step(func(_ *pState, c *pCollector) {
				if c.manifests, c.waits, c.at = 0, 0, cDeletes; c.moves {
					c.at = cMoveSession
				}
			})
		}
	case cDeletes:
		m.deletes(s, i, step)
	case cEnds:
		if ended(m.rules.waitGone) {
			step(func(n *pState, c *pCollector) {
				n.condemnation &^= c.ends
				n.sessions &^= mine
				if n.moved&bit != 0 { // its condemnation stays as long as its relocation
					*c = pCollector{at: cDone, condemned: firstPack, covers: c.covers}
					return
				}
				n.condemnation &^= bit
				*c = pCollector{at: cDone}
			})
		}
	}
}

// deletes lets collector i delete a pack, or look for condemnations that it ends.
func (m *protocolCheck) deletes(s pState, i int, step func(func(*pState, *pCollector))) {
	if left := s.c[i].deletes & s.packs; left != 0 {
		step(func(n *pState, _ *pCollector) { n.packs &^= lowest(left) })
		return
	}
	if s.c[i].over != 0 {
		step(func(n *pState, c *pCollector) { n.moved &^= c.over; c.over = 0 })
		return
	}
	step(func(n *pState, c *pCollector) {
		c.at = cSessionsLast
		for o := range n.c {
			packs := n.c[o].condemned
			ends := m.rules.sweep && packs&n.packs == 0 && (packs&firstPack == 0 || n.moved == 0 || m.rules.endMoved) || m.rules.endNamed && packs&^n.named(n.manifests) == 0
			if o != i && n.condemnation&(1<<o) != 0 && ends {
				c.ends |= 1 << o
			}
		}
	})
}
