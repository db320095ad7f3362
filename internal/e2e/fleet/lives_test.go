package fleet_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// life holds the records that one life of a phone found
// when it began, and the records that it told the outside.
type life struct {
	id, host string
	count    int   // records that it found
	began    int64 // nanoseconds
	found    string
	first    int // the first record that it told, and the last; first is -1 for none
	last     int
}

// lives reads the lives of a phone on all hosts, in order.
func (p *phone) lives() ([]*life, error) {
	var all []*life
	byID := map[string]*life{}
	for _, h := range p.f.hosts {
		starts, err := lines(filepath.Join(p.dir(h), "starts"))
		if err != nil {
			return nil, err
		}
		for _, line := range starts {
			l := &life{host: h.name, first: -1, last: -1}
			f := strings.SplitN(line, " ", 4)
			if len(f) != 4 {
				return nil, fmt.Errorf("%s: a start is %q", p.id, line)
			}
			l.id, l.found = f[0], f[3]
			if _, err := fmt.Sscan(f[1]+" "+f[2], &l.count, &l.began); err != nil {
				return nil, fmt.Errorf("%s: a start is %q: %w", p.id, line, err)
			}
			all = append(all, l)
			byID[l.id] = l
		}
	}
	slices.SortFunc(all, func(a, b *life) int { return int(min(max(a.began-b.began, -1), 1)) })
	for _, h := range p.f.hosts {
		told, err := lines(filepath.Join(p.dir(h), "told"))
		if err != nil {
			return nil, err
		}
		for _, line := range told {
			var n int
			var id string
			if _, err := fmt.Sscan(line, &n, &id); err != nil || byID[id] == nil {
				if byID[id] == nil && err == nil {
					continue // it began after the starts were read
				}
				return nil, fmt.Errorf("%s told %q", p.id, line)
			}
			l := byID[id]
			if l.first < 0 {
				l.first = n
			}
			l.last = n
		}
	}
	return all, nil
}

// lines reads the whole lines of a file that another process may be
// writing; a file that is not there has none.
func lines(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	end := strings.LastIndexByte(string(text), '\n')
	if end < 0 {
		return nil, nil
	}
	return strings.Split(string(text[:end]), "\n"), nil
}

// compareLives looks whether the lives of each phone are one after the other: each found
// all that the outside had been told before, and its volume whole. A fault is told once.
func (f *fleet) compareLives() {
	records, starts := 0, 0
	for _, p := range f.phones {
		all, err := p.lives()
		if err != nil {
			f.found("%v", err)
			continue
		}
		told := 0 // records that the outside knows
		for _, l := range all {
			starts++
			fault := ""
			switch {
			case l.found != "ok":
				fault = "found " + l.found
			case l.count < told:
				fault = fmt.Sprintf("found %d records where %d had been told: %d were lost", l.count, told, told-l.count)
			case l.count > told+1: // one record may be durable that its life had no time to tell
				fault = fmt.Sprintf("found %d records where %d had been told", l.count, told)
			case l.first >= 0 && l.first != l.count:
				fault = fmt.Sprintf("found %d records and went on with %d", l.count, l.first)
			}
			if fault != "" && f.trail.once(p.id+l.id) {
				f.found("%s, life %s on %s: %s", p.id, l.id, l.host, fault)
			}
			told = max(told, l.last+1)
		}
		records += told
	}
	f.trail.set("records told", records)
	f.trail.set("lives", starts)
}
