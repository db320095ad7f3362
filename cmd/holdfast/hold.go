package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

func (a *app) holdCommand() *cobra.Command {
	var v access
	var reason, until string
	cmd := &cobra.Command{
		Use:   "hold BACKUP",
		Short: "Keep a backup from being forgotten and deleted, with a reason",
		Long: "hold keeps a backup, whatever the rules of forget say, until unhold or until a date. A backup that is\n" +
			"forgotten already is kept too, and stays forgotten.",
		Example: "  holdfast hold 00000012-20260102T150405Z-0123456789abcdef --reason 'case 4711' --until 2027-01-01",
		Args:    arguments("BACKUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return &usageError{msg: "no reason given", command: cmd.CommandPath(), advice: "give --reason TEXT, for the people who find the hold later"}
			}
			end, err := parseDate(until)
			if err != nil {
				return &usageError{msg: "--until: " + err.Error(), command: cmd.CommandPath()}
			}
			return a.withVault(cmd, v, "hold", func(ctx context.Context, at *vaultAt) error {
				return a.hold(ctx, at, args[0], reason, end)
			})
		},
	}
	v.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that says why")
	cmd.Flags().StringVar(&until, "until", "", "`DATE` at whose begin in UTC the hold ends (2027-01-31), or a time (2027-01-31T12:00:00Z); without an end if not given")
	return cmd
}

// parseDate reads a date, or a time of RFC 3339; "" is the zero time.
func parseDate(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			if !t.After(time.Now()) {
				return t, fmt.Errorf("%s is past", text)
			}
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date: write it as 2027-01-31 or 2027-01-31T12:00:00Z", text)
}

func (a *app) hold(ctx context.Context, at *vaultAt, id, reason string, until time.Time) error {
	ref, err := at.Find(ctx, "", id)
	if errors.Is(err, vault.ErrNoBackup) {
		return &noBackupError{id: id, err: err}
	} else if err != nil {
		return err
	}
	h, err := at.Hold(ctx, a.session(), ref, reason, until)
	if err != nil {
		return err
	}
	if a.json {
		return a.document(h)
	}
	a.say("backup %s of %s is held; holdfast unhold %s ends it", ref.ID, ref.Instance, h.ID)
	return nil
}

func (a *app) unholdCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "unhold HOLD|BACKUP",
		Short: "End a hold, or all holds of a backup",
		Args:  arguments("HOLD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withVault(cmd, v, "unhold", func(ctx context.Context, at *vaultAt) error {
				return a.unhold(ctx, at, args[0])
			})
		},
	}
	v.flags(cmd)
	return cmd
}

func (a *app) unhold(ctx context.Context, at *vaultAt, what string) error {
	all, err := at.Holds(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, h := range all {
		if h.ID == what || h.Backup == what {
			ids = append(ids, h.ID)
			a.say("backup %s of %s is not held any more for: %s", h.Backup, h.Instance, oneLine(h.Reason))
		}
	}
	if len(ids) == 0 {
		return &hintedError{fmt.Errorf("no hold %s, and no hold of a backup with that id", name(what)), "holdfast list shows the holds"}
	}
	return at.Unhold(ctx, ids...)
}

// holdText is a hold in a list.
func holdText(h vault.Hold) string {
	until := ""
	if !h.Until.IsZero() {
		until = " until " + stamp(h.Until)
		if !h.Until.After(time.Now()) {
			return "was held" + until + ": " + h.Reason
		}
	}
	return "held" + until + ": " + h.Reason
}
