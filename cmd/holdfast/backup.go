package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/backup"
	"holdfast/internal/pattern"
	"holdfast/internal/seal"
	"holdfast/internal/snapshot"
	"holdfast/internal/tree"
	"holdfast/internal/vault"
)

// volumeName is the volume's name in a backup made without an agent, which has one volume.
const volumeName = "data"

// backupJSON is the result of a backup. Sizes are bytes.
type backupJSON struct {
	Type     string `json:"type"` // "backup"
	Instance string `json:"instance"`
	Backup   string `json:"backup"`
	Object   string `json:"object"`
	Digest   string `json:"manifest_sha256"`
	Source   string `json:"source"` // "in place" or the provider of the snapshot
	Files    uint64 `json:"files"`
	Dirs     uint64 `json:"dirs"`
	Bytes    uint64 `json:"bytes"` // content of the backup
	// files that were not read: they are as at the last backup
	Unchanged    uint64 `json:"unchanged"`
	Read         uint64 `json:"read_bytes"`
	New          uint64 `json:"new_bytes"`
	Sent         uint64 `json:"sent_bytes"`
	Deduplicated uint64 `json:"deduplicated_bytes"`
	Packs        int    `json:"packs"`
	// Compressed is the new content by the level of compression that it met, before compression.
	Compressed map[string]uint64 `json:"compressed"`
	Seconds    float64           `json:"seconds"`
	Warnings   int               `json:"warnings"` // each was a line of its own
	// Incomplete: the backup lacks content at as many places as Lost says; each was a warning.
	Incomplete bool `json:"incomplete"`
	Lost       int  `json:"lost"`
	// entries that patterns left out, without the entries below them
	Excluded uint64 `json:"excluded"`
}

func (a *app) backupCommand() *cobra.Command {
	v := access{strict: true}
	of := backup.Source{Volume: volumeName}
	var instance, snap, levels string
	var exclude, excludeFrom []string
	cmd := &cobra.Command{
		Use:   "backup --instance ID PATH",
		Short: "Back up a folder, image or block device without an agent, and print the backup's id",
		Long: "backup reads the tree at PATH into a new backup of the instance, confirms it and prints its id. A file\n" +
			"or a block device is an image: a raw disk, of which the content is backed up and nothing else.\n\n" +
			"Run as root where snapshots can be made, it reads one that it removes (--snapshot auto). Elsewhere, and\n" +
			"with --snapshot off, it reads PATH in place: what changes while it reads is in the backup as it was\n" +
			"at the moment of reading. Stop what writes there first, or give the instance to an agent.\n\n" +
			"A PATH that became empty, or lies on another file system than at the last backup, is probably not\n" +
			"mounted, and is refused before anything is read (--allow-empty).\n\n" +
			"What can't be read does not stop the backup: each such place is listed, the backup is marked as incomplete,\n" +
			"and the exit code is 3. No restore takes an incomplete backup unless it is named.\n\n" +
			"--exclude leaves out what matches GLOB, a folder with all below it. A pattern without a slash matches a\n" +
			"name anywhere below PATH; one with a slash matches a path from PATH on; a slash at its end restricts it to\n" +
			"folders. * and ? stay within one name, ** crosses folders. --exclude-from reads patterns from FILE, one\n" +
			"on each line, without blank lines and lines that begin with #.",
		Example: "  holdfast backup --store file:///srv/backups --key host.key --instance cp-7 /data/cp-7\n" +
			"  holdfast backup --instance cp-7 --exclude '*.tmp' --exclude /cache/ --exclude-caches /data/cp-7",
		Args: arguments("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needInstance(cmd, instance); err != nil {
				return err
			}
			if snap != "auto" && snap != "off" {
				return &usageError{
					msg:     fmt.Sprintf("--snapshot: must be auto or off, got %q", snap),
					command: cmd.CommandPath(),
				}
			}
			least, most, err := parseLevels(levels)
			if err != nil {
				return &usageError{msg: "--compression: " + err.Error(), command: cmd.CommandPath()}
			}
			if of.Exclude, err = excludes(cmd, exclude, excludeFrom); err != nil {
				return err
			}
			doing := "back up " + instance
			path, kind, err := volume(args[0])
			if err != nil {
				return &failure{doing: doing, err: err}
			}
			if kind == snapshot.Image && (len(of.Exclude) > 0 || of.ExcludeCaches) {
				return &usageError{
					msg: fmt.Sprintf("--exclude: %s is an image, which is backed up as a whole and has no paths to leave out", name(args[0])), command: cmd.CommandPath(),
				}
			}
			a.noteHostPaths(of.Exclude, path)
			return a.withVault(cmd, v, doing, func(ctx context.Context, at *vaultAt) error {
				of.Root = path
				return a.backup(ctx, at, instance, of, [2]seal.Level{least, most}, snap == "auto")
			})
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&instance, "instance", "", "`ID` of the instance")
	f.StringVar(&snap, "snapshot", "auto", "auto or off: whether to read a snapshot where one can be made")
	f.StringVar(&levels, "compression", "fastest-default",
		"`LEVEL` or LEVEL-LEVEL: how much CPU goes into storing less, s2, fastest, default or better;\nof two, the level rises while the backup waits for the store")
	f.BoolVar(&of.AllowEmpty, "allow-empty", false,
		"back up PATH although it is empty, or lies on another file system, and the last backup has content of it")
	f.StringArrayVar(&exclude, "exclude", nil, "leave out what matches `GLOB`; repeat for several")
	f.StringArrayVar(&excludeFrom, "exclude-from", nil, "leave out what matches a pattern of `FILE`; repeat for several")
	f.BoolVar(&of.ExcludeCaches, "exclude-caches", false, "leave out what folders with a CACHEDIR.TAG hold")
	return cmd
}

