package known

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"holdfast/internal/evidence"
	"holdfast/internal/image"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// A volume that is not mounted looks like an empty folder, or like a folder of another file
// system. A backup of that folder would be the newest, and the next restore would bring back
// nothing. So a source is compared with the last backup before anything of the source is read:
// with the volume's catalogue on this host, which a restore renews too, and with the manifest.

// UnmountedError says that a volume is empty, or lies on another
// file system, although the last backup has content of it.
type UnmountedError struct {
	Instance, Volume string
	Path             string // of the source
	Files            uint64 // that the last backup has of the volume
	Empty            bool   // else it has content, on another file system
	Was, Is          string // file systems; "" is not known
	Unread           error  // why no manifest of an earlier backup could be read; nil when one was
}

func (e *UnmountedError) Error() string {
	on := func(name string) string {
		switch name {
		case "":
			return "a file system that is not known"
		case evidence.Device:
			return "a block device"
		}
		return name
	}
	if e.Unread != nil {
		return fmt.Sprintf("volume %q of %s: %s is empty, and whether the volume was empty before is not known, since the manifest of the last backup can't be read "+
			"(%v); mount the volume, or, if it is meant to be empty, %s", e.Volume, e.Instance, e.Path, e.Unread, allowEmpty)
	}
	what := "lies on another file system than"
	if e.Empty {
		what = "is empty, unlike"
	}
	files := "1 file"
	if e.Files != 1 {
		files = fmt.Sprintf("%d files", e.Files)
	}
	where := fmt.Sprintf("it lay on %s, and %s lies on %s", on(e.Was), e.Path, on(e.Is))
	if e.Was != "" && e.Was == e.Is {
		where = fmt.Sprintf("%s lies on %s, as the volume did", e.Path, on(e.Is))
	}
	return fmt.Sprintf("volume %q of %s %s in the last backup, which has %s of it: %s; mount the volume, or, if this is meant, %s",
		e.Volume, e.Instance, what, files, where, allowEmpty)
}

const allowEmpty = "allow it with --allow-empty, or with allow_empty: true for the volume in the agent's configuration"

