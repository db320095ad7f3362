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
	// when it began, by its writer's clock; for people only
	Time       time.Time `json:"time"`
	Incomplete bool      `json:"incomplete"` // it lacks content that nobody agreed to lose
	Size       int64     `json:"-"`          // of the manifest, bytes
}

const (
	idTime = "20060102T150405Z"
	// maxSeq is the greatest sequence number that an id can hold.
	maxSeq         = 99_999_999
	incompleteMark = "-incomplete"
)

var backupPattern = regexp.MustCompile(`^([0-9]{8})-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{16}(-incomplete)?$`)

// backupID is what the id of a backup says.
type backupID struct {
	seq        uint64
	time       time.Time
	incomplete bool
}

// parseBackupID reads what NewBackupID wrote.
func parseBackupID(id string) (backupID, bool) {
	m := backupPattern.FindStringSubmatch(id)
	if m == nil {
		return backupID{}, false
	}
	t, err := time.Parse(idTime, m[2])
	seq, serr := strconv.ParseUint(m[1], 10, 64)
	if err != nil || serr != nil || seq == 0 {
		return backupID{}, false
	}
	return backupID{seq: seq, time: t, incomplete: m[3] != ""}, true
}

// NewBackupID returns an id for the backup of an instance that has that sequence number, which
// is 1 for the first one. Ids of one instance sort by it, and are unique without asking anybody.
// t is for people. incomplete says that the backup lacks content that nobody agreed to lose.
func NewBackupID(seq uint64, t time.Time, incomplete bool) string {
	var r [8]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	id := fmt.Sprintf("%08d-%s-%s", seq, t.UTC().Format(idTime), hex.EncodeToString(r[:]))
	if incomplete {
		id += incompleteMark
	}
	return id
}

// RefOf returns the reference to the backup of that id; false when it has not the form of an id.
func RefOf(instance, id string) (BackupRef, bool) {
	b, ok := parseBackupID(id)
	if !ok || CheckInstance(instance) != nil {
		return BackupRef{}, false
	}
	return BackupRef{Instance: instance, ID: id, Seq: b.seq, Time: b.time, Incomplete: b.incomplete}, true
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

// ForkError says that an instance has several newest backups: hosts made
// them at the same time, each on top of the same earlier one. Which of them
// continues the instance only a person, or the control plane, can decide.
type ForkError struct {
	Instance string
	Refs     []BackupRef // those with the greatest sequence number
}

func (e *ForkError) Error() string {
	ids := make([]string, len(e.Refs))
	for i, r := range e.Refs {
		ids[i] = r.ID
	}
	return fmt.Sprintf("instance %s has %d newest backups, made at the same time on top of the same earlier one (%s): name the one to take",
		e.Instance, len(ids), strings.Join(ids, ", "))
}

// ErrOnlyIncomplete says that all backups of an instance lack content. It is an ErrNoBackup.
var ErrOnlyIncomplete = fmt.Errorf("%w that is complete", ErrNoBackup)

// Newest returns the complete backup of an instance that has the
// greatest sequence number. Only Find returns an incomplete one, for
// who asks for it by id. ErrNoBackup, ErrOnlyIncomplete, *ForkError.
func (v *Vault) Newest(ctx context.Context, instance string) (BackupRef, error) {
	refs, err := v.Backups(ctx, instance)
	if err != nil {
		return BackupRef{}, err
	}
	ref, err := NewestOf(refs)
	switch {
	case errors.Is(err, ErrOnlyIncomplete):
		return BackupRef{}, fmt.Errorf("%w: the newest of instance %s in vault %s (%s) is %s",
			err, instance, v.info.Name, v.st, refs[len(refs)-1].ID)
	case errors.Is(err, ErrNoBackup):
		return BackupRef{}, fmt.Errorf("%w: instance %s has none in vault %s (%s)", err, instance, v.info.Name, v.st)
	}
	return ref, err
}

// NewestOf is Newest of a list that Backups gave of one instance.
func NewestOf(refs []BackupRef) (BackupRef, error) {
	if len(refs) == 0 {
		return BackupRef{}, ErrNoBackup
	}
	whole := slices.DeleteFunc(slices.Clone(refs), func(r BackupRef) bool { return r.Incomplete })
	if len(whole) == 0 {
		return BackupRef{}, ErrOnlyIncomplete
	}
	last := whole[len(whole)-1]
	heads := slices.DeleteFunc(whole, func(r BackupRef) bool { return r.Seq != last.Seq })
	if len(heads) > 1 {
		return BackupRef{}, &ForkError{Instance: last.Instance, Refs: heads}
	}
	return last, nil
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

// NextSeq returns the sequence number of a backup that follows those of the list, which Backups
// gave of the instance, and the id of the backup that it follows; "" when there is none. It passes
// over the numbers of backups of this process that may come to be stored late (see Settle).
func (v *Vault) NextSeq(instance string, refs []BackupRef) (seq uint64, parent string, err error) {
	taken := v.ledger.seqTaken(instance)
	if len(refs) == 0 {
		return taken + 1, "", nil
	}
	last := refs[len(refs)-1]
	if last.Seq >= maxSeq {
		return 0, "", fmt.Errorf("backup %s of instance %s has the last sequence number that there is, so none can follow it; "+
			"if no program of this vault made that object, delete it", last.ID, last.Instance)
	}
	return max(last.Seq, taken) + 1, last.ID, nil
}
