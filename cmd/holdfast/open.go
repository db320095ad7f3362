package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// Names of environment variables; a flag goes before its variable.
const (
	envStore   = "HOLDFAST_STORE"
	envVault   = "HOLDFAST_VAULT"
	envKey     = "HOLDFAST_KEY"
	envNameKey = "HOLDFAST_NAME_KEY"
	envSocket  = "HOLDFAST_SOCKET"
)

// defaultVault is the vault's name where neither flag nor variable
// gives one: most operators who work without an agent have one.
const defaultVault = "default"

// access is the flags that say which vault, and with which key.
type access struct {
	store, vault, key, nameKey string
	// strict opens only a vault that the name key proves to be the
	// fleet's, for who stores something in it.
	strict bool
	limits limits
}

// flags adds the flags to a command.
func (v *access) flags(cmd *cobra.Command) {
	v.storeFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&v.vault, "vault", "", "`name` of the vault ("+envVault+"; \""+defaultVault+"\" if not given)")
	f.StringVar(&v.nameKey, "name-key", "",
		"`file` with the secret that object names are derived from, where the vault was made with one ("+envNameKey+")")
}

// storeFlags adds the flags of a command that works on all vaults of a store.
func (v *access) storeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&v.store, "store", "",
		"`URL` of the object storage: file:///path, s3://bucket/prefix?endpoint=https://host&region=r, obs://bucket/prefix?region=r ("+envStore+")")
	f.StringVar(&v.key, "key", "", "`file` with the age identity that opens the vault ("+envKey+")")
}

// vaultAt is an open vault and what messages say about it.
type vaultAt struct {
	*vault.Vault
	id    *vault.Identity // that opened it
	store obs.Store
	place string
}

// Close closes the vault and its store.
func (v *vaultAt) Close() error {
	v.Vault.Close()
	return v.store.Close()
}

// opened is what opening and creating have in common: everything but the vault itself.
type opened struct {
	store   obs.Store
	id      *vault.Identity
	nameKey []byte
	name    string
	place   string
}

// prepare reads the key files and opens the store; create makes the folder
// of a file store. Errors are *usageError, *configError or the store's.
func (a *app) prepare(ctx context.Context, cmd *cobra.Command, v access, create bool) (*opened, error) {
	url := a.value(v.store, envStore, "")
	if url == "" {
		return nil, &usageError{
			msg:     "no store given",
			command: cmd.CommandPath(),
			advice:  "give --store URL or set " + envStore,
		}
	}
	keyFile := a.value(v.key, envKey, "")
	if keyFile == "" {
		return nil, &usageError{
			msg:     "no key given",
			command: cmd.CommandPath(),
			advice:  "give --key FILE or set " + envKey + "; holdfast key new --out FILE makes one",
		}
	}
	o := &opened{name: a.value(v.vault, envVault, defaultVault)}
	var err error
	if o.id, err = vault.LoadIdentity(keyFile); err != nil {
		advice := ""
		if bad, ok := errors.AsType[*vault.KeyError](err); ok {
			advice = bad.Remedy
		}
		return nil, &configError{err: err, advice: advice}
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o007 != 0 && !a.json {
		fmt.Fprintf(a.stderr, "warning: the key %s is a secret, but its mode %04o gives it to everybody; chmod o= %[1]s\n",
			name(keyFile), info.Mode().Perm())
	}
	if file := a.value(v.nameKey, envNameKey, ""); file != "" {
		if o.nameKey, err = readNameKey(file); err != nil {
			return nil, &configError{err: err, advice: nameKeyAdvice(err)}
		}
	}
	if o.store, err = a.openStore(ctx, cmd, url, v.limits.limiter(), create); err != nil {
		return nil, err
	}
	o.place = fmt.Sprintf("vault %s (%s)", name(o.name), o.store)
	return o, nil
}

// openStore opens the store at a URL; create makes the folder of a file store.
func (a *app) openStore(ctx context.Context, cmd *cobra.Command, url string, limiter *obs.Limiter, create bool) (obs.Store, error) {
	retry := obs.DefaultRetry
	retry.OnRetry = a.retrying
	store, err := obs.Open(ctx, url, obs.Options{
		Getenv: a.getenv, Retry: &retry, Create: create, Retention: vault.Retention, Limiter: limiter,
		Warn: a.sideWarning, Observe: a.damagedOnWay,
	})
	if errors.Is(err, obs.ErrUsage) {
		return nil, &usageError{
			msg:     err.Error(),
			command: cmd.CommandPath(),
			advice:  "stores are file:///path, s3://bucket/prefix?endpoint=https://host&region=r, obs://bucket/prefix?region=r",
		}
	}
	return store, err
}

// withVault opens the vault, runs do on it and closes it. doing is
// the verb and the thing, for messages.
func (a *app) withVault(cmd *cobra.Command, v access, doing string, do func(context.Context, *vaultAt) error) error {
	ctx := cmd.Context()
	o, err := a.prepare(ctx, cmd, v, false)
	if err != nil {
		return &failure{doing: doing, err: err}
	}
	opened, err := a.openVault(ctx, o, v.strict)
	if err != nil {
		return &failure{doing: doing, place: o.place, err: errors.Join(err, o.store.Close())}
	}
	at := &vaultAt{Vault: opened, id: o.id, store: o.store, place: o.place}
	err = do(ctx, at)
	if cerr := at.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return &failure{doing: doing, place: o.place, err: err}
	}
	return nil
}

