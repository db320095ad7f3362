package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/config"
	"holdfast/internal/expire"
	"holdfast/internal/vault"
)

// Defaults of a prune.
const (
	defaultGrace = 7 * 24 * time.Hour
	defaultWait  = time.Hour
)

func (a *app) pruneCommand() *cobra.Command {
	var v access
	grace, wait := spanFlag{span: defaultGrace}, spanFlag{span: defaultWait}
	var maxGarbage, sparse float64
	var maxRewrite sizeFlag
	var dryRun, prolong bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete forgotten backups, and packs that no backup needs any more",
		Long: "prune deletes the backups that were forgotten longer ago than --grace, and then all packs that no backup\n" +
			"names. It may run at any time, on any host, beside backups, restores and other prunes. prune waits for the\n" +
			"backups that are under way when it looks, and names each of them; after --wait prune gives up, takes its\n" +
			"announcements back, and ends with exit code 3. An interrupted prune leaves nothing that harms: the next prune\n" +
			"goes on. Objects that the store still locks (object lock) stay until the lock is over.\n\n" +
			"With --sparse prune also looks into packs of which backups need only a part: it reads the recipes of all\n" +
			"backups, stores the needed chunks of each sparse pack in new packs, and deletes the sparse pack. Backups and\n" +
			"their receipts stay as they are. The next backup of an instance reads the files again whose chunks were moved.",
		Example: "  holdfast prune --dry-run\n  holdfast prune --grace 0s --wait 10m\n  holdfast prune --sparse 50 --max-rewrite 50GiB",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(maxGarbage >= 0 && maxGarbage <= 100) { // also refuses NaN
				return &usageError{msg: fmt.Sprintf("--max-garbage: must be from 0 to 100, got %v", maxGarbage), command: cmd.CommandPath()}
			}
			if !(sparse >= 0 && sparse <= 90) {
				return &usageError{msg: fmt.Sprintf("--sparse: must be from 0 to 90, got %v", sparse), command: cmd.CommandPath()}
			}
			if wait.given && wait.span == 0 {
				wait.span = time.Nanosecond // one look
			}
			return a.withVault(cmd, v, "prune", func(ctx context.Context, at *vaultAt) error {
				s := a.session()
				return a.prune(ctx, at, vault.PruneOptions{
					Host: s.Host, Identity: s.Identity, Grace: grace.span, Wait: wait.span, DryRun: dryRun, MaxGarbage: maxGarbage,
					Sparse: sparse, MaxRewrite: maxRewrite.bytes, ProlongLocks: prolong, IndexDir: a.indexDir(), Warn: s.Warn, Waits: a.waitsFor,
				})
			})
		},
	}
	v.flags(cmd)
	v.limits.flags(cmd)
	v.limits.requestFlag(cmd)
	f := cmd.Flags()
	f.Var(&grace, "grace", "`SPAN` for which a forgotten backup can be brought back (0s, 36h, 7d)")
	f.Var(&wait, "wait", "`SPAN` after which to give up waiting for backups and readers; 0s does not wait at all")
	f.Float64Var(&maxGarbage, "max-garbage", 0, "`PERCENT` of all bytes that may be garbage: up to it no pack is deleted")
	f.Float64Var(&sparse, "sparse", 0, "`PERCENT` of a pack that backups need at most when its chunks are moved; 0 moves nothing")
	f.Var(&maxRewrite, "max-rewrite", "`SIZE` of moved chunks in this run, such as 50GiB; the sparsest packs go first (default: no bound)")
	f.BoolVar(&prolong, "prolong-locks", false, "prolong the lock of each pack that ends before the lock of a backup that needs it")
	f.BoolVar(&dryRun, "dry-run", false, "only say how much would be deleted; packs of backups under way count as garbage")
	return cmd
}

// sizeFlag is a flag for a number of bytes: 512MiB, 50GiB.
type sizeFlag struct{ bytes int64 }

// Type implements pflag.Value.
func (*sizeFlag) Type() string { return "SIZE" }

// String implements pflag.Value.
func (s *sizeFlag) String() string {
	if s.bytes == 0 {
		return ""
	}
	return config.Size(s.bytes).String()
}

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	n, err := config.ParseSize(text)
	if err == nil && n == 0 {
		err = errors.New("must be more than 0")
	}
	s.bytes = int64(n)
	return err
}

