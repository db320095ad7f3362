package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// requestCommand holds the commands of a control plane that an operator can give by hand.
func (a *app) requestCommand() *cobra.Command {
	return group("request", "Command a backup or a restore of instances of a running agent", a.requestBackupCommand(), a.requestPrepareCommand())
}

func (a *app) requestBackupCommand() *cobra.Command {
	return a.request("backup", &cobra.Command{
		Use:   "backup INSTANCE…",
		Short: "Command a backup, as the control plane does",
		Long: "backup commands one task for the instances, which belong to one tenant. What follows, the release included, is what\n" +
			"follows a command of the control plane.",
	}, func(ctx context.Context, c *api.Client, id string, instances []string) (api.TaskAnswer, error) {
		return c.Backup(ctx, id, instances)
	})
}

func (a *app) requestPrepareCommand() *cobra.Command {
	var backup string
	cmd := &cobra.Command{
		Use:   "prepare INSTANCE…",
		Short: "Command a restore to this host, as the control plane does",
		Long: "prepare commands one task for the instances, which belong to one tenant. With --backup the backup of that id is restored\n" +
			"instead of the newest, as after a newest backup that is damaged. The rules stay: an instance that runs is left alone,\n" +
			"and content that may be in no backup is not destroyed. holdfast list tells the ids.",
		Example: "  holdfast request prepare cp-0001 --backup 20261130T120000.000Z-0123456789abcdef",
	}
	ask := a.request("prepare", cmd, func(ctx context.Context, c *api.Client, id string, instances []string) (api.TaskAnswer, error) {
		if backup != "" && len(instances) > 1 {
			return api.TaskAnswer{}, &usageError{msg: "--backup: is of one instance", command: cmd.CommandPath()}
		}
		return c.Prepare(ctx, id, instances, backup)
	})
	cmd.Flags().StringVar(&backup, "backup", "", "restore the backup with this `ID`")
	return ask
}

// request is a verb with instances, of which the agent makes a task.
func (a *app) request(verb string, cmd *cobra.Command, do func(ctx context.Context, c *api.Client, id string, instances []string) (api.TaskAnswer, error)) *cobra.Command {
	var id string
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return &usageError{msg: "missing INSTANCE", command: cmd.CommandPath()}
		}
		return nil
	}
	ask := a.askAgent(cmd, "request "+verb, func(ctx context.Context, c *api.Client, args []string) error {
		task, err := do(ctx, c, id, args)
		if err != nil {
			return err
		}
		if a.json {
			return a.document(task)
		}
		_, err = fmt.Fprintf(a.stdout, "task %s; holdfast watch %s follows it\n", oneLine(task.TaskID), oneLine(task.TaskID))
		return err
	})
	cmd.Flags().StringVar(&id, "request-id", "", "`ID` of the request: the same id with the same instances gives the same task again")
	return ask
}
