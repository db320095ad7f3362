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
			"name. It lists what is damaged, what can't be read, and packs that may be deleted before a backup\n" +
			"that needs them, with the backups that each touches, and then exits with 1. It also lists incomplete\n" +
			"backups, which lacked content when they were made; those are not damaged. It keeps what does not\n" +
			"fit into 64 MiB of memory in temporary files in TMPDIR: 50 bytes for each chunk of the vault at most.",
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
	var report vault.VerifyReport
	err := at.ReadUnder(ctx, a.session(), vault.Reads(instance, ""), func(ctx context.Context) (err error) {
		report, err = at.Verify(ctx, vault.VerifyOptions{
			Instance: instance, ReadDataPercent: percent,
			Progress: func(v vault.VerifyProgress) {
				p.set(progressLine{Bytes: v.BytesRead})
			},
		})
		return err
	})
	p.finish()
	if err != nil {
		return err
	}
	if report.Backups == 0 && len(report.Damaged) == 0 {
		// A list that came empty by mistake looks like this too, so it is no success.
		return errNothingVerified
	}
	if a.json {
		for _, list := range []*[]vault.Damage{&report.Damaged, &report.Unread, &report.Unprotected} {
			if *list == nil {
				*list = []vault.Damage{} // so that it is a list in JSON too
			}
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
		a.findings("damaged", report.Damaged)
		a.findings("can't be read", report.Unread)
		a.findings("not protected", report.Unprotected)
	}
	a.say("checked %s with %s in %s; read %s in %s",
		count(report.Backups, "backup", "backups"), count(report.Items, "entry", "entries"),
		count(report.Packs, "pack", "packs"), size(report.BytesRead), count(report.Chunks, "chunk", "chunks"))
	if report.Findings() > 0 {
		return &damagedError{len(report.Damaged), len(report.Unread), len(report.Unprotected)}
	}
	return nil
}

// errNothingVerified is the end of a verification that found no backups.
var errNothingVerified = fmt.Errorf("%w to verify", vault.ErrNoBackup)

// findings prints the findings of a verification, a line for each object.
func (a *app) findings(what string, list []vault.Damage) {
	for _, d := range list {
		touches := strings.Join(d.Backups, ", ")
		if touches == "" { // the index
			touches = "no backup; holdfast vault rebuild-index makes it anew"
		}
		fmt.Fprintf(a.stdout, "%s: %s: %s; touches %s\n", what, oneLine(d.Object), oneLine(d.Reason), oneLine(touches))
	}
}

// damagedError says how many objects a verification found something about; they were listed.
type damagedError struct{ damaged, unread, unprotected int }

func (e *damagedError) Error() string {
	var parts []string
	if e.damaged > 0 {
		parts = append(parts, count(e.damaged, "object is", "objects are")+" damaged")
	}
	if e.unread > 0 {
		parts = append(parts, count(e.unread, "object", "objects")+" can't be read")
	}
	if e.unprotected > 0 {
		parts = append(parts, count(e.unprotected, "pack is", "packs are")+" not locked as long as a backup that needs it")
	}
	return strings.Join(parts, ", ") + ", listed above"
}
