package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// The names of an instance's backups say how the backups came from each other: each name holds the
// tag of the parent, and the tag of the backup with which its branch begins. Retention removes
// backups from the middle, so links from parent to parent alone would break: within a branch each
// backup descends from all earlier ones, whichever of them are still there.

// Lineage is how the backups of one instance came from each other. It does not change, and may be
// used by any number of goroutines.
type Lineage struct {
	refs     []BackupRef
	branch   []string            // of each of refs, as it turned out; see branchOf
	members  map[string][]int    // branch -> its backups, by sequence number
	branches []string            // in the order of their first backups
	tags     map[string][]int    // tag -> the backups with it, by sequence number
	twins    map[string][]string // what followed gives -> tags of the backups for which it is the same
	over     map[string]Decision // ids of heads over which another one was accepted, and the decision
}

// LineageOf is the lineage of the backups of one instance, which
// Backups gave, without the decisions about forks; see Vault.Lineage.
func LineageOf(refs []BackupRef) *Lineage {
	l := &Lineage{refs: refs, branch: make([]string, len(refs)), members: map[string][]int{}, over: map[string]Decision{}, tags: map[string][]int{}, twins: map[string][]string{}}
	for i, r := range refs {
		l.tags[r.Tag] = append(l.tags[r.Tag], i)
		if !r.Begins {
			l.twins[followed(r)] = append(l.twins[followed(r)], r.Tag)
		}
	}
	for i, r := range refs {
		b := l.branchOf(r)
		l.branch[i] = b
		if l.members[b] == nil {
			l.branches = append(l.branches, b)
		}
		l.members[b] = append(l.members[b], i)
	}
	return l
}

// Lineage returns the lineage of an instance, with the decisions about its forks.
func (v *Vault) Lineage(ctx context.Context, instance string) (*Lineage, error) {
	refs, err := v.Backups(ctx, instance)
	if err != nil {
		return nil, err
	}
	return v.lineageOf(ctx, instance, refs)
}

// lineageOf is Lineage of a list. It reads decisions only where there is something to decide.
func (v *Vault) lineageOf(ctx context.Context, instance string, refs []BackupRef) (*Lineage, error) {
	l := LineageOf(refs)
	if len(l.Heads()) < 2 {
		return l, nil
	}
	decided, err := v.Decisions(ctx, instance)
	if err != nil {
		return nil, err
	}
	for _, d := range decided {
		l.decide(d)
	}
	return l, nil
}

// find returns the place of the backup with that sequence number and tag.
func (l *Lineage) find(seq uint64, tag string) (int, bool) {
	for _, i := range l.tags[tag] {
		if l.refs[i].Seq == seq {
			return i, true
		}
	}
	return 0, false
}

// branchOf tells the branch of a backup, also of a backup that is not in the list. Two
// hosts may have continued one branch at the same moment, without seeing each other: each
// of the two begins a branch then, and later backups belong to the branch of their parent.
func (l *Lineage) branchOf(r BackupRef) string {
	if r.Begins || l.twin(r) {
		return r.Tag
	}
	return l.branchOfParent(r)
}

// branchOfParent tells on which branch the parent of a backup is.
func (l *Lineage) branchOfParent(r BackupRef) string {
	if p, ok := l.find(r.ParentSeq, r.ParentTag); ok && l.branch[p] != "" {
		return l.branch[p]
	}
	return r.BranchTag
}

// twin tells whether another backup continues the same branch from the same parent.
func (l *Lineage) twin(r BackupRef) bool {
	of := l.twins[followed(r)]
	return !r.Begins && slices.ContainsFunc(of, func(tag string) bool { return tag != r.Tag })
}

// followed is what two backups have in common that continue one branch from one parent.
func followed(r BackupRef) string {
	return fmt.Sprintf("%d %s %s", r.ParentSeq, r.ParentTag, r.BranchTag)
}

// Refs returns the backups, oldest first. The slice is the caller's.
func (l *Lineage) Refs() []BackupRef { return slices.Clone(l.refs) }

