package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"holdfast/agent/model"
	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// Creation is the configuration of vaults that are made when a tenant has none.
type Creation struct {
	Auto                 bool // vault.auto_create
	Recipients           []string
	KeyFile, NameKeyFile string // for the command that an operator is told
}

// VaultOptions are the parts and settings of Vaults.
type VaultOptions struct {
	Log      *slog.Logger
	Store    obs.Store
	Keys     *Keys
	Creation Creation
	// Known is journal.Journal.KnownIn.
	Known func(vault string) (instance string, c model.Content, err error)
	// Look is called with each vault that was opened, before anything is done in it.
	Look func(context.Context, *vault.Vault) error
	// Fault is why no vault can be opened in this life, which recovers; nil when that can be tried.
	Fault error
}

// Vaults opens each tenant's vault when it is first needed and
// keeps it open. It is for any goroutine.
type Vaults struct {
	log      *slog.Logger
	store    obs.Store
	creation Creation
	// known is journal.Journal.KnownIn.
	known func(vault string) (instance string, c model.Content, err error)
	// look is called with each vault that was opened, before anything is done in it.
	look func(context.Context, *vault.Vault) error
	keys *Keys
	// fault is why no vault can be opened in this life, which recovers; nil when that can be tried.
	fault error

	mu   sync.Mutex
	open map[string]*openVault // by tenant
}

// NewVaults opens no vault yet.
func NewVaults(o VaultOptions) *Vaults {
	return &Vaults{
		log: o.Log, store: o.Store, creation: o.Creation, known: o.Known, look: o.Look, keys: o.Keys, fault: o.Fault, open: map[string]*openVault{},
	}
}

// openVault is one tenant's vault; the turn lets one job open it
// while others of the tenant wait, and jobs of other tenants do not.
type openVault struct {
	turn  chan struct{} // 1 token
	vault *vault.Vault  // nil: not open yet; guarded by turn
}

// forBackup gives the tenant's vault, which is made if that may be.
func (v *Vaults) forBackup(ctx context.Context, tenant string) (*vault.Vault, error) {
	return v.once(ctx, tenant, v.openOrCreate)
}

// Existing gives the tenant's vault; vault.ErrNoVault when there is none.
func (v *Vaults) Existing(ctx context.Context, tenant string) (*vault.Vault, error) {
	return v.once(ctx, tenant, func(ctx context.Context, tenant string) (*vault.Vault, error) {
		nameKey, identity, err := v.keys.get()
		if err != nil {
			return nil, err
		}
		return vault.Open(ctx, v.store, tenant, nameKey, identity)
	})
}

// OpenApart opens the tenant's vault once more, through st, for a caller whose requests keep to a
// pace of their own. The vault of the jobs is opened first, since that looks for copies of this
// host. The caller closes the vault.
func (v *Vaults) OpenApart(ctx context.Context, st obs.Store, tenant string) (*vault.Vault, error) {
	if _, err := v.Existing(ctx, tenant); err != nil {
		return nil, err
	}
	nameKey, identity, err := v.keys.get()
	if err != nil {
		return nil, err
	}
	return vault.Open(ctx, st, tenant, nameKey, identity)
}