// session identifies this host and user in the sessions of this command.
func (a *app) session() vault.SessionOptions {
	host, err := os.Hostname()
	if err != nil {
		a.sideWarning(fmt.Sprintf("the name of this host is not known: %v", err))
	}
	return vault.SessionOptions{Host: host, Identity: a.identity(), Warn: func(err error) { a.sideWarning(err.Error()) }}
}

// waitsLine is a JSON line with the sessions that a prune waits for.
type waitsLine struct {
	Type     string              `json:"type"` // "waits"
	Sessions []vault.SessionInfo `json:"sessions"`
}

// waitsFor prints the sessions that a prune waits for.
func (a *app) waitsFor(sessions []vault.SessionInfo) {
	switch {
	case a.quiet:
	case a.json:
		_ = a.line(waitsLine{"waits", sessions}) // nobody reads the output any more
	default:
		for _, s := range sessions {
			a.beside("waits for: host %s, %s %s, begun %s", name(s.Host), s.Kind, dash(s.Instance), stamp(s.Begun))
		}
	}
}

// pruneLine is the progress of a prune, or at last its result, as a JSON line.
type pruneLine struct {
	Type   string `json:"type"` // "progress", at last "prune"
	DryRun bool   `json:"dry_run"`
	vault.PruneReport
}

func (a *app) prune(ctx context.Context, at *vaultAt, o vault.PruneOptions) error {
	var step string
	var told time.Time
	var mu sync.Mutex
	o.Progress = func(r vault.PruneReport) {
		mu.Lock()
		defer mu.Unlock()
		if a.quiet || r.Step == step && time.Since(told) < linePause {
			return
		}
		step, told = r.Step, time.Now()
		if a.json {
			_ = a.line(pruneLine{"progress", o.DryRun, r}) // as above
		}
	}
	r, err := expire.Prune(ctx, at.Vault, o)
	var waits *vault.WaitsError
	if err != nil && !errors.As(err, &waits) {
		return err
	}
	if perr := a.showPrune(r, o.DryRun); perr != nil {
		return perr
	}
	switch {
	case waits != nil:
		return &partError{waits.Error()}
	case len(r.Unlisted) > 0:
		return &hintedError{
			fmt.Errorf("%s that backups need are missing from the store, listed above", count(len(r.Unlisted), "pack", "packs")),
			"holdfast verify lists everything in the vault that is damaged",
		}
	case len(r.Refused) > 0:
		return &partError{fmt.Sprintf("the store refused to delete %s, listed above; the next prune tries again", count(len(r.Refused), "pack", "packs"))}
	}
	return nil
}

// showPrune prints the result of a prune.
func (a *app) showPrune(r vault.PruneReport, dryRun bool) error {
	if a.json {
		return a.line(pruneLine{"prune", dryRun, r})
	}
	for _, id := range slices.Sorted(maps.Keys(r.Kept)) {
		a.say("kept: %s, forgotten, is needed: %s", name(id), oneLine(r.Kept[id]))
	}
	for what, keys := range map[string][]string{"missing": r.Unlisted, "not deleted": r.Refused} {
		for _, key := range keys {
			fmt.Fprintf(a.stdout, "%s: %s\n", what, oneLine(key))
		}
	}
	share := ""
	if r.Bytes > 0 {
		share = fmt.Sprintf(" (%.0f %% of %s)", 100*float64(r.GarbageBytes)/float64(r.Bytes), size(r.Bytes))
	}
	found := fmt.Sprintf("garbage: %s, %s%s", count(r.Garbage, "pack", "packs"), size(r.GarbageBytes), share)
	if r.Sparse > 0 {
		found += fmt.Sprintf("; sparse: %s with %s that no backup needs", count(r.Sparse, "pack", "packs"), size(r.SparseBytes))
	}
	if dryRun {
		a.say("would delete %s; %s; nothing is changed", count(r.Forgotten, "forgotten backup", "forgotten backups"), found)
		return nil
	}
	var also string
	if r.Locked > 0 {
		also = "; " + count(r.Locked, "object is", "objects are") + " locked still"
	}
	a.say("deleted %s; %s; freed %s in %s%s", count(r.Forgotten, "forgotten backup", "forgotten backups"), found,
		size(r.DeletedBytes), count(r.Deleted, "pack", "packs"), strings.TrimSpace(also))
	if r.Sparse > 0 {
		a.say("rewrote %s into %s", count(r.Moved, "sparse pack", "sparse packs"), size(r.MovedBytes))
	}
	if r.Prolonged+r.Unprotected > 0 {
		a.say("prolonged the locks of %s; the store refused it for %d", count(r.Prolonged, "pack", "packs"), r.Unprotected)
	}
	return nil
}
