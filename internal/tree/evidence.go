package tree

import "holdfast/internal/evidence"

// Mounted identifies the mount that the tree lies on, as
// evidence.Mount does. The open tree keeps it mounted.
func (r *Root) Mounted() string { return evidence.MountByFD(r.fd) }

// FileSystem names the file system that the tree lies on, as evidence.FileSystem does.
func (r *Root) FileSystem() string { return evidence.FileSystemByFD(r.fd) }

// TellsChanges is nil where each change of a file in the tree at path shows in its time of change,
// by the clock of this host; else an error that is ErrSilentChanges, or why that is not known.
func TellsChanges(path string) error {
	r, err := OpenRoot(path)
	if err != nil {
		return err
	}
	defer r.Close() // only looked at
	if !tellsChanges(r.magic) {
		return silentChanges(r.magic)
	}
	return nil
}
