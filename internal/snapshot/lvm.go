package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of the two providers for logical volumes.
const (
	NameLVMThin    = "lvm-thin"
	NameLVMClassic = "lvm-classic"
)

// lvmTag is on every logical volume that is made here. The name of
// the snapshot is a second tag, since it can be longer than the name
// of a logical volume; that name is made of it (see lvmVolumeName).
const lvmTag = "holdfast"

// Limits of a thin pool, in percent of its data or metadata room. A full pool stops the writes
// of all volumes in it. A snapshot makes the pool grow with each write to its volume, so close
// to the limit no snapshot is made, and an existing snapshot is removed before the pool is full.
const (
	poolStart = 90
	poolWork  = 95
)

// Room for a classic snapshot: it needs as much as is overwritten in its volume while it stands.
const (
	classicShare = 5       // one part in so many of the volume
	classicLeast = 1 << 30 // bytes; less only for a volume that is smaller
)

// lvm makes snapshots of logical volumes: of thin ones in their pool, of all others
// classic ones with room of their own in the volume group.
//
// LVM and the kernel guarantee: the volume is suspended while its snapshot is made, and before
// that its file system is frozen (drivers/md/dm.c, lock_fs): delayed data is written out, and the
// journal is empty (ext4) or holds only data that is in its place as well (xfs). So the snapshot
// is read without replaying the journal (noload, norecovery), and nothing is written to it. A
// device without a mounted file system has its buffered writes written out in the same way.
type lvm struct{ classic bool }

func (p lvm) Name() string {
	if p.classic {
		return NameLVMClassic
	}
	return NameLVMThin
}

func (lvm) InPlace() bool { return false }

func (p lvm) Fits(ctx context.Context, req Request) (string, error) {
	at, err := p.locate(ctx, req)
	if err == nil {
		err = at.nested()
	}
	if err != nil {
		return "", err
	}
	return at.describe(), nil
}

func (p lvm) Costs(kind Kind) Costs {
	c := Costs{
		Hold:   "while LVM makes the snapshot: a tenth of a second, and the time to write out what is not yet on the disk",
		Limits: []string{"mount points inside the volume would be empty: with one of them, no snapshot is made"},
	}
	if p.classic {
		c.Space = "one part in 5 of the logical volume, at least 1 GiB, reserved in the volume group while the snapshot stands"
		c.Limits = append(c.Limits, "when more than that is overwritten meanwhile, the snapshot is lost and the job fails",
			"the first write to each part of the volume is slower while the snapshot stands", "no base can be kept")
		return c
	}
	c.Space = "what is overwritten in the volume while the snapshot stands, in whole blocks of the pool"
	c.Limits = append(c.Limits, fmt.Sprintf("no snapshot is made in a pool of which %d %% is used, and none stands beyond %d %%", poolStart, poolWork))
	if kind == Image {
		c.Changes = "changed blocks of the device by the metadata of the pool"
	}
	return c
}

func (p lvm) Plan(ctx context.Context, req Request) (Ref, error) {
	_, ref, err := p.plan(ctx, req)
	return ref, err
}

func (p lvm) plan(ctx context.Context, req Request) (*lvmPlace, Ref, error) {
	name, _, err := checkRequest(req)
	if err != nil {
		return nil, Ref{}, err
	}
	at, err := p.locate(ctx, req)
	if err != nil {
		return nil, Ref{}, err
	}
	return at, Ref{Provider: p.Name(), Path: lvmPath(at.origin.Group, name), Volume: req.Volume}, nil
}

func (p lvm) locate(ctx context.Context, req Request) (*lvmPlace, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return nil, err
	}
	at, err := lvmLocate(ctx, req.Volume)
	if err == nil && at.origin.thin() == p.classic {
		err = unsupported("%s, and not what %s is for", at.describe(), p.Name())
	}
	return at, err
}

// Room is the room of the thin pool, or of the volume group.
func (p lvm) Room(ctx context.Context, req Request) (free, total int64, err error) {
	at, err := p.locate(ctx, req)
	if err != nil {
		return 0, 0, err
	}
	if p.classic {
		return at.origin.Free, at.origin.Total, nil
	}
	pool := findVolume(at.volumes, at.origin.Pool)
	if pool == nil {
		return 0, 0, fmt.Errorf("room for snapshots of %s: %w: its thin pool %s", req.Volume, ErrGone, at.origin.Pool)
	}
	used, err := strconv.ParseFloat(pool.Data, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("room for snapshots of %s: pool %s: %w", req.Volume, pool.path(), err)
	}
	return int64(float64(pool.Size) * (100 - used) / 100), pool.Size, nil
}

