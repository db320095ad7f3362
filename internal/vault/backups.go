package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The order of an instance's backups, and which of them is the newest. A sequence number
// orders them, never a clock: the clocks of two hosts differ, and any clock may be wrong.

// BackupRef names a backup. Everything but the size follows from
// its id, which is authentic once the manifest was opened.
type BackupRef struct {
	Instance string `json:"instance"`
	ID       string `json:"id"`
	Seq      uint64 `json:"sequence"`
	// Tag and ParentTag are in short the backup itself and its parent,
	// "" without one. ParentSeq is the sequence number of the parent.
	Tag       string `json:"-"`
	ParentTag string `json:"-"`
	ParentSeq uint64 `json:"-"`
	// BranchTag is in short the backup with which the branch of the parent begins,
	// and Begins says that this backup begins a branch of its own; see Lineage.
	BranchTag string `json:"-"`
	Begins    bool   `json:"-"`
	// when it began, by its writer's clock; for people only
	Time       time.Time `json:"time"`
	Incomplete bool      `json:"incomplete"` // it lacks content that nobody agreed to lose
	Size       int64     `json:"-"`          // of the manifest, bytes
}

const (
	idTime = "20060102T150405Z"
	// maxSeq is the greatest sequence number that an id can hold.
	maxSeq         = 99_999_999
	forkMark       = "-fork"
	incompleteMark = "-incomplete"
)

var backupPattern = regexp.MustCompile(`^([0-9]{8})-([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{16})-([0-9]{8})([0-9a-f]{8})-([0-9a-f]{8})(-fork)?(-incomplete)?$`)

// noTag is in an id the tag of the parent, and of its branch, of a backup without a parent.
const noTag = "00000000"

// parseBackupID reads what NewBackupID and Lineage.NewID wrote.
func parseBackupID(id string) (BackupRef, bool) {
	m := backupPattern.FindStringSubmatch(id)
	if m == nil {
		return BackupRef{}, false
	}
	t, err := time.Parse(idTime, m[2])
	seq, serr := strconv.ParseUint(m[1], 10, 64)
	of, perr := strconv.ParseUint(m[4], 10, 64)
	r := BackupRef{
		ID: id, Seq: seq, Time: t, Tag: m[3][:len(noTag)], ParentTag: m[5], ParentSeq: of, BranchTag: m[6], Begins: m[7] != "", Incomplete: m[8] != "",
	}
	none := r.ParentTag == noTag
	switch {
	case err != nil || serr != nil || perr != nil || seq == 0 || r.Tag == noTag:
		return BackupRef{}, false
	case none != (r.ParentSeq == 0) || none != (r.BranchTag == noTag) || r.ParentSeq >= seq || none && r.Begins:
		return BackupRef{}, false
	case none:
		r.ParentTag, r.BranchTag, r.Begins = "", r.Tag, true
	}
	return r, true
}

// NewBackupID returns an id for a backup that has that sequence number, which is 1 for the first
// one of an instance, and no parent; Lineage.NewID returns the id of a backup with a parent. Ids of
// one instance sort by the number, and are unique without asking anybody. t is for people.
// incomplete says that the backup lacks content that nobody agreed to lose.
func NewBackupID(seq uint64, t time.Time, incomplete bool) string {
	return newBackupID(seq, t, BackupRef{}, "", false, incomplete)
}

// newBackupID makes an id. branch is the one of the parent, which begins says not to continue.
func newBackupID(seq uint64, t time.Time, parent BackupRef, branch string, begins, incomplete bool) string {
	own := noTag
	for strings.HasPrefix(own, noTag) {
		var r [8]byte
		_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
		own = hex.EncodeToString(r[:])
	}
	id := fmt.Sprintf("%08d-%s-%s-%08d%s-%s", seq, t.UTC().Format(idTime), own, parent.Seq, cmp.Or(parent.Tag, noTag), cmp.Or(branch, noTag))
	if begins {
		id += forkMark
	}
	if incomplete {
		id += incompleteMark
	}
	return id
}

// RefOf returns the reference to the backup of that id; false when it has not the form of an id.
func RefOf(instance, id string) (BackupRef, bool) {
	r, ok := parseBackupID(id)
	if !ok || CheckInstance(instance) != nil {
		return BackupRef{}, false
	}
	r.Instance = instance
	return r, true
}

