package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/api"
)

// prunePoll is how often the end of a prune is asked for.
const prunePoll = time.Second

func (a *app) retentionCommand() *cobra.Command {
	list := a.askAgent(&cobra.Command{
		Use:   "list [TENANT]",
		Short: "List the vaults that the agent's host prunes, and their last prunes",
		Args:  atMostOne("TENANT"),
	}, "retention list", func(ctx context.Context, c *api.Client, args []string) error {
		vaults, err := c.Vaults(ctx, strings.Join(args, ""))
		if err != nil {
			return err
		}
		if a.json {
			if vaults == nil {
				vaults = []api.VaultInfo{}
			}
			return a.document(map[string]any{"vaults": vaults})
		}
		return a.vaultTable(vaults)
	})
	return group("retention", "Let the vaults of tenants shrink by the rules of the agent's configuration", list, a.retentionRunCommand())
}

func (a *app) retentionRunCommand() *cobra.Command {
	var p api.PruneCommand
	var wait bool
	cmd := &cobra.Command{
		Use:   "run TENANT",
		Short: "Have the agent forget the backups of a tenant that no rule keeps, and prune the vault",
		Long: "run has the agent apply the rules of its configuration (retention.rules) to the backups of a tenant, and prune the\n" +
			"tenant's vault: delete backups that were forgotten for longer than retention.grace, and packs that no backup needs.\n" +
			"The prune runs beside backups and restores. Forgotten backups come back with holdfast unforget.\n\n" +
			"Where the rules would forget more than retention.max_share of the backups, nothing happens, and the state\n" +
			"retention_asks says so, until --accept-share is given.",
		Example: "  holdfast retention run 1008600000104285462 --dry-run --wait",
		Args:    arguments("TENANT"),
	}
	ask := a.askAgent(cmd, "retention run", func(ctx context.Context, c *api.Client, args []string) error {
		answer, err := c.Prune(ctx, "", args[0], p)
		if err != nil {
			return err
		}
		if !wait {
			if a.json {
				return a.document(answer)
			}
			_, err = fmt.Fprintln(a.stdout, oneLine(answer.TaskID))
			return err
		}
		run, err := pruned(ctx, c, args[0], answer.TaskID)
		if err != nil {
			return err
		}
		if a.json {
			err = a.document(run)
		} else {
			err = a.showRun(run)
		}
		if err == nil && run.Status == api.StatusFailed {
			err = fmt.Errorf("the prune has not succeeded: %s", oneLine(run.Reason))
		}
		return err
	})
	f := cmd.Flags()
	f.BoolVar(&p.DryRun, "dry-run", false, "only count what would be forgotten and deleted")
	f.BoolVar(&p.KeepAll, "keep-all", false, "forget nothing, and only prune")
	f.BoolVar(&p.AcceptShare, "accept-share", false, "forget more than retention.max_share all the same")
	f.BoolVar(&wait, "wait", false, "wait for the end, and show the result")
	return ask
}

// pruned waits for the end of a run.
func pruned(ctx context.Context, c *api.Client, tenant, id string) (api.PruneRun, error) {
	for {
		vaults, err := c.Vaults(ctx, tenant)
		if err != nil {
			return api.PruneRun{}, err
		}
		found := false
		for _, v := range vaults {
			for _, r := range v.Runs {
				if found = found || r.TaskID == id; r.TaskID == id && r.Status != api.StatusRunning {
					return r, nil
				}
			}
		}
		if !found {
			return api.PruneRun{}, errors.New("the agent knows the prune no more")
		}
		select {
		case <-ctx.Done():
			return api.PruneRun{}, ctx.Err()
		case <-time.After(prunePoll):
		}
	}
}

// showRun prints the result of a run.
func (a *app) showRun(r api.PruneRun) error {
	deleted := "deleted"
	if r.DryRun {
		deleted = "would delete"
		fmt.Fprintf(a.stdout, "would forget %d of %d backups\n", r.Forget, r.Backups)
		if r.Share != "" {
			fmt.Fprintf(a.stdout, "a run would stop and ask: %s\n", oneLine(r.Share))
		}
	} else {
		fmt.Fprintf(a.stdout, "forgot %d of %d backups\n", r.Forgotten, r.Backups)
	}
	if r.Needed > 0 {
		fmt.Fprintf(a.stdout, "kept because a host needs them: %s\n", count(r.Needed, "backup", "backups"))
	}
	for _, odd := range r.OddBackups {
		fmt.Fprintf(a.stdout, "kept: %s\n", oneLine(odd))
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s; garbage: %s, %s; freed %s in %s\n", deleted, count(r.DeletedBackups, "forgotten backup", "forgotten backups"),
		count(r.GarbagePacks, "pack", "packs"), size(r.GarbageBytes), size(r.DeletedBytes), count(r.DeletedPacks, "pack", "packs"))
	return err
}

// vaultTable prints vaults, and under each its last prune.
func (a *app) vaultTable(vaults []api.VaultInfo) error {
	if len(vaults) == 0 {
		a.say("this host prunes no vault")
		return nil
	}
	rows := [][]string{{"TENANT", "RUN", "LAST PRUNE", "BY HOST", "TASK", "STATE", "FORGOTTEN", "DELETED", "FREED", "WHY"}}
	for _, v := range vaults {
		last := "-"
		if !v.LastPrune.IsZero() {
			last = stamp(v.LastPrune)
		}
		row := []string{name(v.Tenant), v.Run, last, dash(oneLine(v.LastHost)), "-", "-", "-", "-", "-", dash(oneLine(v.Trouble))}
		if len(v.Runs) > 0 {
			r := v.Runs[0]
			state := oneLine(r.State)
			if r.DryRun {
				state += " (dry run)"
			}
			why := v.Trouble
			switch {
			case len(r.Waits) > 0:
				why = "waits for " + r.Waits[0]
			case r.Step != "":
				why = r.Step
			case why == "":
				why = r.Reason
			}
			row = append(row[:4], oneLine(r.TaskID), state, fmt.Sprint(r.Forgotten), fmt.Sprint(r.DeletedBackups), size(r.DeletedBytes), dash(oneLine(why)))
		}
		rows = append(rows, row)
	}
	return a.table(rows)
}
