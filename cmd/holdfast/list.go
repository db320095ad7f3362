package main

import (
	"context"
	"errors"
	"slices"
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
	// the backup from which this one came, as far as it is in the vault
	Parent string `json:"parent,omitempty"`
	// names the branch of the instance's backups; all are
	// on one unless hosts made backups beside each other
	Branch string `json:"branch"`
	Head   bool   `json:"head"` // it is a newest backup
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
	lines, err := at.lineages(ctx, refs)
	if err != nil {
		return err
	}
	if a.json {
		info := at.Info()
		out := listJSON{Vault: info.Name, Store: info.Store, Backups: make([]listBackupJSON, 0, len(refs))}
		for _, r := range refs {
			b := listBackupJSON{
				Instance: r.Instance, Backup: r.ID, Sequence: r.Seq, Time: r.Time.UTC(), Incomplete: r.Incomplete, Lost: lost[r.ID], Holds: held[r.ID],
				Parent: lines.parent(r), Branch: lines.of(r).Branch(r.ID), Head: lines.head(r),
			}
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
		if branch := lines.branch(r); branch != "" {
			state += ", branch " + branch
		}
		rows = append(rows, []string{r.Instance, r.ID, stamp(r.Time), state})
	}
	return a.table(rows)
}

// lineages has by instance how its backups came from each other.
type lineages map[string]*vault.Lineage

// lineages asks the vault again for the instances of which the list shows several newest backups,
// since somebody may have decided about them.
func (v *vaultAt) lineages(ctx context.Context, refs []vault.BackupRef) (lineages, error) {
	all := lineages{}
	for len(refs) > 0 {
		instance := refs[0].Instance // the list is in the order of instances
		n := slices.IndexFunc(refs, func(r vault.BackupRef) bool { return r.Instance != instance })
		if n < 0 {
			n = len(refs)
		}
		l := vault.LineageOf(slices.Clone(refs[:n]))
		if len(l.Heads()) > 1 {
			var err error
			if l, err = v.Lineage(ctx, instance); err != nil {
				return nil, err
			}
		}
		all[instance], refs = l, refs[n:]
	}
	return all, nil
}

func (l lineages) of(r vault.BackupRef) *vault.Lineage { return l[r.Instance] }

func (l lineages) parent(r vault.BackupRef) string {
	p, _ := l.of(r).Parent(r)
	return p.ID
}

func (l lineages) head(r vault.BackupRef) bool {
	return slices.ContainsFunc(l.of(r).Heads(), func(h vault.BackupRef) bool { return h.ID == r.ID })
}

// branch says for people on which branch a backup is, where there are several, and how it stands.
func (l lineages) branch(r vault.BackupRef) string {
	of := l.of(r)
	if of.Branches() < 2 {
		return ""
	}
	at := of.Branch(r.ID)
	tip := slices.ContainsFunc(of.Tips(), func(t vault.BackupRef) bool { return t.ID == r.ID })
	switch heads := of.Heads(); {
	case l.head(r) && len(heads) > 1:
		return at + ", newest of a fork"
	case l.head(r):
		return at + ", newest"
	case tip:
		return at + ", not accepted"
	}
	return at
}
