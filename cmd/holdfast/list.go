package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
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
	// Forgotten is there where the backup is forgotten, so that a prune deletes it.
	Forgotten *forgottenJSON `json:"forgotten,omitempty"`
	Holds     []vault.Hold   `json:"holds,omitempty"`
}

// forgottenJSON says on which host a backup was forgotten, when and why.
type forgottenJSON struct {
	Host   string    `json:"host"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
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
	marks, err := at.ForgottenBackups(ctx)
	if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrNewer) {
		a.sideWarning(err.Error() + "; its backup counts as not forgotten")
	} else if err != nil {
		return err
	}
	holds, err := at.Holds(ctx)
	if err != nil {
		return err
	}
	held := map[string][]vault.Hold{}
	for _, h := range holds {
		held[h.Backup] = append(held[h.Backup], h)
	}
	if a.json {
		info := at.Info()
		out := listJSON{Vault: info.Name, Store: info.Store, Backups: make([]listBackupJSON, 0, len(refs))}
		for _, r := range refs {
			b := listBackupJSON{r.Instance, r.ID, r.Seq, r.Time.UTC(), r.Incomplete, lost[r.ID], nil, held[r.ID]}
			if m, ok := marks[r.Instance+"/"+r.ID]; ok {
				b.Forgotten = &forgottenJSON{m.Host, m.At, m.Reason}
			}
			out.Backups = append(out.Backups, b)
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
		if m, ok := marks[r.Instance+"/"+r.ID]; ok {
			state += ", forgotten " + stamp(m.At) + " (" + m.Reason + ")"
		}
		for _, h := range held[r.ID] {
			state += ", " + holdText(h)
		}
		rows = append(rows, []string{r.Instance, r.ID, stamp(r.Time), state})
	}
	return a.table(rows)
}