func lvmPath(group, name string) string { return filepath.Join(MountFolder, group, name) }

// lvmVolumeName gives the logical volume of a snapshot: always the same, so that two can't be made.
func lvmVolumeName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "hf_" + hex.EncodeToString(sum[:16])
}

// ours gives the snapshot's name that a logical volume made here carries.
func (lv *logicalVolume) ours() (name string, ok bool) {
	tags := lv.tags()
	i := slices.IndexFunc(tags, func(tag string) bool {
		_, _, _, ok := parseName(tag)
		return ok && lvmVolumeName(tag) == lv.Name
	})
	if i < 0 || !slices.Contains(tags, lvmTag) {
		return "", false
	}
	return tags[i], true
}

func (p lvm) Create(ctx context.Context, req Request) (*Snapshot, error) {
	at, ref, err := p.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Snapshot, error) {
		return nil, fmt.Errorf("snapshot %s of %s: %w", ref.Path, req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	if err := at.nested(); err != nil {
		return nil, err
	}
	volume := lvmVolumeName(filepath.Base(ref.Path))
	if findVolume(at.volumes, volume) != nil {
		return fail(ErrExists)
	}
	args := []string{
		"lvm", "lvcreate", "--autobackup", "n", "--snapshot", "--permission", "r",
		"--addtag", lvmTag, "--addtag", filepath.Base(ref.Path), "--name", volume,
	}
	if p.classic {
		size, err := classicSize(at.origin)
		if err != nil {
			return fail(err)
		}
		args = append(args, "--size", fmt.Sprintf("%db", size))
	} else {
		if err := poolRoom(at.volumes, at.origin.Pool, poolStart); err != nil {
			return fail(err)
		}
		// The flag keeps the snapshot from being activated at the next boot; it is not heeded now.
		args = append(args, "--setactivationskip", "y", "--ignoreactivationskip", "--activate", "y")
	}
	// The folder comes first: it shows that something was begun here (see Leftovers).
	if err := makeMountPoint(ref.Path); err != nil {
		return fail(err)
	}
	unflushed := FlushStacked(ctx, at.real)
	if err := lvmRun(ctx, append(args, at.origin.path())...); err != nil {
		if failed := (*commandError)(nil); errors.As(err, &failed) && strings.Contains(failed.words, "already exists") {
			return fail(ErrExists)
		}
		return fail(errors.Join(err, p.Remove(context.WithoutCancel(ctx), ref)))
	}
	snap, err := p.open(at, ref)
	if err == nil {
		// Something may have been mounted since the look.
		err = at.nested()
	}
	if err != nil {
		return fail(errors.Join(err, p.Remove(context.WithoutCancel(ctx), ref)))
	}
	snap.Unflushed = unflushed
	return snap, nil
}

// open mounts the snapshot of a file system, and finds the device of another.
func (p lvm) open(at *lvmPlace, ref Ref) (*Snapshot, error) {
	device := "/dev/mapper/" + mappingName(at.origin.Group, lvmVolumeName(filepath.Base(ref.Path)), "")
	if at.device() {
		return &Snapshot{Ref: ref, Kind: Image, Image: device}, nil
	}
	if err := mountSnapshot(device, ref.Path, at.fs); err != nil {
		return nil, err
	}
	view := filepath.Join(ref.Path, at.rel)
	// Inode numbers are the same in a snapshot: another number means
	// another folder than the volume.
	var want, got unix.Stat_t
	if err := errors.Join(unix.Stat(at.real, &want), unix.Lstat(view, &got)); err != nil {
		return nil, fmt.Errorf("stat %s and %s: %w", at.real, view, err)
	}
	if want.Ino != got.Ino {
		return nil, fmt.Errorf("volume %s was replaced while its snapshot was made", at.volume)
	}
	if at.kind == Image {
		return &Snapshot{Ref: ref, Kind: Image, Image: view}, nil
	}
	return &Snapshot{Ref: ref, Kind: Tree, Root: view}, nil
}

// checkRef takes a reference apart.
func (p lvm) checkRef(ctx context.Context, verb string, ref Ref) (group, name string, err error) {
	if ref.Provider != p.Name() || !filepath.IsAbs(ref.Path) || filepath.Clean(ref.Path) != ref.Path {
		return "", "", fmt.Errorf("%s %q: %w: not a reference of provider %s", verb, ref.Path, ErrUsage, p.Name())
	}
	if ctx.Err() != nil {
		return "", "", fmt.Errorf("%s %s: %w", verb, ref.Path, context.Cause(ctx))
	}
	group, name = filepath.Base(filepath.Dir(ref.Path)), filepath.Base(ref.Path)
	if _, _, _, ok := parseName(name); !ok || lvmPath(group, name) != ref.Path {
		return "", "", fmt.Errorf("%s %s: %w: its name is not one that is given here", verb, ref.Path, ErrForeign)
	}
	return group, name, nil
}

// find looks for the logical volume of a reference, with all others
// of its group. ErrGone: there is none.
func (p lvm) find(ctx context.Context, verb string, ref Ref) (*logicalVolume, []logicalVolume, error) {
	group, name, err := p.checkRef(ctx, verb, ref)
	if err != nil {
		return nil, nil, err
	}
	volumes, err := listVolumes(ctx, group)
	if errors.Is(err, errNoGroup) {
		return nil, nil, fmt.Errorf("%s %s: %w: %w", verb, ref.Path, ErrGone, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", verb, ref.Path, err)
	}
	lv, err := p.pick(verb, ref, name, volumes)
	return lv, volumes, err
}

// pick is find in a list of the group's logical volumes.
func (p lvm) pick(verb string, ref Ref, name string, volumes []logicalVolume) (*logicalVolume, error) {
	lv := findVolume(volumes, lvmVolumeName(name))
	if lv == nil {
		return nil, fmt.Errorf("%s %s: %w", verb, ref.Path, ErrGone)
	}
	if got, ok := lv.ours(); !ok || got != name || lv.thin() == p.classic {
		return nil, fmt.Errorf("%s %s: %w: the logical volume %s has other tags or is of another kind", verb, ref.Path, ErrForeign, lv.path())
	}
	return lv, nil
}

// Stands makes the snapshot readable again where a restart has
// taken its mount, or a reboot its mapping.
func (p lvm) Stands(ctx context.Context, ref Ref) (bool, error) {
	lv, volumes, err := p.find(ctx, "look at", ref)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if lv.invalid() || lv.Origin == "" {
		return false, nil
	}
	if !lv.active() {
		if err := lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--activate", "y", "--ignoreactivationskip", lv.path()); err != nil {
			return false, fmt.Errorf("look at %s: %w", ref.Path, err)
		}
	}
	at, err := lvmLocate(ctx, ref.Volume)
	if err != nil {
		return false, err
	}
	if origin := findVolume(volumes, lv.Origin); origin == nil || origin.path() != at.origin.path() {
		return false, nil // the volume has moved to another device
	}
	var top, point unix.Stat_t
	if unix.Stat(filepath.Dir(ref.Path), &top) == nil && unix.Stat(ref.Path, &point) == nil && (at.device() || top.Dev != point.Dev) {
		return true, nil
	}
	if err := makeMountPoint(ref.Path); err != nil {
		return false, fmt.Errorf("look at %s: %w", ref.Path, err)
	}
	if _, err := p.open(at, ref); err != nil {
		return false, fmt.Errorf("look at %s: %w", ref.Path, err)
	}
	return true, nil
}

// Check implements Checker.
func (p lvm) Check(ctx context.Context, ref Ref) error {
	lv, volumes, err := p.find(ctx, "look at", ref)
	if err != nil {
		return err
	}
	switch {
	case lv.invalid():
		return fmt.Errorf("snapshot %s: %w: more than its %d bytes were overwritten in %s", ref.Path, ErrOverflow, lv.Size, ref.Volume)
	case !lv.active():
		return fmt.Errorf("snapshot %s: %w: the logical volume %s is not active", ref.Path, ErrGone, lv.path())
	case p.classic:
		return nil
	}
	if err := poolRoom(volumes, lv.Pool, poolWork); err != nil {
		return fmt.Errorf("snapshot %s: %w", ref.Path, err)
	}
	return nil
}

func (p lvm) Remove(ctx context.Context, ref Ref) error {
	lv, _, err := p.find(ctx, "remove", ref)
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if err := unmountSnapshot(ref.Path); err != nil {
		return fmt.Errorf("remove %s: %w", ref.Path, err)
	}
	if lv != nil {
		if err := removeVolume(ctx, lv); err != nil {
			return fmt.Errorf("remove %s: %w", ref.Path, err)
		}
	}
	if err := dropLayers(ctx, ref); err != nil {
		return fmt.Errorf("remove %s: %w", ref.Path, err)
	}
	for _, dir := range []string{ref.Path, filepath.Dir(ref.Path)} {
		// Other snapshots of the group keep its folder.
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove the empty folder %s: %w", dir, err)
		}
	}
	return nil
}

