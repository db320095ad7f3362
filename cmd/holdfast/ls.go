package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// entryLine is an entry of a backup as a JSON line. Path is as in warningLine.
type entryLine struct {
	Type      string    `json:"type"` // "entry"
	Path      string    `json:"path"`
	PathBytes []byte    `json:"path_bytes,omitempty"`
	Kind      string    `json:"kind"`
	Mode      string    `json:"mode"` // as ls -l has it
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	Size      int64     `json:"size"` // bytes, holes included
	Modified  time.Time `json:"modified"`
	Target    string    `json:"target,omitempty"`  // of a symbolic link
	LinkTo    string    `json:"link_to,omitempty"` // the first name of the same file
}

// backupLine comes before the entries of a backup that is
// incomplete, or that left something out on purpose.
type backupLine struct {
	Type       string `json:"type"` // "backup"
	Backup     string `json:"backup"`
	Incomplete bool   `json:"incomplete"`
	Lost       uint64 `json:"lost"` // places at which the backup lacks content
	// Volumes has the volumes with the patterns of their excluded entries.
	Volumes []vault.Volume `json:"volumes"`
}

func (a *app) lsCommand() *cobra.Command {
	var v access
	var recursive bool
	cmd := &cobra.Command{
		Use:   "ls BACKUP [PATH]",
		Short: "List what a backup holds",
		Long: "ls lists the entries of a folder in a backup (of its root, without PATH), or all below it with\n" +
			"--recursive. In a backup of several volumes a path begins with the volume's name, which is also the path\n" +
			"of an image.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return arguments("BACKUP", "PATH")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			folder := ""
			if len(args) == 2 {
				folder = strings.Trim(args[1], "/")
			}
			return a.withVault(cmd, v, "ls "+args[0], func(ctx context.Context, at *vaultAt) error {
				return a.ls(ctx, at, args[0], folder, recursive)
			})
		},
	}
	v.flags(cmd)
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list everything below PATH")
	return cmd
}

func (a *app) ls(ctx context.Context, at *vaultAt, id, folder string, recursive bool) error {
	found := folder == ""
	err := a.items(ctx, at, id, a.tellBackup, func(path string, item *vault.Item) error {
		if item.Continued {
			return nil
		}
		if path == folder {
			found = true
			if item.Kind == tree.Dir {
				return nil
			}
		} else {
			below, ok := strings.CutPrefix(path, folder+"/")
			if folder == "" {
				below, ok = path, true
			}
			if !ok || !recursive && strings.Contains(below, "/") {
				return nil
			}
		}
		return a.entry(path, &item.Entry)
	})
	if err == nil && !found {
		err = &noEntryError{folder}
	}
	return err
}

// noEntryError names a path that is not in a backup.
type noEntryError struct{ path string }

func (e *noEntryError) Error() string { return name(e.path) + " is not in the backup" }

// tellBackup says before a listing which content the backup does not have.
func (a *app) tellBackup(m *vault.Manifest) error {
	var notes []string
	if m.Lost > 0 {
		notes = append(notes, incompleteNote(m))
	}
	for i := range m.Volumes {
		if note := excludesNote(&m.Volumes[i]); note != "" {
			notes = append(notes, note)
		}
	}
	if len(notes) > 0 && a.json {
		return a.line(backupLine{"backup", m.ID, m.Lost > 0, m.Lost, m.Volumes})
	}
	for _, note := range notes {
		a.say("note: %s", oneLine(note))
	}
	return nil
}

// items calls head with the manifest of a backup, and each for every item of it, in the order
// of the walk. Where the backup has several volumes, the volume's name is the first element of
// path; for an image it is the whole path. A session keeps the backup in the vault meanwhile.
func (a *app) items(ctx context.Context, at *vaultAt, id string, head func(*vault.Manifest) error, each func(path string, item *vault.Item) error) error {
	ref, err := at.Find(ctx, "", id)
	if errors.Is(err, vault.ErrNoBackup) {
		return &noBackupError{id: id, err: err}
	}
	if err != nil {
		return err
	}
	return at.ReadUnder(ctx, a.session(), vault.Reads(ref.Instance, ref.ID), func(ctx context.Context) error {
		return readItems(ctx, at, ref, head, each)
	})
}

func readItems(ctx context.Context, at *vaultAt, ref vault.BackupRef, head func(*vault.Manifest) error, each func(path string, item *vault.Item) error) error {
	manifest, err := at.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	if err := head(manifest); err != nil {
		return err
	}
	for i := range manifest.Volumes {
		volume := &manifest.Volumes[i]
		err := at.Items(ctx, volume, func(items []vault.Item) error {
			for j := range items {
				path := items[j].Path
				switch {
				case volume.Kind == vault.KindImage: // its one item has no path, and no time of its own
					path = volume.Name
					items[j].Mtime = tree.Time{Sec: ref.Time.Unix()}
				case len(manifest.Volumes) > 1:
					path = strings.TrimSuffix(volume.Name+"/"+path, "/")
				}
				if err := each(path, &items[j]); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entry prints one entry.
func (a *app) entry(path string, e *tree.Entry) error {
	modified := time.Unix(e.Mtime.Sec, int64(e.Mtime.Nsec)).UTC()
	if a.json {
		l := entryLine{
			Type: "entry", Path: path, Kind: kindName(e.Kind), Mode: modeText(e), UID: e.UID, GID: e.GID,
			Size: e.Size, Modified: modified, Target: e.Target, LinkTo: e.LinkTo,
		}
		if !utf8.ValidString(path) {
			l.PathBytes = []byte(path)
		}
		return a.line(l)
	}
	shown := name(path)
	switch {
	case e.HasLinkTo:
		// Of a further name the recipe has nothing but the first one.
		_, err := fmt.Fprintf(a.stdout, "%-10s %42s  %s = %s\n", "hard link", "", shown, name(e.LinkTo))
		return err
	case e.Kind == tree.Symlink:
		shown += " -> " + name(e.Target)
	}
	_, err := fmt.Fprintf(a.stdout, "%s %5d %5d %12d %s  %s\n", modeText(e), e.UID, e.GID, e.Size,
		modified.Format("2006-01-02 15:04"), shown)
	return err
}

func kindName(k tree.Kind) string {
	switch k {
	case tree.File:
		return "file"
	case tree.Dir:
		return "folder"
	case tree.Symlink:
		return "symlink"
	case tree.Fifo:
		return "fifo"
	case tree.Socket:
		return "socket"
	case tree.CharDevice:
		return "char-device"
	case tree.BlockDevice:
		return "block-device"
	}
	return fmt.Sprintf("kind-%d", k)
}

// modeText is kind and permissions as ls -l has them, with set-id and sticky bits.
func modeText(e *tree.Entry) string {
	kinds := map[tree.Kind]byte{
		tree.Dir: 'd', tree.Symlink: 'l', tree.Fifo: 'p', tree.Socket: 's', tree.CharDevice: 'c', tree.BlockDevice: 'b',
	}
	text := []byte(fs.FileMode(e.Mode & 0o777).String())
	if c, ok := kinds[e.Kind]; ok {
		text[0] = c
	}
	for _, bit := range []struct {
		mask   uint32
		at     int
		letter byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		switch {
		case e.Mode&bit.mask == 0:
		case text[bit.at] == 'x':
			text[bit.at] = bit.letter
		default:
			text[bit.at] = bit.letter - 'a' + 'A'
		}
	}
	return string(text)
}
