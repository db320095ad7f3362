package restore

import (
	"path"
	"strings"

	"holdfast/internal/tree"
)

// picker decides which entries are restored. Entries come in the order of the walk.
type picker struct {
	patterns []string
	above    []*tree.Entry // folders above the entry at hand that were not restored
	taken    string        // folder whose whole content is wanted, or "" (with inTaken)
	inTaken  bool
}

func newPicker(patterns []string) *picker {
	return &picker{patterns: patterns}
}

// want says whether e is restored, and which folders above it must be made before.
func (p *picker) want(e *tree.Entry) (parents []*tree.Entry, ok bool) {
	if len(p.patterns) == 0 || e.Path == "" {
		return nil, true
	}
	if p.inTaken && strings.HasPrefix(e.Path, p.taken+"/") {
		return nil, true
	}
	p.inTaken = false
	for len(p.above) > 0 && !strings.HasPrefix(e.Path, p.above[len(p.above)-1].Path+"/") {
		p.above = p.above[:len(p.above)-1]
	}
	if !p.matches(e.Path) {
		if e.Kind == tree.Dir {
			c := *e
			p.above = append(p.above, &c)
		}
		return nil, false
	}
	if e.Kind == tree.Dir {
		p.taken, p.inTaken = e.Path, true
	}
	for _, a := range p.above {
		if a.Path != "" {
			parents = append(parents, a)
		}
	}
	p.above = nil // they are made now
	return parents, true
}

func (p *picker) matches(name string) bool {
	for _, pat := range p.patterns {
		// the CLI checked the patterns
		if ok, _ := path.Match(strings.TrimPrefix(pat, "/"), name); ok {
			return true
		}
	}
	return false
}

// left says whether an entry of that path that is no folder is left out: neither it nor
// a folder above it matches. It is worked out and not remembered, since millions may be.
func (p *picker) left(name string) bool {
	if len(p.patterns) == 0 {
		return false
	}
	for i := range len(name) {
		if name[i] == '/' && p.matches(name[:i]) {
			return false
		}
	}
	return !p.matches(name)
}
