package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

func (a *app) vaultRebuildIndexCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "rebuild-index",
		Short: "Make the index list what the packs hold",
		Long: "rebuild-index reads the tables of the packs that the index does not list, or that only a damaged\n" +
			"part of it lists, and writes that part anew. No restore needs the index, and a backup without it\n" +
			"only stores again what the vault has. Backups may run meanwhile. It lists the packs that do not\n" +
			"open, and then exits with 1.",
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withVault(cmd, v, "vault rebuild-index", a.vaultRebuildIndex)
		},
	}
	v.flags(cmd)
	return cmd
}

func (a *app) vaultRebuildIndex(ctx context.Context, at *vaultAt) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	report, err := at.RebuildIndex(ctx, vault.SessionOptions{Host: host, Identity: a.identity(), Instance: "index"})
	if err != nil {
		return err
	}
	if a.json {
		if report.Damaged == nil {
			report.Damaged = []string{} // so that it is a list in JSON too
		}
		if err := a.document(report); err != nil {
			return err
		}
	} else {
		for _, object := range report.Damaged {
			fmt.Fprintf(a.stdout, "damaged: %s\n", oneLine(object))
		}
	}
	a.say("read the tables of %d of %s, which added %s; %s replaced, %s gone",
		report.Read, count(report.Packs, "pack", "packs"), count(report.Chunks, "chunk", "chunks"),
		count(report.Replaced, "segment", "segments"), count(report.Gone, "pack", "packs"))
	if n := len(report.Damaged); n > 0 {
		return &damagedError{damaged: n}
	}
	return nil
}
