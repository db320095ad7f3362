package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/image"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// isDevice tells whether the destination is a block device, or a link to one.
func isDevice(dest string) bool {
	info, err := os.Stat(dest)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}

// device restores the one volume of a backup, an image, onto a block device.
// Nothing is written unless the image fits. A failure after that leaves a device
// with a mixture of old and new content: nothing else can be done in place.
func (r *run) device(ctx context.Context, volumes []vault.Volume, dest string) error {
	if len(volumes) != 1 || volumes[0].Kind != vault.KindImage || len(r.o.Include) > 0 {
		return fmt.Errorf("%s is a block device, onto which one image is restored: %w", dest, ErrTargetExists)
	}
	t, err := image.OpenDevice(dest)
	if err != nil {
		return err
	}
	return r.image(ctx, &volumes[0], t)
}

// imageFile restores an image to a new file.
func (r *run) imageFile(ctx context.Context, vol *vault.Volume, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	t, err := image.Create(path)
	if err != nil {
		return err
	}
	return r.image(ctx, vol, t)
}

// image writes an image to t, and closes t. A hole in the backup takes no room in a file.
func (r *run) image(ctx context.Context, vol *vault.Volume, t *image.Target) (err error) {
	defer func() { err = errors.Join(err, t.Close()) }()
	b := &builder{run: r, win: newWindow()}
	ferr := r.o.Vault.Items(ctx, vol, func(items []vault.Item) error {
		for i := range items {
			if err := b.imageItem(ctx, &items[i], t); err != nil {
				return err
			}
		}
		return nil
	})
	if ferr == nil && b.cur == nil {
		ferr = errors.New("recipe of the image is empty")
	}
	if ferr == nil {
		ferr = t.Zero(b.end, b.cur.entry.Size-b.end)
	}
	if ferr == nil {
		ferr = b.fetchWindow(ctx)
	}
	if err := errors.Join(ferr, b.wait()); err != nil {
		return err
	}
	if over := t.Room() - b.cur.entry.Size; t.Device() && over > 0 {
		r.warnings.Warn(tree.Warning{NoPlace: true, What: fmt.Sprintf("the device has %d bytes more than the image; those are as they were", over)})
	}
	return t.Finish()
}

// imageItem takes the one item of an image, and its continuations.
func (b *builder) imageItem(ctx context.Context, it *vault.Item, t *image.Target) error {
	switch {
	case it.Continued && b.cur == nil, !it.Continued && b.cur != nil, !it.Continued && (it.Kind != tree.File || it.HasLinkTo), it.Path != "":
		return fmt.Errorf("recipe of the image has an item that is none: %q", it.Path)
	case !it.Continued:
		if err := t.Resize(it.Size); err != nil {
			return err
		}
		b.cur = &file{entry: &it.Entry, image: t}
		b.counts.entries.Add(1)
		b.counts.files.Add(1)
	}
	end := b.end
	for _, x := range it.Extents {
		if x.Off > end && x.Off <= b.cur.entry.Size {
			if err := t.Zero(end, x.Off-end); err != nil {
				return err
			}
		}
		end = max(end, x.Off+int64(x.Len))
	}
	return b.extents(ctx, it)
}
