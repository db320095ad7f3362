package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast/internal/obs"
)

// A prune leaves a record in the vault, by which all hosts see when the vault was last pruned.
// Nothing that is safe rests on a record: a record that is missing, or that does not open, costs
// at most one more prune.

const (
	runMagic  = "HFRUNS\x00\x01"
	maxRun    = 1 << 12
	runsKept  = 8 // records of finished runs that stay
	runsRead  = 4 // records that Runs reads
	beganMark = "-began"
	// runLasts is how long a run without an end counts as under way, by the clock of the store.
	runLasts = 24 * time.Hour
)

var runPattern = regexp.MustCompile(`^[0-9a-f]{16}-[0-9a-f]{32}(` + beganMark + `)?$`)

// RunRecord is the record of one run of a prune.
type RunRecord struct {
	ID string `cbor:"-"` // host tag and 32 hex digits
	// Stored is when the record was put, by the clock
	// of the store; zero where the store tells none.
	Stored time.Time `cbor:"-"`
	Host   string    `cbor:"1,keyasint"`
	Began  time.Time `cbor:"2,keyasint"` // by the clock of that host, as Ended
	Ended  time.Time `cbor:"3,keyasint"`
	// Forgotten counts deleted backups, Deleted deleted packs. Garbage are the bytes of garbage
	// that the run found, and Freed the bytes of the packs that the run deleted.
	Forgotten uint64 `cbor:"4,keyasint"`
	Deleted   uint64 `cbor:"5,keyasint"`
	Garbage   uint64 `cbor:"6,keyasint"`
	Freed     uint64 `cbor:"7,keyasint"`
}

// Runs are the records of prunes in a vault.
type Runs struct {
	Ended []RunRecord // the newest first, runsRead at most
	// UnderWay is the newest run that has no end yet and may go on; nil where there is none.
	UnderWay *RunRecord
}

// Run is a run of a prune that has a record. A crash leaves the record of its begin, which counts
// for a day and which a later run deletes.
type Run struct {
	v      *Vault
	record RunRecord
}

func (v *Vault) runsPrefix() string { return v.info.ID + "/runs/" }

// BeginRun stores the record that a run of a prune has begun.
func (v *Vault) BeginRun(ctx context.Context, o SessionOptions) (*Run, error) {
	r := &Run{v: v, record: RunRecord{ID: v.lookTag(o.Identity.ID) + "-" + randomName(), Host: o.Host, Began: time.Now().UTC()}}
	return r, v.putRun(ctx, r.record, beganMark)
}

func (v *Vault) putRun(ctx context.Context, r RunRecord, mark string) error {
	name := r.ID + mark
	object, err := v.sealSmall("run", runMagic, name, &r)
	if err != nil {
		return err
	}
	if err := v.st.Put(ctx, v.runsPrefix()+name, object); err != nil {
		return fmt.Errorf("store the record of the prune: %w", err)
	}
	return nil
}

// End stores the record of the finished run, and deletes older records.
func (r *Run) End(ctx context.Context, report PruneReport) error {
	r.record.Ended = time.Now().UTC()
	r.record.Forgotten, r.record.Deleted = uint64(max(0, report.Forgotten)), uint64(max(0, report.Deleted))
	r.record.Garbage, r.record.Freed = uint64(max(0, report.GarbageBytes)), uint64(max(0, report.DeletedBytes))
	if err := r.v.putRun(ctx, r.record, ""); err != nil {
		return err
	}
	ended, began, _, err := r.v.listRuns(ctx)
	if err != nil {
		return err
	}
	old := []string{r.v.runsPrefix() + r.record.ID + beganMark}
	for i, e := range ended {
		if i >= runsKept {
			old = append(old, r.v.runsPrefix()+e.ID)
		}
	}
	for _, b := range began {
		over := slices.ContainsFunc(ended, func(e RunRecord) bool { return e.ID == b.ID })
		if b.ID != r.record.ID && (over || len(ended) > 0 && ended[0].Stored.Sub(b.Stored) > runLasts) {
			old = append(old, r.v.runsPrefix()+b.ID+beganMark)
		}
	}
	if err := r.v.st.Delete(ctx, old...); err != nil {
		return fmt.Errorf("remove older records of prunes: %w", err)
	}
	return nil
}

// Drop removes the record of a run that did not come to its end.
func (r *Run) Drop(ctx context.Context) error {
	if err := r.v.st.Delete(ctx, r.v.runsPrefix()+r.record.ID+beganMark); err != nil {
		return fmt.Errorf("remove the record of the prune: %w", err)
	}
	return nil
}

// listRuns lists the records by their names, the newest first. now is the greatest time of the
// store's clock among the records.
func (v *Vault) listRuns(ctx context.Context) (ended, began []RunRecord, now time.Time, err error) {
	for info, err := range v.st.List(ctx, v.runsPrefix()) {
		if err != nil {
			return nil, nil, now, fmt.Errorf("list the records of prunes: %w", err)
		}
		name := strings.TrimPrefix(info.Key, v.runsPrefix())
		if !runPattern.MatchString(name) || info.Size > maxRun {
			continue
		}
		if info.Modified.After(now) {
			now = info.Modified
		}
		id, is := strings.CutSuffix(name, beganMark)
		if r := (RunRecord{ID: id, Stored: info.Modified}); is {
			began = append(began, r)
		} else {
			ended = append(ended, r)
		}
	}
	newest := func(a, b RunRecord) int { return cmp.Or(b.Stored.Compare(a.Stored), cmp.Compare(a.ID, b.ID)) }
	slices.SortFunc(ended, newest)
	slices.SortFunc(began, newest)
	return ended, began, now, nil
}

