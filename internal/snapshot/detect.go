package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the providers, and of the choice by the storage of the volume.
const (
	NameAuto     = "auto"
	NameBtrfs    = "btrfs"
	NameReflink  = "reflink"
	NameFreeze   = "freeze"
	NameFsFreeze = "fsfreeze"
)

// providers has all providers. NameAuto takes the first that fits; the providers behind
// freeze, which always fits, are taken by name only.
var providers = []Provider{btrfs{}, reflink{}, lvm{}, lvm{classic: true}, freeze{}, fsfreeze{}}

// Names lists the providers in the order in which NameAuto tries them.
func Names() []string {
	names := make([]string, 0, len(providers))
	for _, p := range providers {
		names = append(names, p.Name())
	}
	return names
}

// ByName gives a provider by the name that a Ref or a config carries.
func ByName(name string) (Provider, error) {
	for _, p := range providers {
		if p.Name() == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("snapshot provider %q: %w: known are %s", name, ErrUsage, strings.Join(Names(), ", "))
}

// Detect picks the provider for Request.Volume with its snapshots in Request.Dir;
// the other fields are not looked at. want is NameAuto (or empty) or the name of a
// provider. The string says in one line for a person why this one. A wanted provider
// that can't serve is an error; NameAuto falls back to freeze, which always can.
//
// A volume that holds a mount point is never given to a provider whose snapshots would show
// an empty folder there: the loss would be noticed at the restore. Read in place, the walk sees
// the border and reports it.
func Detect(ctx context.Context, req Request, want string) (Provider, string, error) {
	if _, err := checkVolume(req.Volume); err != nil {
		return nil, "", err
	}
	if want != "" && want != NameAuto {
		p, err := ByName(want)
		if err != nil {
			return nil, "", fmt.Errorf("volume %s: %w", req.Volume, err)
		}
		reason, err := p.Fits(ctx, req)
		if err != nil {
			return nil, "", err
		}
		return p, "asked for; " + reason, nil
	}
	return firstOf(ctx, req, providers)
}

// Next picks the provider that NameAuto takes where the view of the named one could
// not be made: the first behind it that fits. ErrUnsupported says that there is none.
func Next(ctx context.Context, req Request, failed string) (Provider, string, error) {
	i := slices.IndexFunc(providers, func(p Provider) bool { return p.Name() == failed })
	if failed == NameFreeze || failed == NameFsFreeze {
		i = len(providers) - 1 // a volume that is read in place can't be read in a simpler way
	}
	return firstOf(ctx, req, providers[i+1:])
}

// firstOf picks the first that fits. freeze always does; the providers behind it are
// taken by name only.
func firstOf(ctx context.Context, req Request, among []Provider) (Provider, string, error) {
	var why []string // the providers before could not serve
	for _, p := range among {
		reason, err := p.Fits(ctx, req)
		if err == nil {
			return p, strings.Join(append(why, reason), "; "), nil
		}
		if !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrNested) {
			return nil, "", err
		}
		why = append(why, "no "+p.Name()+": "+Reason(err))
	}
	return nil, "", fmt.Errorf("volume %s: %w", req.Volume, ErrUnsupported)
}

// Blocked returns the obstacle to a snapshot of a volume that could otherwise be made:
// somebody else's folder or file in the place of snapshots. Nil where there is no obstacle.
func Blocked(ctx context.Context, req Request) error {
	for _, p := range []Provider{btrfs{}, reflink{}} {
		if _, err := p.Fits(ctx, req); errors.Is(err, ErrForeign) {
			return err
		}
	}
	return nil
}

// Take makes a view as NameAuto chooses. Where one can't be made (a
// swap file, a quota, a folder that is in the way), it goes on with
// the next provider, and tells instead of it; freeze comes last.
func Take(ctx context.Context, req Request, instead func(failed, next Provider, why error)) (Provider, *Snapshot, error) {
	p, _, err := Detect(ctx, req, NameAuto)
	for err == nil {
		var snap *Snapshot
		if snap, err = p.Create(ctx, req); err == nil {
			return p, snap, nil
		}
		if ctx.Err() != nil {
			break
		}
		next, _, nerr := Next(ctx, req, p.Name())
		if nerr != nil {
			break
		}
		instead(p, next, err)
		p, err = next, nil
	}
	return nil, nil, err
}

// Leftovers lists the leftovers of all providers (Provider.Leftovers): another provider
// may have served the volume before. Where one fails, the others are asked all the same.
func Leftovers(ctx context.Context, req Request) ([]Ref, error) {
	var refs []Ref
	var errs []error
	for _, p := range providers {
		found, err := p.Leftovers(ctx, req)
		refs, errs = append(refs, found...), append(errs, err)
	}
	return refs, errors.Join(errs...)
}

// Reason is the text of an error of Provider.Fits without the words that all of them have.
func Reason(err error) string { return strings.TrimPrefix(err.Error(), ErrUnsupported.Error()+": ") }

// unsupported says why a provider can't serve.
func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// KindOf tells which form of volume is at path, links followed; ErrUsage if the object
// at path can be no volume.
func KindOf(path string) (Kind, error) { return checkVolume(path) }

// checkVolume refuses a path that no provider takes. It checks the form of the path and
// the object there.
func checkVolume(volume string) (Kind, error) {
	if !filepath.IsAbs(volume) {
		return "", fmt.Errorf("volume %q: %w: not an absolute path", volume, ErrUsage)
	}
	st, err := os.Stat(volume)
	if err != nil {
		return "", fmt.Errorf("volume %s: %w", volume, err)
	}
	kind, ok := kindOf(st.Mode())
	if !ok {
		return "", fmt.Errorf("volume %s: %w: neither a folder nor a file nor a block device", volume, ErrUsage)
	}
	return kind, nil
}

func kindOf(m fs.FileMode) (Kind, bool) {
	switch {
	case m.IsDir():
		return Tree, true
	case m.IsRegular(), m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0:
		return Image, true
	}
	return "", false
}

// checkRequest refuses a request that names no snapshot, or one of
// something that no provider takes.
func checkRequest(req Request) (name string, kind Kind, err error) {
	if name, err = snapshotName(req); err != nil {
		return "", "", err
	}
	kind, err = checkVolume(req.Volume)
	return name, kind, err
}