// Branch names the branch that the backup of that id is on; "" where the id is none.
func (l *Lineage) Branch(id string) string {
	b, ok := idRef(id)
	if !ok {
		return ""
	}
	return l.branchOf(b)
}

// Branches counts the branches of which backups are there.
func (l *Lineage) Branches() int { return len(l.branches) }

// Parent returns the parent of a backup; false where it has none, or the parent is not there.
func (l *Lineage) Parent(r BackupRef) (BackupRef, bool) {
	i, ok := l.find(r.ParentSeq, r.ParentTag)
	if !ok {
		return BackupRef{}, false
	}
	return l.refs[i], true
}

// Descends tells whether the backup of the one id holds all that the other one,
// the ancestor, held: the ancestor is on its chain of parents, or is the same.
// Neither needs to be in the list. Where a backup is missing with which a branch
// begins, it is not known from which branch that one came, and the answer is no.
func (l *Lineage) Descends(id, ancestor string) bool {
	of, ok := idRef(id)
	from, aok := idRef(ancestor)
	switch {
	case !ok || !aok:
		return false
	case id == ancestor:
		return true
	case from.Seq >= of.Seq:
		return false
	}
	branch, wanted, limit := l.branchOf(of), l.branchOf(from), of.Seq
	for range len(l.branches) + 2 { // each turn goes to another branch
		if branch == wanted {
			return from.Seq <= limit
		}
		first := of
		if of.Tag != branch {
			i, ok := l.first(branch)
			if !ok {
				return false
			}
			first = l.refs[i]
		}
		switch {
		case first.ParentTag == "":
			return false
		case first.ParentTag == from.Tag && first.ParentSeq == from.Seq:
			return true
		}
		of = BackupRef{}
		branch, limit = l.branchOfParent(first), first.ParentSeq
	}
	return false
}

// first returns the place of the backup with which a branch begins.
func (l *Lineage) first(branch string) (int, bool) {
	of := l.members[branch]
	if len(of) == 0 || l.refs[of[0]].Tag != branch {
		return 0, false
	}
	return of[0], true
}

// newestOfBranches returns the newest complete backup of each branch.
func (l *Lineage) newestOfBranches() (last []BackupRef) {
	for _, b := range l.branches {
		of := l.members[b]
		for i := len(of) - 1; i >= 0; i-- {
			if r := l.refs[of[i]]; !r.Incomplete {
				last = append(last, r)
				break
			}
		}
	}
	return last
}

// Tips returns the complete backups from which no other complete one descends,
// with or without a decision about them, in the order of their sequence numbers.
func (l *Lineage) Tips() []BackupRef {
	last := l.newestOfBranches()
	tips := slices.DeleteFunc(slices.Clone(last), func(r BackupRef) bool {
		return slices.ContainsFunc(last, func(o BackupRef) bool { return o.ID != r.ID && l.Descends(o.ID, r.ID) })
	})
	slices.SortFunc(tips, func(a, b BackupRef) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID)) })
	return tips
}

// Heads returns the tips that may be the newest backup: all but those over which another one was
// accepted. One head is the newest backup; several are a fork of which nobody has decided yet.
func (l *Lineage) Heads() []BackupRef {
	tips := l.Tips()
	heads := slices.DeleteFunc(slices.Clone(tips), l.gaveWay)
	if len(heads) == 0 {
		return tips
	}
	return heads
}

// gaveWay tells whether another backup was accepted over a tip.
func (l *Lineage) gaveWay(tip BackupRef) bool {
	_, gave := l.over[tip.ID]
	return gave
}

// Newest returns the only head. ErrNoBackup, ErrOnlyIncomplete, *ForkError.
func (l *Lineage) Newest() (BackupRef, error) {
	heads := l.Heads()
	switch {
	case len(l.refs) == 0:
		return BackupRef{}, ErrNoBackup
	case len(heads) == 0:
		return BackupRef{}, ErrOnlyIncomplete
	case len(heads) > 1:
		return BackupRef{}, &ForkError{Instance: heads[0].Instance, Refs: heads}
	}
	return heads[0], nil
}

