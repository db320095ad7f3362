package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/internal/obs"
	"holdfast/internal/vault"
)

// located is a vault of which no key is at hand.
type located struct {
	store obs.Store
	id    string
	name  string // as it was given
	place string
}

// locate opens the store and finds the vault's id by its name, or by the id itself.
func (a *app) locate(cmd *cobra.Command, v access, doing string) (*located, error) {
	ctx := cmd.Context()
	url := a.value(v.store, envStore, "")
	if url == "" {
		return nil, &usageError{msg: "no store given", command: cmd.CommandPath(), advice: "give --store URL or set " + envStore}
	}
	var nameKey []byte
	if file := a.value(v.nameKey, envNameKey, ""); file != "" {
		var err error
		if nameKey, err = readNameKey(file); err != nil {
			return nil, &failure{doing: doing, err: &configError{err: err, advice: nameKeyAdvice(err)}}
		}
	}
	store, err := a.openStore(ctx, cmd, url, v.limits.limiter(), false)
	if err != nil {
		return nil, &failure{doing: doing, err: err}
	}
	l := &located{store: store, name: a.value(v.vault, envVault, defaultVault)}
	l.place = fmt.Sprintf("vault %s (%s)", name(l.name), store)
	if l.id, err = vault.Locate(ctx, store, l.name, nameKey); err != nil {
		return nil, &failure{doing: doing, place: l.place, err: errors.Join(err, store.Close())}
	}
	return l, nil
}