// parseLevels reads one level of compression, or the least and the strongest with a dash between.
func parseLevels(s string) (least, most seal.Level, err error) {
	from, to, both := strings.Cut(s, "-")
	if least, err = seal.ParseLevel(from); err != nil {
		return 0, 0, err
	}
	if !both {
		return least, least, nil
	}
	if most, err = seal.ParseLevel(to); err != nil {
		return 0, 0, err
	}
	if most < least {
		return 0, 0, fmt.Errorf("%s is a weaker level than %s; write the weaker one first", most, least)
	}
	return least, most, nil
}

// needInstance checks the id that --instance gave.
func needInstance(cmd *cobra.Command, id string) error {
	if id == "" {
		return &usageError{msg: "missing --instance ID", command: cmd.CommandPath()}
	}
	return checkInstance(cmd, id)
}

// checkInstance checks the form of an instance's id; "" is fine where any instance is meant.
func checkInstance(cmd *cobra.Command, id string) error {
	if id == "" {
		return nil
	}
	if err := vault.CheckInstance(id); err != nil {
		return &usageError{msg: "--instance: " + err.Error(), command: cmd.CommandPath()}
	}
	return nil
}

// volume returns the absolute path of an existing folder, file or block device, and which it is.
func volume(path string) (string, snapshot.Kind, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", "", err
	}
	if _, err := os.Stat(abs); err != nil {
		return "", "", err
	}
	kind, err := snapshot.KindOf(abs)
	if err != nil {
		return "", "", fmt.Errorf("%s is neither a folder nor a file nor a block device", name(path))
	}
	return abs, kind, nil
}

