package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// By these verbs an operator controls a running agent. Each is
// a call of the API, and gets a line in the agent's audit log.

// drainPoll is how often drain --wait asks.
const drainPoll = 500 * time.Millisecond

func (a *app) drainCommand() *cobra.Command {
	var wait bool
	cmd := a.askAgent(&cobra.Command{
		Use:   "drain",
		Short: "Have a running agent take no more commands",
		Long: "drain makes the agent refuse new commands, until it is started again. What it has accepted goes on, and its\n" +
			"reports are delivered. Before a host is taken out of service: holdfast drain --wait, then stop the agent.",
		Args: arguments(),
	}, "drain", func(ctx context.Context, c *api.Client, _ []string) error {
		if err := c.Drain(ctx); err != nil {
			return err
		}
		for said := ""; ; {
			info, err := c.Info(ctx)
			if err != nil {
				return err
			}
			done := !wait || info.JobsActive+info.JobsQueued+info.ReportsPending == 0
			if a.json {
				if done {
					return a.document(info)
				}
			} else if now := left(info); now != said {
				if _, err := fmt.Fprintf(a.stdout, "draining: %s\n", now); err != nil {
					return err
				}
				said = now
			}
			if done {
				return nil
			}
			select {
			case <-time.After(drainPoll):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "return when all jobs have ended and all reports are acknowledged, and print meanwhile what is left")
	return cmd
}

// left tells the remaining work of an agent that takes no more commands.
func left(i api.Info) string {
	return fmt.Sprintf("%s active, %d waiting, %s not acknowledged yet",
		count(i.JobsActive, "job", "jobs"), i.JobsQueued, count(i.ReportsPending, "report", "reports"))
}

func (a *app) cancelCommand() *cobra.Command {
	return a.orderCommand("cancel", "TASK", "Undo the jobs of a task that can still be undone",
		"cancel ends the jobs of the task that have no backup yet, or no restored volumes in place: the instance runs on, or is\n"+
			"as it was. A job whose backup is stored is not undone; see holdfast resume.",
		(*api.Client).Cancel)
}

func (a *app) releaseCommand() *cobra.Command {
	return a.orderCommand("release", "INSTANCE", "Power down an instance that is held with its backup",
		"release powers the instance down if its report was acknowledged and the agent's policy leaves that to somebody else. When\n"+
			"the report was refused it is sent again first; nothing is powered down before it is acknowledged.",
		(*api.Client).Release)
}

func (a *app) resumeCommand() *cobra.Command {
	return a.orderCommand("resume", "INSTANCE", "Let an instance that is held with its backup run again",
		"resume frees an instance that waits for the control plane or for a release. Its backup stays.",
		(*api.Client).Resume)
}

// orderCommand is a verb with one argument, of which the agent says only whether it took it.
func (a *app) orderCommand(verb, argument, short, long string, do func(*api.Client, context.Context, string) error) *cobra.Command {
	return a.askAgent(&cobra.Command{
		Use: verb + " " + argument, Short: short, Long: long, Args: arguments(argument),
	}, verb, func(ctx context.Context, c *api.Client, args []string) error {
		if err := do(c, ctx, args[0]); err != nil {
			return err
		}
		if a.json {
			return a.document(map[string]string{verb: args[0]})
		}
		_, err := fmt.Fprintf(a.stdout, "the agent takes the %s of %s; holdfast jobs tells what comes of it\n", verb, oneLine(args[0]))
		return err
	})
}
