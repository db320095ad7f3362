package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/internal/durable"
)

// freeze is the provider for everything that has no snapshots: the volume
// is read in place and the instance held meanwhile, by its runtime driver
// and not by this package. It makes nothing, so there is nothing to remove.
type freeze struct{}

func (freeze) Name() string { return NameFreeze }

func (freeze) InPlace() bool { return true }

func (freeze) Fits(_ context.Context, req Request) (string, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return "", err
	}
	return "the instance stays held while its volume is read in place", nil
}

func (freeze) Costs(Kind) Costs {
	return Costs{
		Hold:   "while the volume is read, from the first byte to the last",
		Space:  "none",
		Limits: []string{"no base can be kept: the next backup finds changed files by their size and times alone, and reads images in full"},
	}
}

func (freeze) Plan(_ context.Context, req Request) (Ref, error) {
	if _, _, err := checkRequest(req); err != nil {
		return Ref{}, err
	}
	return Ref{Provider: NameFreeze, Volume: req.Volume}, nil
}

// Create flushes the file system, or the device. Reading goes through the page
// cache and would see unflushed data as well; the flush is there because
// delayed allocation can still fail: a full or broken disk shows here as an
// error, and not as a volume that looks sound and is lost with the page cache.
func (p freeze) Create(ctx context.Context, req Request) (*Snapshot, error) {
	ref, err := p.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, context.Cause(ctx))
	}
	snap, err := inPlace(ctx, ref)
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// inPlace flushes the volume, and the layers stacked on it, and returns it as its own view.
func inPlace(ctx context.Context, ref Ref) (*Snapshot, error) {
	f, err := os.OpenFile(ref.Volume, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	unflushed := FlushStacked(ctx, ref.Volume)
	switch kind, _ := kindOf(st.Mode()); {
	case kind == Tree:
		if err := durable.SyncFilesystem(int(f.Fd())); err != nil {
			return nil, fmt.Errorf("volume %s: flush its file system: %w", ref.Volume, err)
		}
		return &Snapshot{Ref: ref, Kind: Tree, Root: ref.Volume, NeedsHold: true, Unflushed: unflushed}, nil
	case kind == Image:
		if err := f.Sync(); err != nil {
			return nil, fmt.Errorf("volume %s: flush it: %w", ref.Volume, err)
		}
		return &Snapshot{Ref: ref, Kind: Image, Image: ref.Volume, NeedsHold: true, Unflushed: unflushed}, nil
	}
	return nil, fmt.Errorf("volume %s: %w: neither a folder nor a file nor a block device", ref.Volume, ErrUsage)
}

func (freeze) Stands(_ context.Context, ref Ref) (bool, error) {
	if ref.Provider != NameFreeze || ref.Path != "" {
		return false, fmt.Errorf("look at %s: %w: not a reference of provider %s", ref.Path, ErrUsage, NameFreeze)
	}
	return volumeStands(ref)
}

// volumeStands tells whether the volume itself is there.
func volumeStands(ref Ref) (bool, error) {
	_, err := checkVolume(ref.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Comparable is false: a volume that is read in place leaves no earlier view.
func (freeze) Comparable(volume string) (bool, error) {
	_, err := checkVolume(volume)
	return false, err
}

func (freeze) Changed(_ context.Context, base Base, now *Snapshot) (*Changes, error) {
	return nil, fmt.Errorf("compare %s with an earlier view: %w: provider %s keeps none", now.Ref.Volume, ErrBase, NameFreeze)
}

// Room is the room of the volume's file system; for a block device, which has none, it is zero.
func (freeze) Room(ctx context.Context, req Request) (free, total int64, err error) {
	return volumeRoom(ctx, req)
}

func (freeze) Remove(_ context.Context, ref Ref) error {
	if ref.Provider != NameFreeze || ref.Path != "" {
		return fmt.Errorf("remove %s: %w: not a reference of provider %s", ref.Path, ErrUsage, NameFreeze)
	}
	return nil
}

func (freeze) Leftovers(context.Context, Request) ([]Ref, error) { return nil, nil }
