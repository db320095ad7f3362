package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
	"holdfast/internal/mounts"
)

// freezeFolder has a mark for each freeze, named as a snapshot is. It lies in /run, which is empty
// after a reboot, as is the kernel's list of frozen file systems.
const freezeFolder = "/run/holdfast-freeze"

// fsfreeze reads in place as freeze does, and freezes the file system of the volume meanwhile
// (FIFREEZE): every program that writes to it waits, also programs that are not of the instance.
//
// A file system that stays frozen hangs its host, so a child process, the guard, holds
// the freeze. The guard thaws as soon as its pipe to this process is closed, and the
// kernel closes the pipe of a process that dies (see runGuard). The guard also thaws
// when this process does not say for GuardPatience that it makes progress (KeepFrozen),
// and after Request.FreezeLimit. If the guard is killed as well, its mark (a file)
// stays. An agent that finds a mark at its start thaws that file system.
type fsfreeze struct{}

// freezes has the frozen file systems of this process. Its lock is
// held while one is frozen or thawed.
var freezes struct {
	sync.Mutex
	by map[uint64]*frozen // by device number
}

// frozen is one file system and the references that need it frozen.
type frozen struct {
	guard *guard
	refs  map[string]bool // paths of marks
}

// freezeMark is the content of a mark.
type freezeMark struct {
	Device uint64 `json:"device"`
	Mount  string `json:"mount"`
	Volume string `json:"volume"`
}

func (fsfreeze) Name() string { return NameFsFreeze }

func (fsfreeze) InPlace() bool { return true }

func (fsfreeze) Fits(_ context.Context, req Request) (string, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return "", err
	}
	mark, err := locateFreeze(req)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the file system at %s is frozen while %s is read in place, for all who write to it", mark.Mount, req.Volume), nil
}

func (fsfreeze) Costs(Kind) Costs {
	return Costs{
		Hold:  "while the volume is read, from the first byte to the last; every writer to its file system waits as long",
		Space: "none",
		Limits: []string{
			"only a file system of the volume's own, mounted once, with nothing of this program on it",
			"no base can be kept: the next backup finds changed files by their size and times alone, and reads images in full",
		},
	}
}

// locateFreeze finds the file system to freeze, and refuses a file system that others need.
func locateFreeze(req Request) (*freezeMark, error) {
	real, err := filepath.EvalSymlinks(req.Volume)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	folder := real
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return nil, unsupported("%s is a device, no file system", req.Volume)
	case unix.S_IFREG:
		folder = filepath.Dir(real)
	}
	if !hasSysAdmin() {
		return nil, unsupported("CAP_SYS_ADMIN is missing, and %s can't be frozen", req.Volume)
	}
	table, err := mounts.Read(mounts.Own)
	if err != nil {
		return nil, fmt.Errorf("volume %s: list the mount points: %w", req.Volume, err)
	}
	own, elsewhere := false, ""
	for _, m := range table {
		switch {
		case m.Point == folder:
			own = m.Device == st.Dev && m.Root == "/"
		case m.Device == st.Dev:
			elsewhere = m.Point
		}
	}
	switch {
	case !own:
		return nil, unsupported("%s has no file system of its own, mounted at %s", req.Volume, folder)
	case elsewhere != "":
		return nil, unsupported("the file system of %s is mounted at %s too", req.Volume, elsewhere)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, err)
	}
	// The last two are standard output and standard error: the log may be a file.
	always := []string{"/", "/run", "/tmp", "/var", "/var/log", os.TempDir(), exe, ".", "/proc/self/fd/1", "/proc/self/fd/2"}
	for _, path := range append(always, req.Spare...) {
		if on, err := restsOn(path, st.Dev); err != nil {
			return nil, fmt.Errorf("volume %s: what %s rests on: %w", req.Volume, path, err)
		} else if on {
			return nil, unsupported("the file system of %s has %s on it, which must stay writable", req.Volume, path)
		}
	}
	return &freezeMark{Device: st.Dev, Mount: folder, Volume: req.Volume}, nil
}

func (fsfreeze) Plan(_ context.Context, req Request) (Ref, error) {
	name, _, err := checkRequest(req)
	if err != nil {
		return Ref{}, err
	}
	return Ref{Provider: NameFsFreeze, Path: filepath.Join(freezeFolder, name), Volume: req.Volume}, nil
}

// Create flushes and freezes. A second view of the same file system in
// this process shares the freeze; a freeze by another program is an error.
func (p fsfreeze) Create(ctx context.Context, req Request) (*Snapshot, error) {
	ref, err := p.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Snapshot, error) {
		return nil, fmt.Errorf("freeze the file system of %s: %w", req.Volume, err)
	}
	if ctx.Err() != nil {
		return fail(context.Cause(ctx))
	}
	mark, err := locateFreeze(req)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(mark)
	if err != nil {
		return fail(err)
	}
	freezes.Lock()
	defer freezes.Unlock()
	snap, err := inPlace(ctx, ref) // the long part of the flush, while writers can still go on
	if err != nil {
		return nil, err
	}
	dir, err := openFolder(freezeFolder, true)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := durable.Publish(ref.Path, content, 0o600); errors.Is(err, fs.ErrExist) {
		return fail(ErrExists)
	} else if err != nil {
		return fail(err)
	}
	f := freezes.by[mark.Device]
	// it has thawed, and the views before are of no point in time any more
	if f != nil && !f.guard.alive() {
		_ = f.guard.release()
		f = nil
	}
	if f == nil {
		g, err := startGuard(ctx, mark.Mount, ref.Path, req.FreezeLimit)
		if err != nil {
			return fail(errors.Join(err, os.Remove(ref.Path)))
		}
		f = &frozen{guard: g, refs: map[string]bool{}}
		if freezes.by == nil {
			freezes.by = map[uint64]*frozen{}
		}
		freezes.by[mark.Device] = f
	}
	f.refs[ref.Path] = true
	return snap, nil
}

