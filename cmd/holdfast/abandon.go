package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// abandonCommand shows the unfinished job of an instance, and with --yes gives the job up.
func (a *app) abandonCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "abandon INSTANCE|JOB",
		Short: "Give up a job that can't end, and leave its instance as it is",
		Long: "abandon ends an unfinished job as failed, and the control plane is told. It is for a job whose record the agent does not\n" +
			"understand, and for a job on its way back that an act holds up for ever. A job in another state has another way out\n" +
			"(cancel, release, resume), and is refused.\n\n" +
			"The agent leaves the instance as it is, which may be frozen, stopped, or, in the middle of a restore, with volumes of two\n" +
			"times; the end of the job names the places. Bringing the instance into order is the operator's work then. After a restore that\n" +
			"was given up, or a job of which nothing is known, the next `prepare` is refused while the volumes have content.",
		Example: "  holdfast abandon cp-0001 --yes",
		Args:    arguments("INSTANCE or JOB"),
	}
	ask := a.askAgent(cmd, "abandon", func(ctx context.Context, c *api.Client, args []string) error {
		jobs, err := c.Jobs(ctx, api.JobFilter{Active: true})
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.InstanceID != args[0] && j.JobID != args[0] {
				continue
			}
			if !yes {
				if err := a.jobTable([]api.JobInfo{j}); err != nil {
					return err
				}
				return &hintedError{errors.New("nothing was given up"), "give --yes to leave the instance as it is and end the job as failed"}
			}
			done, err := c.Abandon(ctx, j.InstanceID, j.JobID)
			if err != nil {
				return err
			}
			if a.json {
				return a.document(done)
			}
			_, err = fmt.Fprintf(a.stdout, "job %s of %s is given up: %s\n", name(done.JobID), name(j.InstanceID), oneLine(done.Message))
			return err
		}
		return fmt.Errorf("no unfinished job is or is of %q; holdfast jobs --active has them all", args[0])
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "give the job up")
	return ask
}