func (a *app) backup(ctx context.Context, at *vaultAt, instance string, of backup.Source, levels [2]seal.Level, wantSnapshot bool) (err error) {
	path := of.Root
	if storeBelow(at.store.String(), path) {
		return &hintedError{
			fmt.Errorf("the store lies inside %s, which is to be backed up", name(path)),
			"a backup must not read what it writes; keep the store elsewhere",
		}
	}
	start := time.Now()
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	source := "in place"
	var unflushed []string
	if wantSnapshot {
		view, remove, serr := takeSnapshot(ctx, path, func(what string) { a.beside("holdfast: %s", what) })
		if serr != nil {
			return serr
		}
		if view != nil {
			defer func() { err = errors.Join(err, remove()) }()
			of.Root, source, unflushed = cmp.Or(view.Root, view.Image), view.Ref.Provider, view.Unflushed
			of.Taken, of.Mounted, of.Quiet = view.taken, view.mounted, true
			a.say("reading a %s snapshot of %s", source, name(path))
			if of.Nested, err = snapshot.Nested(view.Ref); err != nil {
				return err
			}
		}
	}
	if of.Root == path {
		unflushed = snapshot.FlushStacked(ctx, path)
	}
	p := a.newProgress("backup")
	defer p.finish()
	exclude, err := pattern.Compile(of.Exclude)
	if err != nil {
		return err
	}
	for _, what := range unflushed {
		p.warn(tree.Warning{What: what, Lost: true})
	}
	stopScan := p.scan(ctx, of.Root, exclude)
	result, err := backup.Run(ctx, backup.Options{
		MinLevel: levels[0],
		MaxLevel: levels[1],
		Vault:    at.Vault,
		Instance: instance,
		Host:     host,
		Identity: a.identity(),
		Agent:    "holdfast " + build().Version,
		Sources:  []backup.Source{of},
		Warn:     p.warn,
		// The last backup from here left its findings there,
		// so that unchanged files are not read again.
		CatalogueDir: a.catalogueDir(),
		IndexDir:     a.indexDir(),
		Progress: func(b backup.Progress) {
			p.set(progressLine{Bytes: b.Bytes, Entries: b.Entries, Files: b.Files, New: b.BytesNew, Sent: b.BytesSent})
		},
	})
	stopScan()
	p.finish()
	if err != nil {
		return err
	}
	if a.json {
		err = a.line(backupJSON{
			Type: "backup", Instance: instance, Backup: result.BackupID, Object: result.Object,
			Digest: result.ManifestSHA256, Source: source, Files: result.Files, Dirs: result.Dirs,
			Bytes: result.Bytes, Unchanged: result.Unchanged, Read: result.BytesRead, New: result.BytesNew, Sent: result.BytesSent,
			Deduplicated: result.BytesDeduplicated, Packs: result.Packs, Compressed: result.Compressed,
			Seconds: time.Since(start).Seconds(), Warnings: result.WarningCount,
			Incomplete: result.Lost > 0, Lost: result.Lost, Excluded: result.Excluded,
		})
	} else {
		a.say("%s in %s; read %s, %s new, sent %s; %s", size(result.Bytes), count(result.Files, "file", "files"),
			size(result.BytesRead), size(result.BytesNew), size(result.BytesSent), seconds(time.Since(start)))
		_, err = fmt.Fprintln(a.stdout, result.BackupID)
	}
	if err == nil && result.Lost > 0 {
		err = &partError{fmt.Sprintf("backup %s is stored, but incomplete: it lacks content at %s, listed above. "+
			"No restore takes it unless it is named with --backup",
			result.BackupID, count(result.Lost, "place", "places"))}
	}
	if err == nil && len(unflushed) > 0 {
		err = &partError{fmt.Sprintf("backup %s is stored, but may lack what was written last to what is mounted on %s, listed above",
			result.BackupID, name(path))}
	}
	return err
}

// storeBelow tells whether the store is a folder at path or below it.
func storeBelow(storeURL, path string) bool {
	u, err := url.Parse(storeURL)
	if err != nil || u.Scheme != "file" {
		return false
	}
	store, err1 := filepath.EvalSymlinks(u.Path)
	path, err2 := filepath.EvalSymlinks(path)
	if err1 != nil || err2 != nil {
		return false // the store or the backup itself reports the fault
	}
	below, err := filepath.Rel(path, store)
	return err == nil && below != ".." && !strings.HasPrefix(below, "../")
}
