package job

import "testing"

// TestLentSlots: slots that are lent count, but for one: where all that a job could have are lent,
// it gets one, and no other does meanwhile. Large instances, which may not have all slots, do not
// wait for ever either.
func TestLentSlots(t *testing.T) {
	has := func(t *ticket) bool {
		select {
		case <-t.ready:
			return true
		default:
			return false
		}
	}
	s := newSlots(4)
	large, small := place{command: "large", bytes: largeInstance}, place{command: "small", bytes: 1}
	var stuck []*ticket
	for range 3 {
		stuck = append(stuck, s.join(large))
	}
	first := s.join(large)
	if has(first) {
		t.Error("a fourth large instance has a slot")
	}
	for _, one := range stuck {
		one.lend()
		one.lend()
	}
	if !has(first) {
		t.Error("a large instance waits, although all others are stuck")
	}
	second, third := s.join(large), s.join(small)
	if has(second) || has(third) {
		t.Error("more than the free slot was given, while one works")
	}
	first.lend()
	if has(second) == has(third) {
		t.Errorf("with all stuck, of two one has a slot: %v, %v", has(second), has(third))
	}
	var nobody *ticket
	nobody.lend()
	nobody.reclaim()
	waiting := s.join(small)
	waiting.lend() // has none
	for _, one := range append(stuck, first) {
		one.reclaim()
		one.lend()
		one.leave()
		one.lend()
	}
	for _, one := range []*ticket{second, third, waiting} {
		if !has(one) {
			t.Error("a job waits, although slots are free")
		}
		one.leave()
	}
	if s.free != 4 || s.large != 3 || s.lent != 0 || s.lentLarge != 0 || len(s.line) != 0 {
		t.Errorf("in the end: %d free, %d for large ones, %d and %d lent, %d wait", s.free, s.large, s.lent, s.lentLarge, len(s.line))
	}
}
