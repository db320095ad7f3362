package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// copyJSON is the result of a copy.
type copyJSON struct {
	Type  string `json:"type"` // "copy"
	From  string `json:"from"`
	To    string `json:"to"`
	Whole bool   `json:"whole"` // the destination has all that the source had
	vault.CopyReport
}

func (a *app) copyCommand() *cobra.Command {
	var v access
	var to string
	var o vault.CopyOptions
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "Mirror a vault to a second store",
		Long: "copy brings everything that a restore needs from the vault's store to the store of --to: packs, index, manifests,\n" +
			"decisions about forks, holds and the header. A backup with a hold in the copy stays there, also with --delete-extra. Objects that the copy has already stay; copy again at any time to bring new backups. It needs no key: give --key, and each\n" +
			"object is opened before it is stored, and a backup with a damaged pack does not hold up the others. Backups may be under\n" +
			"way at the source. At each instant the copy is a vault in which every backup is whole, or no vault yet.\n\n" +
			"A restore from the copy: holdfast restore --store URL. The folder of a file store needs holdfast store init first.\n" +
			"Never back up into a copy: where the source is lost, restore from the copy, and make it the store of the hosts.\n" +
			"One copy at a time may work on a destination.",
		Example: "  holdfast copy --to 's3://second/site?endpoint=https://host&region=r'",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Instance != "" {
				if err := checkInstance(cmd, o.Instance); err != nil {
					return err
				}
			}
			if to == "" {
				return &usageError{msg: "missing --to URL", command: cmd.CommandPath()}
			}
			keyed := a.value(v.key, envKey, "") != ""
			if !keyed && (o.Instance != "" || o.DeleteExtra) {
				return &usageError{
					msg: "--instance and --delete-extra need a key", command: cmd.CommandPath(),
					advice: "give --key FILE: only the manifests say which packs a backup needs, and they open with the vault's key alone",
				}
			}
			if o.DeleteExtra && o.Instance != "" {
				return &usageError{msg: "--delete-extra: give it or --instance, not both", command: cmd.CommandPath()}
			}
			if o.AllowEmptied && !o.DeleteExtra {
				return &usageError{msg: "--allow-emptied: give it with --delete-extra", command: cmd.CommandPath()}
			}
			return a.copy(cmd, v, to, o)
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "`URL` of the store that gets the copy")
	f.StringVar(&o.Instance, "instance", "", "`ID` of the one instance whose backups, with the packs that they need, to copy; needs the key")
	f.BoolVar(&o.Verify, "verify", false, "read every object on both sides afterwards, and compare")
	f.BoolVar(&o.DeleteExtra, "delete-extra", false, "remove from the copy the backups that the retention of the source has forgotten; needs the key")
	f.BoolVar(&o.AllowEmptied, "allow-emptied", false, "with --delete-extra, remove also more than half of the copy")
	f.BoolVar(&o.DryRun, "dry-run", false, "tell how much is missing, and change nothing")
	return cmd
}

// copy opens both stores and copies.
func (a *app) copy(cmd *cobra.Command, v access, to string, o vault.CopyOptions) error {
	const doing = "copy"
	ctx := cmd.Context()
	v.limits.shared = v.limits.limiter()
	from, err := a.openSource(cmd, v, &o)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // only read
	dest, err := a.openStore(ctx, cmd, to, v.limits.shared, false)
	if err != nil {
		return &failure{doing: doing, err: err}
	}
	if obs.Overlap(from.store.String(), dest.String()) {
		return errors.Join(&usageError{
			msg: fmt.Sprintf("--to %s: it is the store of the vault, or one of the two lies in the other", oneLine(dest.String())), command: cmd.CommandPath(),
			advice: "name another folder, or another bucket or prefix",
		}, dest.Close())
	}
	p := a.newProgress(doing)
	o.Progress = func(c vault.CopyProgress) {
		p.expect(c.Bytes)
		p.set(progressLine{Bytes: c.BytesDone, Entries: uint64(c.ObjectsDone)})
	}
	o.Warn = func(err error) { a.sideWarning(err.Error()) }
	o.Session = a.session()
	report, err := vault.Copy(ctx, from.store, dest, o)
	p.finish()
	if err == nil || len(report.Failed) > 0 {
		if perr := a.copied(from.store, dest, report, err == nil); err == nil {
			err = perr
		}
	}
	if cerr := dest.Close(); err == nil {
		err = cerr
	}
	return a.copyFailure(from.place, err)
}