// Mounted compares the volumes with the last backup, before anything is read: its
// error is an *UnmountedError, or says that the last backup can't be asked.
func (h *History) Mounted(ctx context.Context, volumes []Volume) error {
	for _, v := range volumes {
		if v.AllowEmpty {
			continue
		}
		if err := h.volumeMounted(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (h *History) volumeMounted(ctx context.Context, v Volume) error {
	now, err := lookAt(ctx, v.Root)
	if err != nil {
		return context.Cause(ctx) // the error comes when the source is read
	}
	local := h.localFileSystem(v.Name)
	if local != "" && !now.empty && evidence.SameFileSystem(local, now.fileSystem) {
		return nil // the usual case asks the store for nothing
	}
	stored, unread := h.storedVolume(v.Name)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Where either knows the place, all is well: a restore renews the catalogue, and not the
	// manifest; a restore to somewhere else, for a look at it, renews the catalogue too.
	var places []string
	for _, at := range []string{local, stored.fileSystem} {
		if at != "" {
			places = append(places, at)
		}
	}
	// A folder can't stand in for an absent device, so a device that is there is the right one.
	elsewhere := len(places) > 0 && now.fileSystem != evidence.Device && !slices.ContainsFunc(places, func(at string) bool { return evidence.SameFileSystem(at, now.fileSystem) })
	if !now.empty && !elsewhere {
		return context.Cause(ctx)
	}
	last, ok := h.localVolume(v.Name)
	if !ok && unread != nil && !now.empty {
		return context.Cause(ctx)
	}
	if !ok && unread != nil && !unusable(unread) {
		return fmt.Errorf("volume %q is empty, and the last backup can't be asked whether it was empty before: %w", v.Name, unread)
	}
	if !ok && unread != nil {
		return &UnmountedError{Instance: h.Instance, Volume: v.Name, Path: v.Root, Empty: true, Is: now.fileSystem, Unread: unread}
	}
	if !ok {
		last = stored
	}
	if last.content <= now.recovered {
		return context.Cause(ctx) // nothing can be missing
	}
	e := &UnmountedError{
		Instance: h.Instance, Volume: v.Name, Path: v.Root, Files: last.files, Empty: now.empty, Is: now.fileSystem,
	}
	for _, at := range places { // of two places, the place that differs from the present one tells more
		if e.Was == "" || !evidence.SameFileSystem(at, now.fileSystem) {
			e.Was = at
		}
	}
	return e
}

// BecameZeros fails for an image that consists of nothing
// but zeros, unlike the image of the last backup.
func (h *History) BecameZeros(v Volume, vol vault.Volume) error {
	if vol.Bytes > 0 || v.AllowEmpty {
		return nil
	}
	last, unread := h.storedVolume(v.Name)
	if unread != nil && !unusable(unread) {
		return fmt.Errorf("volume %q has only zeros, and the last backup can't be asked whether that was so before: %w", v.Name, unread)
	}
	if last.content == 0 && unread == nil {
		return nil
	}
	return &UnmountedError{
		Instance: h.Instance, Volume: v.Name, Path: v.Root, Files: last.files, Empty: true, Was: last.fileSystem, Is: vol.FileSystem, Unread: unread,
	}
}

// lastVolume holds the facts about a volume when it was last backed up or restored.
type lastVolume struct {
	fileSystem string // "" is not known
	files      uint64
	content    uint64 // entries that are no folders; bytes of an image
}

// localFileSystem is where the volume lay by its catalogue on this host; "" when that is not known.
func (h *History) localFileSystem(volume string) string {
	if h.Catalogues == "" {
		return ""
	}
	last, f, err := h.Vault.LastCatalogue(h.Catalogues, h.Instance, volume)
	if err != nil {
		return ""
	}
	_ = f.Close() // only read
	return last.Evidence().FileSystem
}

// localVolume returns the facts of the catalogue on this host
// about the entries of the volume; false when it has none.
func (h *History) localVolume(volume string) (known lastVolume, ok bool) {
	if h.Catalogues == "" {
		return known, false
	}
	last, f, err := h.Vault.LastCatalogue(h.Catalogues, h.Instance, volume)
	if err != nil {
		return known, false
	}
	defer f.Close() // only read
	for {
		items, err := last.Next()
		if err != nil {
			return known, ok && errors.Is(err, io.EOF)
		}
		for i := range items {
			it := &items[i]
			ok = true
			if it.Kind == tree.File && !it.Continued {
				known.files++
			}
			if it.Kind != tree.Dir && !it.Continued && it.Path != "" || it.Path == "" && len(it.Extents) > 0 {
				known.content++
			}
		}
	}
}

// storedVolume returns the facts of the newest backup whose manifest opens; about the place
// only if this host made that backup. A damaged manifest does not hide the facts of the
// backups before it. The error says why no manifest of an earlier backup could be read.
func (h *History) storedVolume(volume string) (known lastVolume, err error) {
	m, err := h.readable()
	if errors.Is(err, vault.ErrNoBackup) {
		return known, nil
	} else if err != nil {
		return known, err
	}
	vol, err := m.Volume(volume)
	if err != nil {
		return known, nil // the volume is new
	}
	known.files, known.content = vol.Files, vol.Content()
	if m.Host == h.Host && m.Host != "" {
		known.fileSystem = vol.FileSystem
	}
	return known, nil
}

// place tells where a source lies now.
type place struct {
	fileSystem string
	empty      bool
	recovered  uint64 // entries in lost+found, which is what makes no volume
}

// lostAndFound is the folder that mkfs makes in an empty file system.
const lostAndFound = "lost+found"

var errContent = errors.New("something is there")

// lookAt finds out where a source lies and whether it is empty. A
// tree is when it has nothing but folders and what fsck has put into
// lost+found; an image when it has no length, or nothing but a hole.
func lookAt(ctx context.Context, root string) (place, error) {
	info, err := os.Stat(root)
	if err != nil {
		return place{}, err
	}
	if !info.IsDir() {
		return lookAtImage(root)
	}
	t, err := tree.OpenRoot(root)
	if err != nil {
		return place{}, err
	}
	defer t.Close()
	p := place{fileSystem: t.FileSystem()}
	err = t.Walk(ctx, tree.WalkOptions{NoXattrs: true, Warn: func(tree.Warning) {}}, func(e *tree.Entry) error {
		first, _, _ := strings.Cut(e.Path, "/")
		switch {
		case e.Kind == tree.Dir:
		case first == lostAndFound:
			p.recovered++
		default:
			return errContent
		}
		return nil
	})
	p.empty = err == nil
	if errors.Is(err, errContent) {
		p.recovered, err = 0, nil
	}
	return p, err
}

func lookAtImage(file string) (place, error) {
	img, err := image.Open(file)
	if err != nil {
		return place{}, err
	}
	defer img.Close() // only looked at
	p := place{fileSystem: evidence.FileSystem(img.File()), empty: img.Size() == 0}
	if !p.empty && !img.Device() {
		p.empty = img.NextData(0, img.Size()).Len == 0
	}
	return p, nil
}
