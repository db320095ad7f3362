package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

func (a *app) vaultRekeyCommand() *cobra.Command {
	var v access
	var change vault.Change
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "Change whose keys open a vault",
		Long: "rekey wraps the vault's key anew: for the recipients that it has, with those of --add and without those\n" +
			"of --remove. Backups under way go on. Whoever could open the vault before and kept its key, or a copy\n" +
			"of an old header, still can: after a key was stolen, make a new vault.",
		Example: "  holdfast vault rekey --add age1… --remove age1…",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(change.Add)+len(change.Remove) == 0 {
				return &usageError{msg: "nothing to change", command: cmd.CommandPath(), advice: "give --add or --remove with a recipient"}
			}
			for _, r := range append(append([]string{}, change.Add...), change.Remove...) {
				if err := vault.ParseRecipient(r); err != nil {
					return &usageError{msg: err.Error(), command: cmd.CommandPath()}
				}
			}
			return a.withVault(cmd, v, "vault rekey", func(ctx context.Context, at *vaultAt) error {
				info, err := at.Rekey(ctx, at.id, change)
				switch {
				case errors.Is(err, vault.ErrLockOut):
					return &hintedError{err, "give --lock-out if that is what you want, or use the key of another recipient"}
				case errors.Is(err, vault.ErrRekeyed):
					return &hintedError{err, "see holdfast vault info, and try again"}
				case err != nil:
					return err
				}
				return a.showVault(info)
			})
		},
	}
	v.flags(cmd)
	cmd.Flags().StringArrayVar(&change.Add, "add", nil, "age `recipient` (age1…) that may open the vault from now on; repeat for several")
	cmd.Flags().StringArrayVar(&change.Remove, "remove", nil, "age `recipient` that may no longer open it; repeat for several")
	cmd.Flags().BoolVar(&change.LockOut, "lock-out", false, "go on even when --key itself will no longer open the vault")
	return cmd
}

// vaultListJSON is the vaults of a store.
type vaultListJSON struct {
	Store  string           `json:"store"`
	Vaults []foundVaultJSON `json:"vaults"`
}

type foundVaultJSON struct {
	ID    string     `json:"id"`
	Vault *vaultJSON `json:"vault,omitempty"` // absent when the key does not open it
	Error string     `json:"error,omitempty"`
}

func (a *app) vaultListCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the vaults in a store",
		Long: "list shows every vault of the store that the key opens, with the name that it was given, and the ids of the\n" +
			"others. It needs no name key: a recovery key and the bucket are enough. All commands that read take an id as --vault too.",
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const doing = "vault list"
			ctx := cmd.Context()
			o, err := a.prepare(ctx, cmd, v, false)
			if err != nil {
				return &failure{doing: doing, err: err}
			}
			found, err := vault.List(ctx, o.store, o.id)
			if err == nil {
				err = a.vaultList(o.store.String(), found)
			}
			if err = errors.Join(err, o.store.Close()); err != nil {
				return &failure{doing: doing, err: err}
			}
			return nil
		},
	}
	v.storeFlags(cmd)
	return cmd
}

func (a *app) vaultList(store string, found []vault.Found) error {
	if a.json {
		out := vaultListJSON{Store: store, Vaults: []foundVaultJSON{}}
		for _, f := range found {
			if f.Err != nil {
				out.Vaults = append(out.Vaults, foundVaultJSON{ID: f.ID, Error: f.Err.Error()})
				continue
			}
			j := vaultJSONOf(f.Info)
			out.Vaults = append(out.Vaults, foundVaultJSON{ID: f.ID, Vault: &j})
		}
		return a.document(out)
	}
	if len(found) == 0 {
		a.say("no vaults in %s", store)
		return nil
	}
	rows := [][]string{{"ID", "NAME", "CREATED", "RECIPIENTS"}}
	for _, f := range found {
		if f.Err != nil {
			rows = append(rows, []string{f.ID, "-", "-", f.Err.Error()})
			continue
		}
		rows = append(rows, []string{f.ID, name(f.Info.Name), stamp(f.Info.Created), strings.Join(f.Info.Recipients, " ")})
	}
	return a.table(rows)
}

