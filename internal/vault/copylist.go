package vault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast/internal/obs"
)

// packRefs lists the packs of the vault in the order of their ids, 24 bytes of memory each.
func (v *Vault) packRefs(ctx context.Context) (refs []PackRef, err error) {
	err = v.listPacks(ctx, "", func(id PackID, info obs.Info) { refs = append(refs, PackRef{ID: id, Size: info.Size}) })
	return sortedRefs(refs), err
}

// segmentRefs lists the index segments of the vault in the order of their ids.
func (v *Vault) segmentRefs(ctx context.Context) (refs []PackRef, err error) {
	listed, err := v.index().List(ctx)
	for id, size := range listed {
		refs = append(refs, PackRef{ID: PackID(id), Size: size})
	}
	return sortedRefs(refs), err
}

func compareRefIDs(a, b PackRef) int { return bytes.Compare(a.ID[:], b.ID[:]) }

// sortedRefs sorts refs and leaves each id once.
func sortedRefs(refs []PackRef) []PackRef {
	slices.SortFunc(refs, compareRefIDs)
	return slices.CompactFunc(refs, func(a, b PackRef) bool { return a.ID == b.ID })
}

// findRef returns the entry of that id in a sorted list.
func findRef(refs []PackRef, id PackID) (PackRef, bool) {
	i, found := slices.BinarySearchFunc(refs, id, func(r PackRef, id PackID) int { return bytes.Compare(r.ID[:], id[:]) })
	if !found {
		return PackRef{}, false
	}
	return refs[i], true
}

// refsCompared is the comparison of two sorted lists.
type refsCompared struct {
	missing []PackRef // in the first list only
	other   []PackRef // in both with different sizes, as the first list has them
	same    int       // in both, with the same size
	extra   []PackRef // in the second list only
}

func comparePackRefs(from, to []PackRef) (d refsCompared) {
	for len(from) > 0 || len(to) > 0 {
		var order int
		switch {
		case len(to) == 0:
			order = -1
		case len(from) == 0:
			order = 1
		default:
			order = compareRefIDs(from[0], to[0])
		}
		switch {
		case order < 0:
			d.missing = append(d.missing, from[0])
			from = from[1:]
		case order > 0:
			d.extra = append(d.extra, to[0])
			to = to[1:]
		default:
			if from[0].Size == to[0].Size {
				d.same++
			} else {
				d.other = append(d.other, from[0])
			}
			from, to = from[1:], to[1:]
		}
	}
	return d
}

func backupName(r BackupRef) string { return r.Instance + "/" + r.ID }

func backupSet(refs []BackupRef) map[string]bool {
	set := make(map[string]bool, len(refs))
	for _, r := range refs {
		set[backupName(r)] = true
	}
	return set
}

// backupsWithout returns the backups of a list that are not in the set.
func backupsWithout(refs []BackupRef, set map[string]bool) []BackupRef {
	return slices.DeleteFunc(slices.Clone(refs), func(r BackupRef) bool { return set[backupName(r)] })
}

// newestFirst puts the newest backup of each instance first, then the second newest
// of each, and so on. The groups of the result have one backup of an instance each.
func newestFirst(refs []BackupRef) (groups [][]BackupRef) {
	byInstance := map[string][]BackupRef{}
	for _, r := range refs {
		byInstance[r.Instance] = append(byInstance[r.Instance], r)
	}
	for _, all := range byInstance {
		slices.SortFunc(all, func(a, b BackupRef) int { return cmp.Or(cmp.Compare(b.Seq, a.Seq), cmp.Compare(b.ID, a.ID)) })
		for rank, r := range all {
			if rank == len(groups) {
				groups = append(groups, nil)
			}
			groups[rank] = append(groups[rank], r)
		}
	}
	return groups
}

// standing counts the objects in a folder of the vault, up to a few.
func (v *Vault) standing(ctx context.Context, folder string) (n int, err error) {
	for _, err := range v.st.List(ctx, v.info.ID+"/"+folder+"/") {
		if err != nil {
			return n, fmt.Errorf("list %s: %w", folder, err)
		}
		if n++; n == maxStanding {
			break
		}
	}
	return n, nil
}

// maxStanding is as far as standing counts.
const maxStanding = 1000
