package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"holdfast/internal/vault"
)

func (a *app) vaultCommand() *cobra.Command {
	return group("vault", "Make a vault, tell about vaults, change who opens one, mend its index, or erase one",
		a.vaultCreateCommand(), a.vaultInfoCommand(), a.vaultListCommand(), a.vaultRekeyCommand(), a.vaultSessionsCommand(),
		a.vaultRebuildIndexCommand(), a.vaultEraseCommand())
}

func (a *app) vaultCreateCommand() *cobra.Command {
	var v access
	var recipients []string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a vault for the key's recipient and others",
		Long: "create makes an empty vault: a random key, wrapped for the recipient of --key and for every\n" +
			"--recipient. Give the recipient of an offline recovery key too. Of a file store it makes the folder\n" +
			"and the marker too, as holdfast store init does, so mount the store's disk first.",
		Example: "  holdfast vault create --store file:///srv/backups --key host.key --recipient age1…",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			const doing = "vault create"
			for _, r := range recipients {
				if err := vault.ParseRecipient(r); err != nil {
					return &usageError{msg: "--" + err.Error(), command: cmd.CommandPath()}
				}
			}
			ctx := cmd.Context()
			o, err := a.prepare(ctx, cmd, v, true)
			if err != nil {
				return &failure{doing: doing, err: err}
			}
			made, err := vault.Create(ctx, o.store, o.name, o.nameKey, recipients, o.id)
			if err != nil {
				return &failure{doing: doing, place: o.place, err: errors.Join(err, o.store.Close())}
			}
			at := &vaultAt{Vault: made, id: o.id, store: o.store, place: o.place}
			if err := a.showVault(at.Info()); err != nil {
				return errors.Join(err, at.Close())
			}
			a.say("made %s", at.place)
			return at.Close()
		},
	}
	v.flags(cmd)
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil,
		"age `recipient` (age1…) that may open the vault too; repeat for several")
	return cmd
}

func (a *app) vaultInfoCommand() *cobra.Command {
	var v access
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Tell a vault's id, age and recipients",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withVault(cmd, v, "vault info", func(_ context.Context, at *vaultAt) error {
				return a.showVault(at.Info())
			})
		},
	}
	v.flags(cmd)
	return cmd
}
