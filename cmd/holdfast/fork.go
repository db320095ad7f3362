package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

func (a *app) acceptForkCommand() *cobra.Command {
	var backup string
	var again bool
	cmd := a.askAgent(&cobra.Command{
		Use:   "accept-fork INSTANCE",
		Short: "Decide which of several newest backups of an instance counts",
		Long: "accept-fork is for an instance whose last backup does not descend from another newest backup: two hosts ran the\n" +
			"instance. It accepts the backup that the host of the agent made, or the one of --backup. Restores take that one from\n" +
			"then on, and an instance that is held for the decision is released as its policy says. The other backup stays in the vault.\n\n" +
			"The first decision about a fork counts, whichever host made it: a second one for another backup is refused, and the\n" +
			"refusal names the first. --again corrects a wrong decision.",
		Args: arguments("INSTANCE"),
	}, "accept-fork", func(ctx context.Context, c *api.Client, args []string) error {
		if err := c.AcceptFork(ctx, args[0], backup, again); err != nil {
			return err
		}
		if a.json {
			return a.document(map[string]string{"accept-fork": args[0], "backup": backup})
		}
		which := "the backup of this host"
		if backup != "" {
			which = "backup " + oneLine(backup)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is the newest one of %s; the other ones stay in the vault\n", which, oneLine(args[0]))
		return err
	})
	cmd.Flags().StringVar(&backup, "backup", "", "`ID` of the backup to accept; without it the last one that the agent's host made")
	cmd.Flags().BoolVar(&again, "again", false, "decide a fork that is decided already, for another backup")
	return cmd
}
