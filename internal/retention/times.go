package retention

import (
	"fmt"
	"slices"
	"time"
)

// placed returns the times by which the rules place the backups, in UTC, and marks the backups
// whose times are wrong. all is in the order of the sequence numbers.
//
// A backup is odd when its time is in the future, before Holdfast existed, or contradicts the order
// of the backups by more than a day. placed takes as few times for wrong as possible: the other
// times do not contradict each other.
func placed(all []Verdict, now time.Time) []time.Time {
	times := make([]time.Time, len(all))
	var sane []int
	for i := range all {
		t := all[i].Backup.Time.UTC()
		times[i] = t
		switch {
		case t.After(now.Add(ahead)):
			all[i].Odd = "from the future: its time is " + t.Format(time.RFC3339)
		case t.Year() < firstYear:
			all[i].Odd = fmt.Sprintf("its time is before %d: %s", firstYear, t.Format(time.RFC3339))
		default:
			sane = append(sane, i)
		}
	}
	chain := rising(sane, times)
	in := make(map[int]bool, len(chain))
	for _, i := range chain {
		in[i] = true
	}
	next := 0 // index in chain of the first place behind i
	for _, i := range sane {
		if in[i] {
			next++
			continue
		}
		at := times[i]
		if next > 0 && at.Before(times[chain[next-1]]) {
			at = times[chain[next-1]]
		}
		if next < len(chain) && at.After(times[chain[next]]) {
			at = times[chain[next]]
		}
		if off := times[i].Sub(at).Abs(); off > drift {
			all[i].Odd = "its time contradicts the order of the backups: " + times[i].Format(time.RFC3339)
			continue
		}
		times[i] = at
	}
	for i := range all {
		if all[i].Odd != "" {
			times[i] = time.Time{}
		}
	}
	return times
}

// rising returns a longest run of the places whose times never go back.
func rising(places []int, times []time.Time) []int {
	var tops []int // of places: the end of the best run of each length
	before := make([]int, len(places))
	for n, i := range places {
		// index of the first run whose end is later
		k, _ := slices.BinarySearchFunc(tops, times[i], func(top int, t time.Time) int {
			if times[places[top]].After(t) {
				return 1
			}
			return -1
		})
		before[n] = -1
		if k > 0 {
			before[n] = tops[k-1]
		}
		if k == len(tops) {
			tops = append(tops, n)
		} else {
			tops[k] = n
		}
	}
	if len(tops) == 0 {
		return nil
	}
	var run []int
	for n := tops[len(tops)-1]; n >= 0; n = before[n] {
		run = append(run, places[n])
	}
	slices.Reverse(run)
	return run
}
