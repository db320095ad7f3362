package backup

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/seal"
)

// TestGovernor feeds the governor looks, one a second and two packs apart: a letter stands for
// the part of that second in which the workers waited. The result is the level after each look.
func TestGovernor(t *testing.T) {
	share := map[rune]float64{'w': 0.9, '.': 0, 'm': 0.3}
	for _, c := range []struct {
		name     string
		min, max seal.Level
		looks    string
		want     string
	}{
		{"a fast store", seal.Fastest, seal.Better, "........", "22222222"},
		{"a slow store", seal.Fastest, seal.Better, "wwwwwwww", "23344444"},
		{"a slow store within bounds", seal.Fastest, seal.Default, "wwwwwwww", "23333333"},
		{"one level", seal.Default, seal.Default, "wwww....", "33333333"},
		{"one slow moment", seal.Fastest, seal.Better, "w.w.mwmw", "22222222"},
		{"neither waits much", seal.Fastest, seal.Better, "wwmmmmmm", "23333333"},
		{"the store gets faster", seal.Fastest, seal.Better, "wwww..mm", "23343222"},
		{"a fast store, and S2 allowed", seal.S2, seal.Default, "........", "11111111"},
		{"a slow store, and S2 allowed", seal.S2, seal.Default, "wwwwwwww", "12233333"},
		{"the store gets faster, and S2 allowed", seal.S2, seal.Default, "wwwww...", "12233211"},
		{"never below the least", seal.Default, seal.Better, "ww....", "343333"},
	} {
		g := newGovernor(c.min, c.max)
		var got strings.Builder
		waited := time.Duration(0)
		for i, l := range c.looks {
			waited += time.Duration(share[l] * float64(time.Second))
			g.observe(time.Duration(i+1)*time.Second, int64(i+1)*lookPacks, waited, lookPacks)
			fmt.Fprint(&got, g.level.Load())
		}
		if got.String() != c.want {
			t.Errorf("%s: looks %s give levels %s, want %s", c.name, c.looks, got.String(), c.want)
		}
	}
}

// TestGovernorHoldsStill: where a level makes the cores busy and
// the one below leaves them idle, it changes ever more rarely.
func TestGovernorHoldsStill(t *testing.T) {
	g := newGovernor(seal.Fastest, seal.Default)
	waited := time.Duration(0)
	changes, last := 0, seal.Fastest
	for i := range 500 {
		if last == seal.Fastest {
			waited += time.Second
		}
		g.observe(time.Duration(i+1)*time.Second, int64(i+1)*lookPacks, waited, lookPacks)
		if l := seal.Level(g.level.Load()); l != last {
			changes, last = changes+1, l
		}
	}
	if changes < 4 || changes > 24 {
		t.Errorf("it changed %d times", changes)
	}
}

// TestGovernorLooksAtWholePacks: what happens while one pack is filled says nothing.
func TestGovernorLooksAtWholePacks(t *testing.T) {
	g := newGovernor(seal.Fastest, seal.Better)
	for i := range time.Duration(100) {
		g.observe(i*time.Second, lookPacks-1, i*time.Second, lookPacks)
	}
	if l := seal.Level(g.level.Load()); l != seal.Fastest {
		t.Errorf("level %s", l)
	}
}

// TestGovernorSeesBeyondBursts: five uploads at once end at once, and
// the five packs that are filled then say nothing of the wait before.
func TestGovernorSeesBeyondBursts(t *testing.T) {
	g := newGovernor(seal.Fastest, seal.Default)
	now, waited := time.Duration(0), time.Duration(0)
	for i := range 60 {
		now += 100 * time.Millisecond // to fill one
		if i%5 == 0 && i > 0 {
			now, waited = now+5*time.Second, waited+5*time.Second
		}
		g.observe(now, int64(i), waited, 5)
		if l := seal.Level(g.level.Load()); i > 20 && l != seal.Default {
			t.Fatalf("pack %d: level %s", i, l)
		}
	}
}
