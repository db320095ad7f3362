package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

// verifyJSON is the result of a verification.
type verifyJSON struct {
	Type string `json:"type"` // "verify"
	vault.VerifyReport
}

func (a *app) verifyCommand() *cobra.Command {
	var v access
	var instance string
	var percent float64
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that every backup can be restored",
		Long: "verify opens every manifest and recipe and the table of every pack they name. With --read-data it\n" +
			"also reads that share of the packs, chosen at random, and compares every chunk in them with its\n" +
			"name. It lists what is damaged and which backups that touches, and then exits with 1. It also lists\n" +
			"incomplete backups, which lacked content when they were made; those are not damaged.",
		Example: "  holdfast verify --read-data 5",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkInstance(cmd, instance); err != nil {
				return err
			}
			if !(percent >= 0 && percent <= 100) { // also refuses NaN
				return &usageError{
					msg:     fmt.Sprintf("--read-data: must be from 0 to 100, got %v", percent),
					command: cmd.CommandPath(),
				}
			}
			return a.withVault(cmd, v, "verify", func(ctx context.Context, at *vaultAt) error {
				return a.verify(ctx, at, instance, percent)
			})
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	cmd.Flags().StringVar(&instance, "instance", "", "`ID` of the one instance whose backups to check")
	cmd.Flags().Float64Var(&percent, "read-data", 0, "`PERCENT` of the packs to read whole")
	return cmd
}

func (a *app) verify(ctx context.Context, at *vaultAt, instance string, percent float64) error {
	p := a.newProgress("verify")
	report, err := at.Verify(ctx, vault.VerifyOptions{
		Instance: instance, ReadDataPercent: percent,
		Progress: func(v vault.VerifyProgress) {
			p.set(progressLine{Bytes: v.BytesRead})
		},
	})
	p.finish()
	if err != nil {
		return err
	}
	if report.Backups == 0 && len(report.Damaged) == 0 {
		// A list that came empty by mistake looks like this too, so it is no success.
		return fmt.Errorf("%w: the vault has none, so nothing was checked", vault.ErrNoBackup)
	}
	if a.json {
		if report.Damaged == nil {
			report.Damaged = []vault.Damage{} // so that it is a list in JSON too
		}
		if report.Incomplete == nil {
			report.Incomplete = []vault.IncompleteBackup{} // likewise
		}
		if err := a.line(verifyJSON{"verify", report}); err != nil {
			return err
		}
	} else {
		for _, b := range report.Incomplete {
			fmt.Fprintf(a.stdout, "incomplete: %s: it lacks content at %s since it was made\n", oneLine(b.Backup), count(b.Lost, "place", "places"))
		}
		for _, d := range report.Damaged {
			touches := strings.Join(d.Backups, ", ")
			if touches == "" { // the index
				touches = "no backup; holdfast vault rebuild-index makes it anew"
			}
			fmt.Fprintf(a.stdout, "damaged: %s: %s; touches %s\n", oneLine(d.Object), oneLine(d.Reason), oneLine(touches))
		}
	}
	a.say("checked %s with %s in %s; read %s in %s",
		count(report.Backups, "backup", "backups"), count(report.Items, "entry", "entries"),
		count(report.Packs, "pack", "packs"), size(report.BytesRead), count(report.Chunks, "chunk", "chunks"))
	if n := len(report.Damaged); n > 0 {
		return &damagedError{n}
	}
	return nil
}

// damagedError says how many objects a verification found damaged; they were listed.
type damagedError struct{ objects int }

func (e *damagedError) Error() string {
	return count(e.objects, "object is", "objects are") + " damaged, listed above"
}
