package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// freeze is the provider for everything that has no snapshots: the volume is read in place and the
// instance held meanwhile, by its runtime driver and not by this package. It makes nothing, so there
// is nothing to remove.
type freeze struct{}

func (freeze) Name() string { return NameFreeze }

func (freeze) Plan(req Request) (Ref, error) {
	if err := checkVolume(req.Volume); err != nil {
		return Ref{}, err
	}
	if _, err := snapshotName(req); err != nil {
		return Ref{}, err
	}
	return Ref{Provider: NameFreeze, Volume: req.Volume}, nil
}

// Create flushes the file system. Reading goes through the page cache and would see unflushed data
// as well; the flush is there because delayed allocation can still fail: a full or broken disk shows
// here as an error, and not as a volume that looks sound and is lost with the page cache.
func (p freeze) Create(ctx context.Context, req Request) (*Snapshot, error) {
	ref, err := p.Plan(req)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.Volume, context.Cause(ctx))
	}
	f, err := os.OpenFile(req.Volume, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return nil, fmt.Errorf("volume %s: flush its file system: %w", req.Volume, err)
	}
	return &Snapshot{Ref: ref, Root: req.Volume, NeedsHold: true}, nil
}

func (freeze) Stands(_ context.Context, ref Ref) (bool, error) {
	if ref.Provider != NameFreeze || ref.Path != "" {
		return false, fmt.Errorf("look at %s: %w: not a reference of provider %s", ref.Path, ErrUsage, NameFreeze)
	}
	ok, err := statFolder(ref.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return ok, err
}

func (freeze) Remove(_ context.Context, ref Ref) error {
	if ref.Provider != NameFreeze || ref.Path != "" {
		return fmt.Errorf("remove %s: %w: not a reference of provider %s", ref.Path, ErrUsage, NameFreeze)
	}
	return nil
}

func (freeze) Leftovers(context.Context, Request) ([]Ref, error) { return nil, nil }

// statFolder tells whether path, links followed, is a folder.
func statFolder(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return st.IsDir(), nil
}