func removeVolume(ctx context.Context, lv *logicalVolume) error {
	remove := func() error {
		err := lvmRun(ctx, "lvm", "lvremove", "--autobackup", "n", "--yes", lv.path())
		if failed := (*commandError)(nil); errors.As(err, &failed) && strings.Contains(failed.words, "Failed to find") {
			return nil // another removal of the same
		}
		return err
	}
	err := remove()
	if err != nil && lv.thin() {
		// If the making of a snapshot was cut off, the pool may not know the snapshot
		// yet. Such a snapshot can't be removed: "pool is used by another device".
		// Activating it finishes the making.
		if lvmRun(ctx, "lvm", "lvchange", "--autobackup", "n", "--activate", "y", "--ignoreactivationskip", lv.path()) == nil {
			err = remove()
		}
	}
	return err
}

// Leftovers lists the snapshots in the volume group of the volume; in all groups where
// the volume is gone. A folder in MountFolder without a snapshot counts: a program was
// about to make or remove one.
//
// First it waits until no program of a dead agent is at work any more. Then it resumes
// volumes that such a program, killed as well, has left suspended.
func (p lvm) Leftovers(ctx context.Context, req Request) ([]Ref, error) {
	if !validPart(req.Host) {
		return nil, fmt.Errorf("host id %q: %w: 1 to %d characters of [A-Za-z0-9._-]", req.Host, ErrUsage, maxPart)
	}
	if !filepath.IsAbs(req.Volume) {
		return nil, fmt.Errorf("volume %q: %w: not an absolute path", req.Volume, ErrUsage)
	}
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		return nil, nil // no device mapper, no logical volumes
	}
	fail := func(err error) ([]Ref, error) {
		return nil, fmt.Errorf("snapshots of %s: %w", req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	folders, err := begun(req.Host)
	if err != nil {
		return fail(err)
	}
	// The volume itself may hang, so this comes before anyone touches it.
	resumed := resumeVolumes(ctx, folders)
	var st unix.Stat_t
	var group string
	switch err := unix.Stat(req.Volume, &st); {
	case err == nil:
		var ok bool
		if group, _, ok = lvmUnder(&st); !ok {
			return nil, resumed
		}
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
		return fail(errors.Join(err, resumed))
	}
	volumes, err := listVolumes(ctx, group)
	if err != nil {
		if errors.Is(err, ErrUnsupported) {
			return nil, resumed // without its programs, nothing can have been made
		}
		return fail(errors.Join(err, resumed))
	}
	var refs []Ref
	there := map[string]bool{}
	for i := range volumes {
		name, ok := volumes[i].ours()
		if !ok {
			continue
		}
		path := lvmPath(volumes[i].Group, name)
		there[path] = true
		if host, _, _, _ := parseName(name); host == req.Host && volumes[i].thin() != p.classic {
			refs = append(refs, Ref{Provider: p.Name(), Path: path, Volume: req.Volume})
		}
	}
	for _, path := range folders {
		if !there[path] && (group == "" || lvmPath(group, filepath.Base(path)) == path) {
			refs = append(refs, Ref{Provider: p.Name(), Path: path, Volume: req.Volume})
		}
	}
	return refs, errors.Join(resumed, releaseMetadata(ctx, volumes, req.Host))
}