// Stands is true while this process holds the freeze.
func (fsfreeze) Stands(ctx context.Context, ref Ref) (bool, error) {
	if err := checkFreeze(ctx, "look at", ref); err != nil {
		return false, err
	}
	freezes.Lock()
	defer freezes.Unlock()
	for _, f := range freezes.by {
		if f.refs[ref.Path] {
			return f.guard.alive(), nil
		}
	}
	return false, nil
}

// Comparable is false: a volume that is read in place leaves no earlier view.
func (fsfreeze) Comparable(volume string) (bool, error) {
	_, err := checkVolume(volume)
	return false, err
}

func (fsfreeze) Changed(ctx context.Context, base Base, now *Snapshot) (*Changes, error) {
	if err := checkFreeze(ctx, "compare", base.Ref); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("compare %s with an earlier view: %w: provider %s keeps none", now.Ref.Volume, ErrBase, NameFsFreeze)
}

func (fsfreeze) Room(ctx context.Context, req Request) (free, total int64, err error) {
	return volumeRoom(ctx, req)
}

// Remove thaws when no other view needs the freeze, also a freeze that an earlier process has left.
func (fsfreeze) Remove(ctx context.Context, ref Ref) error {
	if err := checkFreeze(ctx, "remove", ref); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("thaw the file system of %s: %w", ref.Volume, err) }
	freezes.Lock()
	defer freezes.Unlock()
	mark, err := readMark(ref.Path)
	if errors.Is(err, fs.ErrNotExist) {
		forgetFreeze(ref.Path)
		return nil
	}
	if err != nil {
		return fail(err)
	}
	f := freezes.by[mark.Device]
	if f != nil {
		delete(f.refs, ref.Path)
	}
	if f == nil || len(f.refs) == 0 {
		delete(freezes.by, mark.Device)
		if f != nil {
			err = f.guard.release()
		}
		if f == nil || err != nil {
			err = thaw(mark)
		}
		if err != nil {
			return fail(err)
		}
	}
	if err := os.Remove(ref.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	_ = unix.Rmdir(freezeFolder) // others may use it
	return nil
}

// forgetFreeze ends the wait for a guard that has thawed by itself
// and removed the mark of this view.
func forgetFreeze(path string) {
	for device, f := range freezes.by {
		if f.refs[path] {
			if delete(f.refs, path); len(f.refs) == 0 {
				delete(freezes.by, device)
				_ = f.guard.release()
			}
		}
	}
}

// Check implements Checker.
func (p fsfreeze) Check(ctx context.Context, ref Ref) error {
	stands, err := p.Stands(ctx, ref)
	if err == nil && !stands {
		return fmt.Errorf("the file system of %s: %w: it was thawed while it was read, since the agent made no progress for %s, or kept it frozen for "+
			"as long as the configuration allows", ref.Volume, ErrGone, GuardPatience)
	}
	return err
}

// thaw thaws a file system when no view needs the freeze any more. A file system that
// is not frozen, or not mounted, is no error.
func thaw(mark *freezeMark) error {
	f, err := os.OpenFile(mark.Mount, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Dev != mark.Device {
		return err // another one is mounted there
	}
	if err := ioctl(f, iocThaw, nil); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func checkFreeze(ctx context.Context, verb string, ref Ref) error {
	if err := checkRef(ctx, verb, NameFsFreeze, ref); err != nil {
		return err
	}
	if _, _, _, ok := parseName(filepath.Base(ref.Path)); !ok || filepath.Dir(ref.Path) != freezeFolder {
		return fmt.Errorf("%s %s: %w: its name is not one that is given here", verb, ref.Path, ErrForeign)
	}
	return nil
}

func readMark(path string) (*freezeMark, error) {
	dir, err := openOwned(freezeFolder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	mark := new(freezeMark)
	if err := json.Unmarshal(content, mark); err != nil || !filepath.IsAbs(mark.Mount) {
		return nil, fmt.Errorf("%s: %w: no mark of a freeze", path, ErrForeign)
	}
	return mark, nil
}

// Leftovers lists the marks of all freezes of the host, also of other volumes.
func (fsfreeze) Leftovers(ctx context.Context, req Request) ([]Ref, error) {
	if !validPart(req.Host) {
		return nil, fmt.Errorf("host id %q: %w: 1 to %d characters of [A-Za-z0-9._-]", req.Host, ErrUsage, maxPart)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("frozen file systems: %w", context.Cause(ctx))
	}
	entries, err := os.ReadDir(freezeFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("frozen file systems: %w", err)
	}
	var refs []Ref
	for _, e := range entries {
		host, _, _, ok := parseName(e.Name())
		if !ok || host != req.Host {
			continue
		}
		path := filepath.Join(freezeFolder, e.Name())
		if mark, err := readMark(path); err == nil {
			refs = append(refs, Ref{Provider: NameFsFreeze, Path: path, Volume: mark.Volume})
		}
	}
	return refs, nil
}