// openVault opens the vault, and looks for it in all of the store where the name alone does not
// lead to it and there is no name key: a recovery key and the bucket may be all that is left.
func (a *app) openVault(ctx context.Context, o *opened, strict bool) (*vault.Vault, error) {
	v, err := vault.Open(ctx, o.store, o.name, o.nameKey, o.id)
	if !errors.Is(err, vault.ErrNoVault) || len(o.nameKey) > 0 || strict {
		return v, err
	}
	if v, err = vault.Search(ctx, o.store, o.name, o.id); err == nil {
		a.say("found %s as %s; without --name-key nobody can tell whether it is the fleet's own", o.place, v.Info().ID)
	}
	return v, err
}

// value is a flag's value, else its variable's, else the default.
func (a *app) value(flag, variable, otherwise string) string {
	if flag != "" {
		return flag
	}
	if v := a.getenv(variable); v != "" {
		return v
	}
	return otherwise
}

// readNameKey reads the secret of object names: the file's bytes without white space at the ends.
func readNameKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("name key: %w", err)
	}
	defer f.Close()                                          // only read
	data, err := io.ReadAll(io.LimitReader(f, maxNameKey+1)) // a device has no end
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("name key: %s: %w", name(file), pe.Err)
	}
	if data = bytes.TrimSpace(data); len(data) == 0 || len(data) > maxNameKey {
		return nil, fmt.Errorf("name key: %s: %w", name(file), errNoNameKey)
	}
	return data, err
}

const maxNameKey = 1 << 20

var errNoNameKey = errors.New("is empty, or has more than 1 MiB")

// nameKeyAdvice says what to do about a name key that can't be read.
func nameKeyAdvice(err error) string {
	const what = "the file holds the secret with which the vault was made (--name-key, or store.name_key_file of the agent)"
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run as the owner of the file, or let its owner change who may read it (chmod, chown)"
	case errors.Is(err, syscall.EISDIR):
		return "name the file in that folder; " + what
	}
	return "check the path; " + what
}

// damagedOnWay warns of an object that came damaged over one connection and whole over another.
func (a *app) damagedOnWay(e obs.Event) {
	if errors.Is(e.Err, obs.ErrDamagedOnWay) && !a.json {
		fmt.Fprintf(a.stderr, "warning: %s: %v; %s\n", name(e.Key), e.Err, obs.Hint(e.Err))
	}
}