// Backups lists the backups of an instance, or of all instances with "": by instance, and within an
// instance in the order of their sequence numbers, the oldest first.
func (v *Vault) Backups(ctx context.Context, instance string) ([]BackupRef, error) {
	prefix := v.backupsPrefix()
	if instance != "" {
		if err := CheckInstance(instance); err != nil {
			return nil, err
		}
		prefix += instance + "/"
	}
	var refs []BackupRef
	for info, err := range v.st.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		inst, id, ok := strings.Cut(strings.TrimPrefix(info.Key, v.backupsPrefix()), "/")
		if !ok {
			continue // not ours
		}
		if ref, ok := RefOf(inst, id); ok {
			ref.Size = info.Size
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, func(a, b BackupRef) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID))
	})
	return refs, nil
}

// ForkError says that an instance has several newest backups: hosts made each of them on top of
// an earlier backup of the instance, and none holds the content of the others. Only a person,
// or the control plane, can decide which of them continues the instance; see Vault.Accept.
type ForkError struct {
	Instance string
	Refs     []BackupRef // the heads, in the order of their sequence numbers
}

func (e *ForkError) Error() string {
	ids := make([]string, len(e.Refs))
	for i, r := range e.Refs {
		ids[i] = r.ID
	}
	return fmt.Sprintf("instance %s has %d newest backups, of which none holds what the others hold (%s): name the one to take",
		e.Instance, len(ids), strings.Join(ids, ", "))
}

// ErrOnlyIncomplete says that all backups of an instance lack content. It is an ErrNoBackup.
var ErrOnlyIncomplete = fmt.Errorf("%w that is complete", ErrNoBackup)

// Newest returns the newest complete backup of an instance: the only head of its lineage. Only Find
// returns an incomplete one, for who asks for it by id. ErrNoBackup, ErrOnlyIncomplete, *ForkError.
func (v *Vault) Newest(ctx context.Context, instance string) (BackupRef, error) {
	l, err := v.Lineage(ctx, instance)
	if err != nil {
		return BackupRef{}, err
	}
	ref, err := l.Newest()
	switch {
	case errors.Is(err, ErrOnlyIncomplete):
		return BackupRef{}, fmt.Errorf("%w: the newest of instance %s in vault %s (%s) is %s",
			err, instance, v.info.Name, v.st, l.refs[len(l.refs)-1].ID)
	case errors.Is(err, ErrNoBackup):
		return BackupRef{}, fmt.Errorf("%w: instance %s has none in vault %s (%s)", err, instance, v.info.Name, v.st)
	}
	return ref, err
}

// Find returns the backup of that id, of the instance, or of any with instance "". ErrNoBackup.
func (v *Vault) Find(ctx context.Context, instance, id string) (BackupRef, error) {
	refs, err := v.Backups(ctx, instance)
	if err != nil {
		return BackupRef{}, err
	}
	for _, r := range refs {
		if r.ID == id {
			return r, nil
		}
	}
	return BackupRef{}, fmt.Errorf("%w: %q in vault %s (%s)", ErrNoBackup, id, v.info.Name, v.st)
}

// NextSeq returns the sequence number of a backup that follows the backups of the list,
// which Backups gave of the instance, and the id of the last of them, "" when there is
// none: the parent of a backup with content of unknown origin. Backups of this process
// that may come to be stored late (see Settle) count as if they were in the list.
func (v *Vault) NextSeq(instance string, refs []BackupRef) (seq uint64, parent string, err error) {
	taken, late := v.ledger.seqTaken(instance)
	if len(refs) == 0 {
		return taken + 1, late.ID, nil
	}
	last := refs[len(refs)-1]
	if last.Seq >= maxSeq {
		return 0, "", fmt.Errorf("backup %s of instance %s has the last sequence number that there is, so none can follow it; "+
			"if no program of this vault made that object, delete it", last.ID, last.Instance)
	}
	if late.Seq > last.Seq {
		return max(last.Seq, taken) + 1, late.ID, nil
	}
	return max(last.Seq, taken) + 1, last.ID, nil
}
