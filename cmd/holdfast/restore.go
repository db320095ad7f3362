package main

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/restore"
)

// restoreJSON is the result of a restore. Sizes are bytes.
type restoreJSON struct {
	Type     string  `json:"type"` // "restore"
	Instance string  `json:"instance"`
	Backup   string  `json:"backup"`
	Target   string  `json:"target"`
	Files    uint64  `json:"files"`
	Dirs     uint64  `json:"dirs"`
	Bytes    uint64  `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Warnings int     `json:"warnings"` // each was a line of its own
	// Losses is how many places there are at most, in the restored part, at which
	// the backup lacks content. The losses that it names had lines of their own.
	Losses uint64 `json:"losses"`
	// NewerIncomplete is the id of a newer backup that was not taken,
	// as it is incomplete and was not named.
	NewerIncomplete string `json:"newer_incomplete,omitempty"`
}

func (a *app) restoreCommand() *cobra.Command {
	var v access
	var instance, id string
	var include []string
	cmd := &cobra.Command{
		Use:   "restore --instance ID DEST",
		Short: "Bring a backup back into a new or empty folder, a new file, or onto a block device",
		Long: "restore builds the tree beside DEST and puts it in place with one rename, so that a restore that\n" +
			"fails leaves DEST as it was. Without --backup it takes the newest one that is complete. It needs\n" +
			"root to give files back to their owners; what can't be exact, and what the backup itself lacks, is listed,\n" +
			"and the exit code is 3.\n\n" +
			"An image becomes a new file, sparse where it has zeros. Where DEST is a block device that is not in\n" +
			"use and large enough, the image is written onto it; a restore that fails has then destroyed what was there.",
		Example: "  holdfast restore --store file:///srv/backups --key host.key --instance cp-7 /data/cp-7",
		Args:    arguments("DEST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needInstance(cmd, instance); err != nil {
				return err
			}
			for _, glob := range include {
				if _, err := path.Match(glob, ""); err != nil {
					return &usageError{msg: fmt.Sprintf("--include: %q is no pattern", glob), command: cmd.CommandPath()}
				}
			}
			return a.withVault(cmd, v, "restore "+instance, func(ctx context.Context, at *vaultAt) error {
				return a.restore(ctx, at, instance, id, args[0], include)
			})
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&instance, "instance", "", "`ID` of the instance")
	f.StringVar(&id, "backup", "", "`ID` of the backup; the newest that is complete if not given")
	f.StringArrayVar(&include, "include", nil,
		"restore only what matches `GLOB`, all of the folders that do, and the folders on the way; repeat for several")
	return cmd
}

func (a *app) restore(ctx context.Context, at *vaultAt, instance, id, dest string, include []string) error {
	start := time.Now()
	ref, err := at.backupOf(ctx, instance, id)
	if err != nil {
		return err
	}
	newer := ""
	if id == "" {
		if newer, err = at.newerIncomplete(ctx, ref); err != nil {
			return err
		}
		if newer != "" {
			a.say("note: %s is newer, but incomplete; name it with --backup to restore what it has", newer)
		}
	}
	p := a.newProgress("restore")
	defer p.finish()
	result, err := restore.Run(ctx, restore.Options{
		Vault: at.Vault, Ref: ref, Dest: dest, Include: include, Reader: a.session(),
		Warn: p.warn,
		// The next backup from here then reads only what changed since.
		CatalogueDir: a.catalogueDir(),
		Trouble:      func(err error) { a.say("note: %s", sentence(err.Error())) },
		Progress: func(r restore.Progress) {
			if len(include) == 0 {
				p.expect(r.TotalBytes)
			}
			p.set(progressLine{Bytes: r.Bytes, Entries: r.Entries})
		},
	})
	p.finish()
	if err != nil {
		return a.olderWhole(ctx, at, ref, err)
	}
	if err := a.tellLosses(result.Losses, result.LossCount); err != nil {
		return err
	}
	if a.json {
		err = a.line(restoreJSON{
			Type: "restore", Instance: instance, Backup: ref.ID, Target: dest,
			Files: result.Files, Dirs: result.Dirs, Bytes: result.Bytes,
			Seconds: time.Since(start).Seconds(), Warnings: result.WarningCount,
			Losses: result.LossCount, NewerIncomplete: newer,
		})
		if err != nil {
			return err
		}
	}
	a.say("restored backup %s of %s: %s in %s; %s", ref.ID, stamp(ref.Time), size(result.Bytes),
		count(result.Files, "file", "files"), seconds(time.Since(start)))
	var part []string
	if n := result.LossCount; n > 0 {
		part = append(part, "the backup lacks content at "+count(n, "place", "places"))
	}
	if n := result.WarningCount; n > 0 {
		part = append(part, "not exact: "+count(n, "warning", "warnings"))
	}
	if len(part) > 0 {
		return &partError{fmt.Sprintf("%s is restored, but %s; listed above", name(dest), strings.Join(part, ", and "))}
	}
	return nil
}