// once opens the tenant's vault unless it is open.
func (v *Vaults) once(ctx context.Context, tenant string, open func(context.Context, string) (*vault.Vault, error)) (*vault.Vault, error) {
	if v.fault != nil {
		return nil, v.fault
	}
	v.mu.Lock()
	o := v.open[tenant]
	if o == nil {
		o = &openVault{turn: make(chan struct{}, 1)}
		o.turn <- struct{}{}
		v.open[tenant] = o
	}
	v.mu.Unlock()
	select {
	case <-o.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { o.turn <- struct{}{} }()
	if o.vault == nil {
		opened, err := open(ctx, tenant)
		if err != nil {
			return nil, err
		}
		// before anything is done in the vault, above all before sessions are taken for ended
		if err := v.look(ctx, opened); err != nil {
			return nil, err
		}
		o.vault = opened
	}
	return o.vault, nil
}

// drop makes the next job of the tenant open the vault again, after a panic of a job that
// used it: the shared parts of a vault's jobs may be locked for ever, or half changed.
// Jobs that use it now go on with it, and its memory goes with the last of them.
func (v *Vaults) drop(tenant string, used *vault.Vault) {
	v.mu.Lock()
	o := v.open[tenant]
	v.mu.Unlock()
	if o == nil {
		return
	}
	<-o.turn
	defer func() { o.turn <- struct{}{} }()
	if o.vault == used {
		o.vault = nil
	}
}

// openOrCreate makes a missing vault only where the configuration says so
// and the store can put conditionally: elsewhere two hosts could each make
// one for the same tenant, and nobody could read the loser's objects.
func (v *Vaults) openOrCreate(ctx context.Context, tenant string) (*vault.Vault, error) {
	store := v.store
	nameKey, identity, err := v.keys.get()
	if err != nil {
		return nil, err
	}
	opened, err := vault.Open(ctx, store, tenant, nameKey, identity)
	if !errors.Is(err, vault.ErrNoVault) {
		return opened, err
	}
	nameKeyFlag := ""
	if f := v.creation.NameKeyFile; f != "" {
		nameKeyFlag = " --name-key " + f
	}
	hint := fmt.Sprintf("make it with `holdfast vault create --store '%s' --vault %s --key %s%s --recipient age1…`",
		store, tenant, v.creation.KeyFile, nameKeyFlag)
	if !v.creation.Auto {
		return nil, fmt.Errorf("the tenant has no vault, and vault.auto_create is off; %s: %w", hint, err)
	}
	if kerr := v.notKnown(tenant, nameKey); kerr != nil {
		return nil, fmt.Errorf("the tenant has no vault, and none is made: %w; %s: %w", kerr, hint, err)
	}
	once, cerr := vault.CreatesOnce(ctx, store, tenant, nameKey)
	if cerr != nil {
		return nil, fmt.Errorf("the tenant has no vault, and whether the store takes a name once can't be found out; %s: %w", hint, cerr)
	}
	if !once {
		return nil, fmt.Errorf("the tenant has no vault, and on this store two hosts could make it at the same time; %s: %w", hint, err)
	}
	opened, err = vault.Create(ctx, store, tenant, nameKey, v.creation.Recipients, identity)
	if errors.Is(err, vault.ErrVaultExists) { // another host was faster
		return vault.Open(ctx, store, tenant, nameKey, identity)
	}
	if err == nil {
		v.log.Info("vault created", "vault", opened.Info().ID)
	}
	return opened, err
}

// Close closes the vaults. No backup runs any more.
func (v *Vaults) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range v.open {
		if o.vault != nil {
			o.vault.Close()
		}
	}
	v.open = map[string]*openVault{}
	return nil
}

// mended logs a part that a vault lacked and has again.
func (v *Vaults) mended(tenant string) func(error) {
	return func(err error) {
		v.log.Warn("a vault lacked something, and has it again", "tenant", tenant, keyReason, err.Error())
	}
}

// confirmed opens the tenant's vault and looks whether it can still be
// opened from the store. A vault that can't is opened anew by the next
// job: the vault in memory may be another than the vault in the store.
func (v *Vaults) confirmed(ctx context.Context, tenant string) (*vault.Vault, error) {
	opened, err := v.forBackup(ctx, tenant)
	if err != nil {
		return nil, err
	}
	err = opened.Confirm(ctx, v.mended(tenant))
	if errors.Is(err, vault.ErrCorrupt) {
		v.drop(tenant, opened)
	}
	return opened, err
}

// errKnown says that a vault is missing in which this host has made backups.
var errKnown = errors.New("this host has made backups in that vault, so the store lost it, or is another than it was")

// notKnown fails where the journal knows a backup in the tenant's vault. A new vault
// in the place of a lost vault would hide the loss, and a new vault in a store that
// is not mounted, or whose URL changed, would lie where nobody looks for it.
func (v *Vaults) notKnown(tenant string, nameKey []byte) error {
	id := vault.ID(tenant, nameKey)
	instance, known, err := v.known(id)
	if err != nil || instance == "" {
		return err
	}
	return fmt.Errorf("%w: backup %s of instance %s; see that the disk of the store is mounted, that store.url is right and that nothing removes objects there; "+
		"only where the new store is meant, make the vault by hand", errKnown, known.Backup, instance)
}

// opened returns the vaults that are open; fewer when ctx ends.
func (v *Vaults) opened(ctx context.Context) (all []*vault.Vault) {
	v.mu.Lock()
	open := slices.Collect(maps.Values(v.open))
	v.mu.Unlock()
	for _, o := range open {
		select {
		case <-o.turn:
		case <-ctx.Done():
			return all
		}
		if o.vault != nil {
			all = append(all, o.vault)
		}
		o.turn <- struct{}{}
	}
	return all
}