// copyFailure gives the errors that only a copy has their hints.
func (a *app) copyFailure(place string, err error) error {
	if err == nil {
		return nil
	}
	var hint string
	switch {
	case errors.Is(err, vault.ErrSameStore):
		hint = "name another store as --to"
	case errors.Is(err, vault.ErrOtherVault):
		hint = "name another store as --to, or move the other vault away"
	case errors.Is(err, vault.ErrCollected):
		hint = "let the prune of the copy end, or run holdfast prune --store URL of the copy, and copy again; holdfast vault sessions --store URL of the copy tells " +
			"the host of the prune, and --forget removes its session when it has ended for certain; use copy --delete-extra to make a copy smaller"
	case errors.Is(err, vault.ErrInUse):
		hint = "holdfast vault sessions --store URL of the copy tells whose"
	case errors.Is(err, vault.ErrEmptied):
		hint = "see whether the source lost its objects; if it is right, give --allow-emptied"
	}
	if hint != "" {
		err = &hintedError{err, hint}
	}
	return &failure{doing: "copy", place: place, err: err}
}

// copySource is the store of a vault, with its keys where a key was given.
type copySource struct {
	store obs.Store
	place string
	close func() error
}

// Close closes the vault and the store.
func (s *copySource) Close() error { return s.close() }

// openSource opens the vault with its key, or finds its id without one.
func (a *app) openSource(cmd *cobra.Command, v access, o *vault.CopyOptions) (*copySource, error) {
	const doing = "copy"
	ctx := cmd.Context()
	if a.value(v.key, envKey, "") != "" {
		open, err := a.prepare(ctx, cmd, v, false)
		if err != nil {
			return nil, &failure{doing: doing, err: err}
		}
		opened, err := a.openVault(ctx, open, false)
		if err != nil {
			return nil, &failure{doing: doing, place: open.place, err: errors.Join(err, open.store.Close())}
		}
		o.Vault, o.ID = opened, opened.Info().ID
		at := &vaultAt{Vault: opened, id: open.id, store: open.store, place: open.place}
		return &copySource{open.store, open.place, at.Close}, nil
	}
	found, err := a.locate(cmd, v, doing)
	if err != nil {
		return nil, err
	}
	o.ID = found.id
	return &copySource{found.store, found.place, found.store.Close}, nil
}

// copied prints the result of a copy.
func (a *app) copied(from, to obs.Store, r vault.CopyReport, done bool) error {
	if r.Failed == nil {
		r.Failed = []vault.Damage{} // so that it is a list in JSON too
	}
	if r.LeftOut == nil {
		r.LeftOut = []string{} // likewise
	}
	whole := done && r.Whole() && !r.DryRun
	if a.json {
		if err := a.line(copyJSON{"copy", from.String(), to.String(), whole, r}); err != nil {
			return err
		}
	} else {
		for _, d := range r.Failed {
			fmt.Fprintf(a.stdout, "not copied: %s: %s\n", oneLine(d.Object), oneLine(d.Reason))
		}
		for _, b := range r.LeftOut {
			fmt.Fprintf(a.stdout, "left out: backup %s\n", oneLine(b))
		}
		if err := a.copyTable(r); err != nil {
			return err
		}
	}
	switch {
	case !done:
		return nil
	case !r.Whole():
		return &partError{fmt.Sprintf("%s can't be copied, and %s left out; both are listed above",
			count(len(r.Failed), "object", "objects"), count(len(r.LeftOut), "backup is", "backups are"))}
	case r.DryRun:
		a.say("nothing was changed")
		return nil
	}
	a.say("%s has all that the vault had when the copy began", oneLine(to.String()))
	return nil
}

func (a *app) copyTable(r vault.CopyReport) error {
	rows := [][]string{{"KIND", "SOURCE", "MISSING", "COPIED", "BYTES", "EXTRA", "REMOVED"}}
	for _, k := range []struct {
		name string
		n    vault.CopyCount
	}{{"packs", r.Packs}, {"index", r.Index}, {"backups", r.Backups}, {"header", r.Headers}, {"decisions", r.Decisions}, {"holds", r.Holds}} {
		if small := k.name == "decisions" || k.name == "holds"; small && k.n.Source+k.n.Extra == 0 {
			continue // few vaults have any
		}
		rows = append(rows, []string{
			k.name, fmt.Sprint(k.n.Source), fmt.Sprint(k.n.Missing), fmt.Sprint(k.n.Copied), size(k.n.Bytes), fmt.Sprint(k.n.Extra), fmt.Sprint(k.n.Removed),
		})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	if r.Gone > 0 {
		a.say("the source deleted %s while they were copied", count(r.Gone, "object", "objects"))
	}
	if r.Verified > 0 {
		a.say("compared %s of %s", count(r.Verified, "object", "objects"), size(r.VerifiedBytes))
	}
	return nil
}
