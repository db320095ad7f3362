package job

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOrderOfTheLine(t *testing.T) {
	soon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := newSlots(1)
	first := s.join(place{command: "first"})
	var line []*ticket
	for i, p := range []place{
		{command: "big"},
		{command: "big"},
		{command: "big"},
		{command: "small"},
		{command: "late", deadline: soon.Add(time.Hour), bytes: 1},
		{command: "urgent3", deadline: soon, bytes: 300},
		{command: "urgent1", deadline: soon, bytes: 100},
		{command: "urgent2", deadline: soon, bytes: 200},
	} {
		p.seq = uint64(i + 1)
		line = append(line, s.join(p))
	}
	gone := s.join(place{command: "gone", deadline: soon.Add(-time.Hour)})
	if got := s.waiting(); got != len(line)+1 {
		t.Errorf("%d wait", got)
	}
	gone.leave()
	first.leave()
	var order []string
	for s.waiting() > 0 || len(order) < len(line) {
		i := slices.IndexFunc(line, func(l *ticket) bool {
			select {
			case <-l.ready:
				return !l.gone
			default:
				return false
			}
		})
		order = append(order, line[i].place.command)
		if len(order) == 6 {
			// It comes when "big" has had a turn, and does not catch up on missed turns.
			line = append(line, s.join(place{command: "new", seq: 20}), s.join(place{command: "new", seq: 21}))
		}
		line[i].leave()
		line[i].leave() // once
	}
	got := strings.Join(order, " ")
	if want := "urgent1 urgent2 urgent3 late big small new big new big"; got != want {
		t.Errorf("order is %s, want %s", got, want)
	}
	forced, second := s.take(place{command: "held"}), s.take(place{command: "held"})
	if s.idle() != 0 {
		t.Errorf("%d idle", s.idle())
	}
	forced.leave()
	second.leave()
	if s.idle() != 1 || len(s.commands) != 0 {
		t.Errorf("at the end %d idle, %v", s.idle(), s.commands)
	}
	var none *ticket
	none.leave()
}

// Restores go before backups, also before those with a deadline; a
// place in the line says how many are before it.
func TestRestoresGoFirst(t *testing.T) {
	s := newSlots(1)
	first := s.join(place{command: "first"})
	urgent := s.join(place{command: "urgent", deadline: time.Unix(1, 0), seq: 1})
	backup := s.join(place{command: "backup", seq: 2})
	one := s.join(place{command: "restore", restore: true, seq: 3})
	two := s.join(place{command: "restore", restore: true, seq: 4})
	for want, l := range []*ticket{one, two, urgent, backup} {
		if got := s.ahead(l); got != want {
			t.Errorf("before %s are %d, want %d", l.place.command, got, want)
		}
	}
	if s.ahead(first) != 0 {
		t.Error("someone is before the one at work")
	}
	first.leave()
	select {
	case <-one.ready:
	default:
		t.Error("the restore was not the next")
	}
	for _, l := range []*ticket{one, two, urgent, backup} {
		l.leave()
	}
}

// Large instances leave a quarter of the slots to the others, also when
// the large ones came first; where there are few slots none is kept free.
func TestSmallComesOnBesideLarge(t *testing.T) {
	ready := func(l *ticket) bool {
		select {
		case <-l.ready:
			return true
		default:
			return false
		}
	}
	for n, most := range map[int]int{1: 1, 3: 3, 4: 3, 8: 6} {
		s := newSlots(n)
		var large []*ticket
		for i := range 2 * n {
			large = append(large, s.join(place{command: "large", bytes: largeInstance, seq: uint64(i)}))
		}
		var got []*ticket
		for _, l := range large {
			if ready(l) {
				got = append(got, l)
			}
		}
		if len(got) != most {
			t.Errorf("of %d slots large ones have %d, want %d", n, len(got), most)
		}
		for i := range 3 * n { // each of them in turn, and of those whose size is not known
			small := s.join(place{command: "small", bytes: []uint64{1, unknownSize, largeInstance - 1}[i%3], seq: uint64(100 + i)})
			if ready(small) != (most < n) {
				t.Errorf("of %d slots, a small one has its turn at once: %v", n, ready(small))
			}
			small.leave()
		}
		got[0].leave()
		if !ready(large[most]) {
			t.Errorf("of %d slots, a large one does not take the place of another", n)
		}
		for _, l := range large {
			l.leave()
		}
		if s.idle() != n || s.large != most || len(s.commands) != 0 {
			t.Errorf("at the end %d idle, %d for large ones, %v", s.idle(), s.large, s.commands)
		}
	}
}
