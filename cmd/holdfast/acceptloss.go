package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// acceptLossCommand shows the lost backups of an instance, and with --yes accepts the loss.
func (a *app) acceptLossCommand() *cobra.Command {
	var yes bool
	var newest string
	cmd := &cobra.Command{
		Use:   "accept-loss INSTANCE",
		Short: "Accept that the store lost backups of an instance, so that an older one counts",
		Long: "accept-loss shows which backups of the instance this host knows and the store lacks. While the store lacks the newest of\n" +
			"them, `prepare` fails: the store may have been set back. Where the backups were deleted on purpose, --yes accepts the loss:\n" +
			"from then on the newest backup that the store has counts on this host. The acceptance is in the journal and in the audit log.\n\n" +
			"What the volumes of the instance hold may be all that is left of a lost backup. A backup of the instance, before\n" +
			"the loss is accepted, saves that content.",
		Example: "  holdfast accept-loss cp-0001\n  holdfast accept-loss cp-0001 --yes",
		Args:    arguments("INSTANCE"),
	}
	ask := a.askAgent(cmd, "accept-loss", func(ctx context.Context, c *api.Client, args []string) error {
		l, err := c.Loss(ctx, args[0])
		if err != nil {
			return err
		}
		confirmed := api.LossConfirmed{}
		if l.Newest != nil {
			confirmed.BackupID = l.Newest.BackupID
		}
		for _, b := range l.Lost {
			confirmed.Lost = append(confirmed.Lost, b.BackupID)
		}
		asked := yes && len(l.Lost) > 0 && !l.Accepted
		if newest != "" && newest != confirmed.BackupID {
			return &hintedError{
				fmt.Errorf("the newest backup of %s in the store is %s, and not %s; nothing was accepted", oneLine(args[0]), dash(confirmed.BackupID), oneLine(newest)),
				"holdfast request prepare INSTANCE --backup ID restores a backup that is not the newest",
			}
		}
		if asked {
			if l, err = c.AcceptLoss(ctx, args[0], confirmed); err != nil {
				return err
			}
		}
		if a.json {
			if err := a.document(l); err != nil {
				return err
			}
		} else if err := a.showLoss(l); err != nil {
			return err
		}
		if len(l.Lost) > 0 && !l.Accepted {
			return &hintedError{errors.New("nothing was accepted"), "give --yes to accept the loss of what is listed"}
		}
		return nil
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "accept the loss")
	cmd.Flags().StringVar(&newest, "backup", "", "go on only if the backup with this `ID` is the newest in the store")
	return ask
}

// showLoss prints the lost backups.
func (a *app) showLoss(l api.Loss) error {
	if len(l.Lost) == 0 {
		_, err := fmt.Fprintf(a.stdout, "the store has every backup of %s that this host knows\n", name(l.InstanceID))
		return err
	}
	for _, b := range l.Lost {
		if _, err := fmt.Fprintf(a.stdout, "lost      %s, of %s\n", name(b.BackupID), when(b.Created)); err != nil {
			return err
		}
	}
	newest := "none: the store has no backup of this instance"
	if l.Newest != nil {
		newest = fmt.Sprintf("%s, of %s", name(l.Newest.BackupID), when(l.Newest.Created))
	}
	if _, err := fmt.Fprintf(a.stdout, "newest    %s\n", newest); err != nil {
		return err
	}
	if !l.Accepted {
		return nil
	}
	_, err := fmt.Fprintf(a.stdout, "accepted  by %s, at %s; the newest backup in the store counts\n", dash(oneLine(l.AcceptedBy)), when(l.AcceptedAt))
	return err
}
