package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent/report"
	"holdfast/internal/durable"
	"holdfast/internal/vault"
)

// eraseFlags are the flags of vault erase beside the flags that name the vault.
type eraseFlags struct {
	yes, signKey, statement string
	o                       vault.EraseOptions
}

func (a *app) vaultEraseCommand() *cobra.Command {
	var v access
	var f eraseFlags
	cmd := &cobra.Command{
		Use:   "erase",
		Short: "Remove a vault and all its backups from the store, for ever",
		Long: "erase removes a vault whose tenant leaves. The header goes first: from then on nobody can open the rest, except a party\n" +
			"that kept the vault's key or a copy of the header. Then sessions, manifests, index and packs go, and older versions of the\n" +
			"objects where the bucket keeps versions. Objects with a lock stay until the lock ends: erase again then.\n\n" +
			"erase asks for the vault's name (or --yes-erase), and refuses while a session of a backup or restore stands. With --key the\n" +
			"message names the hosts. After a kill give the vault's id as --vault; the id is printed at the beginning.\n\n" +
			"The statement lists all that was removed and all that is not proved; --sign-key signs the statement (DSSE, Ed25519, as receipts).\n" +
			"Catalogues and caches on the hosts of the tenant are not in the store: remove them there.",
		Example: "  holdfast vault erase --vault acme --sign-key signing.key --statement acme-erased.json",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.erase(cmd, v, f)
		},
	}
	v.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.yes, "yes-erase", "", "`NAME` or id of the vault once more, in place of the question")
	fl.BoolVar(&f.o.DespiteSessions, "despite-sessions", false, "erase although sessions stand; backups under way fail, and restores break off")
	fl.DurationVar(&f.o.Settle, "wait", time.Minute, "`TIME` between the two lists at the end, for uploads that were under way")
	fl.StringVar(&f.signKey, "sign-key", "", "`file` with the Ed25519 key (PKCS #8, PEM) that signs the statement, such as the host's signing key")
	fl.StringVar(&f.statement, "statement", "", "`file` that gets the statement; it must not exist")
	fl.BoolVar(&f.o.DryRun, "dry-run", false, "tell how much there is, and change nothing")
	return cmd
}

// erase checks all that can be checked beforehand, asks, and erases.
func (a *app) erase(cmd *cobra.Command, v access, f eraseFlags) error {
	const doing = "vault erase"
	if v.vault == "" { // no default, and no variable that somebody forgot
		return &usageError{msg: "missing --vault NAME", command: cmd.CommandPath()}
	}
	signer, err := f.check(cmd)
	if err != nil {
		return err
	}
	at, err := a.openForErasing(cmd, v, &f.o, doing)
	if err != nil {
		return err
	}
	err = a.confirmAndErase(cmd, at, f, signer)
	if f.o.Vault != nil {
		f.o.Vault.Close()
	}
	if cerr := at.store.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, vault.ErrInUse) {
		err = &hintedError{err, "stop the agents of this tenant and wait; holdfast vault sessions --forget HOST removes the sessions of a lost host; " +
			"--despite-sessions erases all the same"}
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		return usage
	}
	return &failure{doing: doing, place: at.place, err: err}
}

// check looks at the files of the command before anything is erased.
func (f *eraseFlags) check(cmd *cobra.Command) (*report.Signer, error) {
	if f.o.Settle < 0 {
		return nil, &usageError{msg: "--wait: must not be negative", command: cmd.CommandPath()}
	}
	if f.statement != "" {
		if _, err := os.Lstat(f.statement); err == nil {
			return nil, &configError{err: fmt.Errorf("%s exists already", name(f.statement)), advice: "name another file as --statement"}
		}
		if info, err := os.Stat(filepath.Dir(f.statement)); err != nil || !info.IsDir() {
			return nil, &configError{err: fmt.Errorf("%s: its folder is not there", name(f.statement)), advice: "make the folder, or name another file as --statement"}
		}
	}
	if f.signKey == "" {
		return nil, nil
	}
	signer, err := report.ReadSigner(f.signKey)
	if err != nil {
		advice := "give the host's signing key (signing_key of the agent)"
		if errors.Is(err, fs.ErrPermission) {
			advice = "run as the owner of the key"
		}
		return nil, &configError{err: err, advice: advice}
	}
	return signer, nil
}

// openForErasing finds the vault. The key is not needed,
// and where the header is gone already, it opens nothing.
func (a *app) openForErasing(cmd *cobra.Command, v access, o *vault.EraseOptions, doing string) (*located, error) {
	if a.value(v.key, envKey, "") == "" {
		found, err := a.locate(cmd, v, doing)
		if err == nil {
			o.ID = found.id
		}
		return found, err
	}
	ctx := cmd.Context()
	open, err := a.prepare(ctx, cmd, v, false)
	if err != nil {
		return nil, &failure{doing: doing, err: err}
	}
	at := &located{store: open.store, name: open.name, place: open.place}
	opened, err := a.openVault(ctx, open, false)
	switch {
	case err == nil:
		at.id, o.Vault = opened.Info().ID, opened
	case errors.Is(err, vault.ErrNoVault):
		at.id, err = vault.Locate(ctx, open.store, open.name, open.nameKey)
	}
	if err != nil {
		return nil, &failure{doing: doing, place: at.place, err: errors.Join(err, open.store.Close())}
	}
	o.ID = at.id
	return at, nil
}