// Fork returns the heads from which the backup of that id does not descend. A new
// backup of content from that backup would lack their content; all heads with "".
func (l *Lineage) Fork(id string) []BackupRef {
	return slices.DeleteFunc(l.Heads(), func(r BackupRef) bool { return l.Descends(id, r.ID) })
}

// Keep names the backups that retention must not remove, each with the reason in words:
// the newest backup of each branch, so that no branch is forgotten before a person names it,
// and nobody continues a branch before its end, where others have branched off;
// the first backup of each branch, which says from which other branch it came;
// and the backups on whose presence the branch of another backup depends.
func (l *Lineage) Keep() map[string]string {
	keep := map[string]string{}
	// A backup made while a twin of an ancestor was still under way names the branch from before
	// the twin. Only the chain of parents up to the ancestor tells the right branch.
	for i, r := range l.refs {
		p, ok := l.find(r.ParentSeq, r.ParentTag)
		if !ok || l.branch[p] == r.BranchTag {
			continue
		}
		keep[l.refs[p].ID] = tellsBranch
		if l.branch[i] == l.branch[p] {
			keep[r.ID] = tellsBranch
		}
	}
	for _, b := range l.branches {
		if i, ok := l.first(b); ok && l.refs[i].ParentTag != "" {
			keep[l.refs[i].ID] = "a branch begins with it"
		}
	}
	for _, t := range l.newestOfBranches() {
		keep[t.ID] = "it is the newest of its branch"
	}
	return keep
}

// tellsBranch is the reason to keep a backup that later backups need to find their branch.
const tellsBranch = "only it tells on which branch later backups are"

// NewID returns an id for a backup of that parent, which may be missing in the list; ""
// is none. The backup continues the branch of its parent where the parent is the last of
// the branch, and begins a branch elsewhere. The other parameters are as for NewBackupID.
func (l *Lineage) NewID(seq uint64, t time.Time, parent string, incomplete bool) string {
	p, ok := idRef(parent)
	if !ok {
		return NewBackupID(seq, t, incomplete)
	}
	branch := l.branchOf(p)
	begins := slices.ContainsFunc(l.refs, func(o BackupRef) bool {
		follows := o.ParentTag == p.Tag && o.ParentSeq == p.Seq
		return o.ID != p.ID && (follows || o.Seq >= p.Seq && l.branchOf(o) == branch)
	})
	return newBackupID(seq, t, p, branch, begins, incomplete)
}

// decide applies a decision: the named heads from which the accepted backup does not
// descend give way, as long as the accepted backup, or a descendant of it, is there.
func (l *Lineage) decide(d Decision) {
	stands := func(r BackupRef) bool { return l.Descends(r.ID, d.Backup) || l.Descends(d.Backup, r.ID) }
	tips := l.Tips()
	if !slices.ContainsFunc(tips, func(r BackupRef) bool { return l.Descends(r.ID, d.Backup) }) {
		return
	}
	for _, t := range tips {
		switch {
		case stands(t):
			delete(l.over, t.ID)
		case slices.ContainsFunc(d.Over, func(o string) bool { return l.Descends(o, t.ID) }):
			l.over[t.ID] = d
		}
	}
}

// SeqOf returns the sequence number that the id of a backup says; 0 where it is no id.
func SeqOf(id string) uint64 {
	r, _ := parseBackupID(id)
	return r.Seq
}

// idRef is RefOf of an id alone.
func idRef(id string) (BackupRef, bool) { return RefOf("i", id) }

// follows tells whether the backup of that id, or none with "", is the parent that r names.
func (r BackupRef) follows(parent string) bool {
	if parent == "" {
		return r.ParentTag == ""
	}
	p, ok := parseBackupID(parent)
	return ok && p.Tag == r.ParentTag && p.Seq == r.ParentSeq
}
