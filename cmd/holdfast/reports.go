package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

func (a *app) reportsCommand() *cobra.Command {
	list := a.askAgent(&cobra.Command{
		Use:   "list",
		Short: "List the reports that the control plane does not take",
		Long: "list has the reports that the control plane refused for good and, of those that wait for their acknowledgement, the oldest\n" +
			"of each instance: all later ones of that instance wait for it.",
		Args: arguments(),
	}, "reports list", func(ctx context.Context, c *api.Client, _ []string) error {
		reports, err := c.RefusedReports(ctx)
		if err != nil {
			return err
		}
		if a.json {
			if reports == nil {
				reports = []api.RefusedReport{}
			}
			return a.document(map[string]any{"reports": reports})
		}
		if len(reports) == 0 {
			a.say("no report waits, and none is kept that was refused")
			return nil
		}
		rows := [][]string{{"NUMBER", "TYPE", "INSTANCE", "JOB", "AT", "REFUSED", "WHY"}}
		for _, r := range reports {
			rows = append(rows, []string{
				strconv.FormatUint(r.Number, 10), r.Type, r.InstanceID, r.JobID, stamp(r.Time), when(r.Refused), dash(oneLine(r.Reason)),
			})
		}
		return a.table(rows)
	})
	return group("reports", "Look after the reports that the control plane does not take", list,
		a.onReports("retry", "Send reports again that the control plane refused",
			"retry sends the reports with these numbers again, with the ids that they had. An instance that is held for one goes on when\n"+
				"it is acknowledged.", "sent again", (*api.Client).RetryReport),
		a.onReports("give-up", "Take reports out of their lines that are never acknowledged",
			"give-up does with the reports of these numbers, which wait, as if the control plane had refused them: they are kept, later\n"+
				"reports of their instances get through, and an instance that waits for one stays held.", "given up", (*api.Client).GiveUpReport),
		a.onReports("drop", "Forget reports that the control plane refused",
			"drop forgets the reports with these numbers: the control plane never gets them. A report for which an instance is held is\n"+
				"not dropped; resume or release the instance.", "dropped", (*api.Client).DropReport))
}

// onReports is a verb with numbers of reports, or with --all.
func (a *app) onReports(verb, short, long, done string, do func(*api.Client, context.Context, uint64) error) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: verb + " NUMBER…", Short: short, Long: long}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case all && len(args) > 0:
			return &usageError{msg: "--all: give it or numbers, not both", command: cmd.CommandPath()}
		case !all && len(args) == 0:
			return &usageError{msg: "missing NUMBER of a report; holdfast reports list has them", command: cmd.CommandPath()}
		}
		return nil
	}
	ask := a.askAgent(cmd, "reports "+verb, func(ctx context.Context, c *api.Client, args []string) error {
		var numbers []uint64
		for _, arg := range args {
			n, err := strconv.ParseUint(arg, 10, 63)
			if err != nil {
				return &usageError{msg: fmt.Sprintf("%q is no number of a report; holdfast reports list has them", arg), command: cmd.CommandPath()}
			}
			numbers = append(numbers, n)
		}
		if all {
			reports, err := c.RefusedReports(ctx)
			if err != nil {
				return err
			}
			for _, r := range reports {
				if !r.Refused.IsZero() {
					numbers = append(numbers, r.Number)
				}
			}
		}
		for _, n := range numbers {
			if err := do(c, ctx, n); err != nil {
				return err
			}
		}
		if a.json {
			return a.document(map[string]any{"reports": len(numbers)})
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s\n", count(len(numbers), "report", "reports"), done)
		return err
	})
	if verb != "give-up" { // each of those is a decision of its own
		cmd.Flags().BoolVar(&all, "all", false, "all refused reports")
	}
	return ask
}