// Runs reads the newest records. A record that does not open is left out.
func (v *Vault) Runs(ctx context.Context) (Runs, error) {
	ended, began, now, err := v.listRuns(ctx)
	if err != nil {
		return Runs{}, err
	}
	var runs Runs
	for _, r := range ended[:min(len(ended), runsRead)] {
		there, err := v.readRunRecord(ctx, &r, "")
		if err != nil {
			return Runs{}, err
		}
		if there {
			runs.Ended = append(runs.Ended, r)
		}
	}
	for _, b := range began {
		over := slices.ContainsFunc(ended, func(e RunRecord) bool { return e.ID == b.ID })
		if over || now.Sub(b.Stored) > runLasts {
			continue
		}
		there, err := v.readRunRecord(ctx, &b, beganMark)
		if err != nil {
			return Runs{}, err
		}
		if there {
			runs.UnderWay = &b
			break
		}
	}
	return runs, nil
}

// readRunRecord fills the record; false where the record is gone, or does not open.
func (v *Vault) readRunRecord(ctx context.Context, r *RunRecord, mark string) (there bool, err error) {
	name := r.ID + mark
	err = v.readSmall(ctx, v.runsPrefix(), name, maxRun, func(id string) bool { return id == name }, func(id string, object []byte) error {
		read := RunRecord{ID: r.ID, Stored: r.Stored}
		if err := v.openSmall("run", runMagic, v.runsPrefix(), id, object, &read); err != nil {
			return err
		}
		*r, there = read, true
		return nil
	})
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
		return false, nil
	}
	return there, err
}

// Turn tells when it is the turn of a host to prune a vault.
type Turn struct {
	Runs
	// Now is the time of the store, as late as the looks of
	// living hosts tell; zero where the store tells no times.
	Now time.Time
	// Rank is the place of the host among the Hosts that gave a sign of life lately, from 0 on. A
	// host that gave none has the last place.
	Rank, Hosts int
}

// Turn ranks the hosts that left a look in the vault within that time, by a hash of the vault, the
// host and the last run: so the hosts take turns, and need not know of each other. No clock of a
// host counts. Two hosts that take each other's turn prune beside each other, which is safe. Turn
// takes two lists, and a read for each of a few records.
func (v *Vault) Turn(ctx context.Context, identity string, lately time.Duration) (Turn, error) {
	runs, err := v.Runs(ctx)
	if err != nil {
		return Turn{}, err
	}
	seen := map[string]time.Time{} // by the tag of the host
	var t Turn
	for info, err := range v.st.List(ctx, v.looksPrefix()) {
		if err != nil {
			return Turn{}, fmt.Errorf("list the looks of hosts: %w", err)
		}
		name := strings.TrimPrefix(info.Key, v.looksPrefix())
		if !lookPattern.MatchString(name) {
			continue
		}
		tag, _, _ := strings.Cut(name, "-")
		if at, known := seen[tag]; !known || info.Modified.After(at) {
			seen[tag] = info.Modified
		}
		if info.Modified.After(t.Now) {
			t.Now = info.Modified
		}
	}
	t.Runs = runs
	last := ""
	if len(runs.Ended) > 0 {
		last = runs.Ended[0].ID
		if runs.Ended[0].Stored.After(t.Now) {
			t.Now = runs.Ended[0].Stored
		}
	}
	own := v.lookTag(identity)
	place := func(tag string) []byte {
		sum := sha256.Sum256([]byte(v.info.ID + "\x00" + tag + "\x00" + last))
		return sum[:]
	}
	here := false
	for tag, at := range seen {
		if t.Now.Sub(at) > lately {
			continue
		}
		t.Hosts++
		here = here || tag == own
		if tag != own && bytes.Compare(place(tag), place(own)) < 0 {
			t.Rank++
		}
	}
	if !here {
		t.Rank, t.Hosts = t.Hosts, t.Hosts+1
	}
	return t, nil
}

// ErrMayNotDelete says that the credentials of this host may not delete objects of the vault.
var ErrMayNotDelete = errors.New("the credentials of this host may not delete backups and packs")

// MayDelete finds out whether the store lets this host delete manifests and packs, by deletes of
// names that no object has. A store that looks at the right only where an object is there, such as
// a folder, tells nothing. ErrMayNotDelete where the store refuses.
func (v *Vault) MayDelete(ctx context.Context) error {
	var pack PackID
	_, _ = rand.Read(pack[:]) // crypto/rand.Read never fails
	for _, key := range []string{v.packKey(pack), v.manifestKey("none", NewBackupID(1, time.Unix(0, 0), true))} {
		err := v.st.Delete(ctx, key)
		if errors.Is(err, obs.ErrAccess) {
			return fmt.Errorf("%w: %w", ErrMayNotDelete, err)
		} else if err != nil {
			return fmt.Errorf("look whether this host may delete: %w", err)
		}
	}
	return nil
}
