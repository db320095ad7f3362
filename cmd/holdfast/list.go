package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// listJSON is the backups of a vault, by instance and sequence number.
type listJSON struct {
	Vault   string           `json:"vault"`
	Store   string           `json:"store"`
	Backups []listBackupJSON `json:"backups"`
}

type listBackupJSON struct {
	Instance   string    `json:"instance"`
	Backup     string    `json:"backup"`
	Sequence   uint64    `json:"sequence"`
	Time       time.Time `json:"time"` // by the clock of the host that made it
	Incomplete bool      `json:"incomplete"`
	// places at which an incomplete one lacks content; absent where that was not looked up
	Lost uint64 `json:"lost,omitempty"`
}

func (a *app) listCommand() *cobra.Command {
	var v access
	var instance string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the backups in a vault, by instance, oldest first",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkInstance(cmd, instance); err != nil {
				return err
			}
			return a.withVault(cmd, v, "list", func(ctx context.Context, at *vaultAt) error {
				return a.list(ctx, at, instance)
			})
		},
	}
	v.flags(cmd)
	cmd.Flags().StringVar(&instance, "instance", "", "`ID` of the one instance to list")
	return cmd
}

func (a *app) list(ctx context.Context, at *vaultAt, instance string) error {
	refs, err := at.Backups(ctx, instance)
	if err != nil {
		return err
	}
	lost, err := at.lostOf(ctx, refs)
	if err != nil {
		return err
	}
	if a.json {
		info := at.Info()
		out := listJSON{Vault: info.Name, Store: info.Store, Backups: make([]listBackupJSON, 0, len(refs))}
		for _, r := range refs {
			out.Backups = append(out.Backups, listBackupJSON{r.Instance, r.ID, r.Seq, r.Time.UTC(), r.Incomplete, lost[r.ID]})
		}
		return a.document(out)
	}
	if len(refs) == 0 {
		a.say("no backups in %s", at.place)
		return nil
	}
	rows := [][]string{{"INSTANCE", "BACKUP", "TIME", "STATE"}}
	for _, r := range refs {
		state := "complete"
		if r.Incomplete {
			state = "incomplete"
			if n := lost[r.ID]; n > 0 {
				state += ", " + count(n, "loss", "losses")
			}
		}
		rows = append(rows, []string{r.Instance, r.ID, stamp(r.Time), state})
	}
	return a.table(rows)
}