// sessionsJSON is the backups under way in a vault.
type sessionsJSON struct {
	Vault    string              `json:"vault"`
	Sessions []vault.SessionInfo `json:"sessions"`
}

func (a *app) vaultSessionsCommand() *cobra.Command {
	var v access
	var forget string
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List the work under way in a vault, or forget the sessions of a lost host",
		Long: "sessions lists the backups, the reads (restore, cat, verify) and the prunes under way, on all hosts, and the\n" +
			"sessions of processes that died. A prune waits for the backups of the list, and for reads of backups that are gone.\n" +
			"Backups that a host began within ten seconds share one session, by the name of the first.\n" +
			"A host removes its own sessions by itself with its next one, also after a crash; the sessions of a host\n" +
			"that will never come back have to be removed with --forget. Should the host be alive all the same, no backup\n" +
			"is lost: its backups under way begin again, and its restores fail if a prune deletes a pack that they read.\n" +
			"A damaged session counts as work under way, until a prune removes it after a day, or --forget with the session's id\n" +
			"does. Remove the session of a prune or a copy by its id only when that process has ended for certain: backups whose\n" +
			"deletion it has announced can be held again. An announcement that does not open (going/NAME, as the warnings name\n" +
			"it) refuses all holds until --forget removes it; do so when no prune and no copy --delete-extra is under way.",
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withVault(cmd, v, "vault sessions", func(ctx context.Context, at *vaultAt) error {
				switch {
				case vault.IsSessionID(forget):
					if err := at.ForgetSession(ctx, forget); err != nil {
						return err
					}
					a.say("forgot session %s", forget)
				case forget != "":
					n, err := at.ForgetHost(ctx, forget)
					if err != nil {
						return err
					}
					a.say("forgot %s of %s", count(n, "session", "sessions"), name(forget))
				}
				return a.vaultSessions(ctx, at)
			})
		},
	}
	v.flags(cmd)
	cmd.Flags().StringVar(&forget, "forget", "", "`HOST` that is gone for ever, or one session, as the list names them; on this host, with HOST, sessions whose process may still run stay")
	return cmd
}

func (a *app) vaultSessions(ctx context.Context, at *vaultAt) error {
	all, err := at.Sessions(ctx)
	if err != nil {
		return err
	}
	if a.json {
		if all == nil {
			all = []vault.SessionInfo{} // so that it is a list in JSON too
		}
		return a.document(sessionsJSON{at.Info().Name, all})
	}
	if len(all) == 0 {
		a.say("no work is under way in %s", at.place)
		return nil
	}
	for _, s := range all {
		if s.Damaged != "" {
			a.sideWarning(fmt.Sprintf("session %s: %s", s.ID, s.Damaged))
		}
	}
	rows := [][]string{{"HOST", "KIND", "INSTANCE", "PID", "BEGUN", "SESSION"}}
	for _, s := range all {
		rows = append(rows, []string{s.Host, s.Kind, dash(s.Instance), fmt.Sprint(s.PID), stamp(s.Begun), s.ID})
	}
	return a.table(rows)
}

// vaultJSON tells about a vault.
type vaultJSON struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Store      string    `json:"store"`
	Created    time.Time `json:"created"`
	Format     int       `json:"format"`
	Recipients []string  `json:"recipients"`
}

func vaultJSONOf(i vault.Info) vaultJSON {
	return vaultJSON{i.ID, i.Name, i.Store, i.Created.UTC(), i.Format, i.Recipients}
}

// showVault prints the facts of a vault.
func (a *app) showVault(info vault.Info) error {
	if a.json {
		return a.document(vaultJSONOf(info))
	}
	_, err := fmt.Fprintf(a.stdout, "vault       %s\nid          %s\nstore       %s\ncreated     %s\nformat      %d\nrecipients  %s\n",
		name(info.Name), info.ID, oneLine(info.Store), stamp(info.Created), info.Format,
		oneLine(strings.Join(info.Recipients, "  ")))
	return err
}
