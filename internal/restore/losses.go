package restore

import (
	"path"
	"strings"

	"holdfast/internal/vault"
)

// A backup can lack content: its manifest counts the losses and names
// the first of them. A restore repeats the losses that concern its own
// files, so that nobody takes the restored tree for the whole tree.

// losses returns the losses of the backup that fall into the restored part of these volumes, and
// how many there are at most: nobody knows the places of losses that the manifest does not name.
func (r *run) losses(m *vault.Manifest, volumes []vault.Volume) (list []vault.Loss, count uint64) {
	restored := make(map[string]bool, len(volumes))
	for _, v := range volumes {
		restored[v.Name] = v.Kind != vault.KindImage || len(r.o.Include) == 0
	}
	pick := newPicker(r.o.Include)
	for _, l := range m.Losses {
		if restored[l.Volume] && pick.concerns(string(l.Path)) {
			list = append(list, l)
		}
	}
	count = uint64(len(list))
	if all := m.Lost + m.LostAccepted; all > uint64(len(m.Losses)) {
		count += all - uint64(len(m.Losses))
	}
	return list, count
}

// concerns says whether a loss at that path may touch the restored part: an entry that matches,
// or a folder above which a part is lost. A loss at "" is of the root, and touches all.
func (p *picker) concerns(lost string) bool {
	if lost == "" || !p.left(lost) {
		return true
	}
	depth := strings.Count(lost, "/") + 1
	for _, pat := range p.patterns {
		elements := strings.Split(strings.TrimPrefix(pat, "/"), "/")
		if len(elements) <= depth {
			continue
		}
		// An error means that a slash stands in brackets;
		// the matches of such a pattern are not worked out.
		if ok, err := path.Match(strings.Join(elements[:depth], "/"), lost); ok || err != nil {
			return true
		}
	}
	return false
}