func (a *app) confirmAndErase(cmd *cobra.Command, at *located, f eraseFlags, signer *report.Signer) error {
	ctx := cmd.Context()
	if !f.o.DryRun {
		if err := a.sure(cmd, at, f.yes); err != nil {
			return err
		}
		a.say("erasing %s, id %s; to go on after a kill: holdfast vault erase --vault %[2]s --yes-erase %[2]s", at.place, at.id)
	}
	p := a.newProgress("erase")
	f.o.Progress = func(done, found vault.ErasedCount) {
		p.expect(found.Bytes)
		p.set(progressLine{Bytes: done.Bytes, Entries: uint64(done.Objects)})
	}
	f.o.Warn = func(err error) { a.sideWarning(err.Error()) }
	e, err := vault.Erase(ctx, at.store, f.o)
	p.finish()
	if err != nil {
		return err
	}
	statement, err := a.erasureStatement(ctx, e, signer)
	if err != nil {
		return err
	}
	if f.statement != "" && !f.o.DryRun {
		if err := durable.Publish(f.statement, append(statement, '\n'), 0o644); err != nil {
			// The removed objects do not come back, so the statement goes where it can be read.
			fmt.Fprintf(a.stdout, "%s\n", statement)
			return fmt.Errorf("the vault is erased as the statement above says, but the statement can't be written to %s: %w", name(f.statement), err)
		}
	}
	if err := a.erased(at, e, statement, f); err != nil {
		return err
	}
	return verdictOfErasing(e, f.o.DryRun)
}

// sure asks for the name of the vault.
func (a *app) sure(cmd *cobra.Command, at *located, yes string) error {
	if yes == "" {
		if !a.inTerminal {
			return &usageError{
				msg: "nobody can be asked here for the name of the vault", command: cmd.CommandPath(),
				advice: "give --yes-erase with the name, or the id, of the vault",
			}
		}
		fmt.Fprintf(a.stderr, "All backups of %s (id %s) will be removed for ever.\nType the vault's name to erase it: ", at.place, at.id)
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if err != nil && line == "" {
			return fmt.Errorf("read the answer: %w", err)
		}
		yes = strings.TrimSpace(line)
	}
	if yes != at.name && yes != at.id {
		return &usageError{
			msg: fmt.Sprintf("%s is not the name of %s, so nothing was erased", name(yes), at.place), command: cmd.CommandPath(),
			advice: "give the name as it is in --vault, or the id",
		}
	}
	return nil
}

// erasureStatement is the statement in JSON, as an envelope where there is a key to sign it with.
func (a *app) erasureStatement(ctx context.Context, e vault.Erasure, signer *report.Signer) (json.RawMessage, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this host: %w", err)
	}
	if e.Headers == nil {
		e.Headers = []vault.ErasedHeader{} // so that it is a list in JSON too
	}
	s := report.ErasureStatement{Version: report.ErasureVersion, Host: host, Agent: build().Version, Erasure: e, NotProved: report.NotProved()}
	if signer != nil {
		return signer.SignErasure(ctx, s)
	}
	return json.Marshal(s)
}

// erased prints the result of an erasing.
func (a *app) erased(at *located, e vault.Erasure, statement json.RawMessage, f eraseFlags) error {
	if a.json {
		return a.document(statement)
	}
	if f.o.DryRun {
		_, err := fmt.Fprintf(a.stdout, "%s (id %s) has %s of %s\n", at.place, at.id, count(e.Found.Objects, "object", "objects"), size(e.Found.Bytes))
		a.say("nothing was changed")
		return err
	}
	rows := [][]string{{"REMOVED", "OBJECTS", "BYTES"}}
	for _, kind := range slices.Sorted(maps.Keys(e.Removed)) {
		rows = append(rows, []string{kind, fmt.Sprint(e.Removed[kind].Objects), size(e.Removed[kind].Bytes)})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, h := range e.Headers {
		fmt.Fprintf(a.stdout, "header      %s, SHA-256 %s\n", oneLine(h.Object), oneLine(h.SHA256))
	}
	for _, s := range report.NotProved() {
		fmt.Fprintf(a.stdout, "not proved  %s\n", s)
	}
	if f.statement == "" {
		a.say("--statement FILE or --json gives this as a document; --sign-key signs it")
	}
	if e.Complete {
		a.say("erased %s", at.place)
	}
	return nil
}

// verdictOfErasing is nil when nothing of the vault is left.
func verdictOfErasing(e vault.Erasure, dryRun bool) error {
	if e.Complete || dryRun {
		return nil
	}
	var left []string
	if e.Kept.Objects > 0 {
		text := fmt.Sprintf("the store keeps %s of %s", count(e.Kept.Objects, "object", "objects"), size(e.Kept.Bytes))
		if !e.KeptUntil.IsZero() {
			text += ", locked until " + stamp(e.KeptUntil) + " at the latest: erase again then"
		} else {
			text += ": " + e.KeptReason
		}
		left = append(left, text)
	}
	if e.Versions == vault.VersionsUnknown {
		left = append(left, "older versions of the objects, also of the header, may be left ("+e.VersionsReason+
			"): let the bucket's lifecycle remove noncurrent versions, or give keys that may list and delete versions, and erase again")
	}
	if !e.HeadersGone && e.Versions != vault.VersionsUnknown {
		left = append(left, "a locked version of the header is left, which opens the vault")
	}
	return &partError{"all that could be removed is removed, but " + strings.Join(left, "; ")}
}
